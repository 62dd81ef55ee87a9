"""The SROS2 policy names what the running node has, no more and no less; models cannot run code."""

from __future__ import annotations

import ast
import importlib.util
import os
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="needs onnx")
from tests.ros.node_bench import ACTIVATE, DEACTIVATE, NodeBench
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until

# Only Iron and later have it.
NEWER_SERVICES = {"~/get_type_description"} if os.environ.get("ROS_DISTRO") == "humble" else set()


def policy(repository) -> dict[str, set[str]]:
    """The names that the file allows: subscribe, publish, reply."""
    profile = ElementTree.parse(repository / "config" / "kdc_policy.xml").getroot().find(".//profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", "kdc")
    allowed: dict[str, set[str]] = {}
    for rules in profile:
        [(verb, permission)] = rules.attrib.items()
        assert permission == "ALLOW"
        names = [element.text for element in rules]
        assert len(set(names)) == len(names)
        allowed[verb] = set(names)
    return allowed


def relative(bench: NodeBench, names_and_types) -> set[str]:
    """Names as the policy has them: ~/ for the node's own, without the namespace, or absolute."""
    node, namespace = f"{bench.namespace}/kdc/", f"{bench.namespace}/"
    return {name.replace(node, "~/", 1).removeprefix(namespace) for name, _ in names_and_types}


def seen(bench: NodeBench) -> dict[str, set[str]]:
    """What the graph says of the node."""
    where = ("kdc", bench.namespace)
    client = bench.client
    assert client.get_client_names_and_types_by_node(*where) == []
    return {
        "subscribe": relative(bench, client.get_subscriber_names_and_types_by_node(*where)),
        "publish": relative(bench, client.get_publisher_names_and_types_by_node(*where)),
        "reply": relative(bench, client.get_service_names_and_types_by_node(*where)),
    }


def test_the_policy_is_what_the_node_has(make_bench, canned_model, repository):
    allowed = policy(repository)
    if importlib.util.find_spec("tf2_msgs") is None:
        allowed["publish"].remove("/tf")
    allowed["reply"] -= NEWER_SERVICES
    bench = make_bench(model=str(canned_model), use_depth=True, use_sim_time=True)
    bench.wait_for_state("active")
    raw = allowed | {"subscribe": allowed["subscribe"] - {"image/compressed"}}
    assert wait_until(lambda: seen(bench) == raw, EXCHANGE_TIMEOUT_S), (seen(bench), raw)
    assert bench.change(DEACTIVATE)
    assert bench.set_parameter("image_transport", "compressed").successful
    assert bench.change(ACTIVATE)
    packed = allowed | {"subscribe": allowed["subscribe"] - {"image"}}
    assert wait_until(lambda: seen(bench) == packed, EXCHANGE_TIMEOUT_S), (seen(bench), packed)


def test_the_runtime_has_no_way_to_run_code_from_a_file(repository):
    forbidden_calls = {"eval", "exec", "compile", "__import__"}
    forbidden_modules = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib"}
    for package in ("kdc_core", "kdc_ros", "kdc_cli"):
        for path in (repository / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                assert not {name.split(".")[0] for name in names} & forbidden_modules, f"{path}:{node.lineno}"
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in forbidden_calls, f"{path}:{node.lineno}"
                if isinstance(node, ast.keyword):
                    allowed = not (node.arg in ("allow_pickle", "shell") and getattr(node.value, "value", False))
                    assert allowed, f"{path}:{node.value.lineno}"
