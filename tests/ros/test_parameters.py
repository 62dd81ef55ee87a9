"""The parameters on a real node: defaults, the file that explains them, what is refused and why."""

from __future__ import annotations

import ast
from dataclasses import asdict

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")
from rclpy.node import Node
from rclpy.parameter import Parameter

from kdc_core.pipeline import PipelineOptions
from kdc_ros.parameters import (
    ACTIVE,
    LOADED,
    NodeParameters,
    Settings,
    SettingsError,
    model_path,
    pipeline_options,
)


@pytest.fixture
def make_node(ros):
    """Makes nodes with parameter overrides, and destroys them."""
    nodes: list[Node] = []

    def make(**overrides) -> Node:
        values = [Parameter(name, value=value) for name, value in overrides.items()]
        nodes.append(Node("parameter_test", parameter_overrides=values))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


def set_parameter(node: Node, name: str, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_defaults_are_the_pipelines(make_node):
    settings = NodeParameters(make_node()).current()
    assert settings == Settings()
    assert pipeline_options(settings) == PipelineOptions(appearance=True)


def test_the_parameter_file_holds_every_default(repository):
    text = (repository / "config" / "kdc.yaml").read_text()
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert values == asdict(Settings())
    assert {name: type(value) for name, value in values.items()} == {
        name: type(value) for name, value in asdict(Settings()).items()
    }


def test_every_parameter_is_described(make_node):
    node = make_node()
    NodeParameters(node)
    for name in asdict(Settings()):
        descriptor = node.describe_parameter(name)
        assert descriptor.description
        if isinstance(getattr(Settings(), name), float):
            assert descriptor.floating_point_range
        elif type(getattr(Settings(), name)) is int:
            assert descriptor.integer_range


def test_live_changes(make_node):
    node = make_node()
    parameters = NodeParameters(node)
    assert set_parameter(node, "person_threshold", 0.5).successful
    assert set_parameter(node, "masks", False).successful
    assert parameters.current().person_threshold == 0.5
    assert parameters.current().masks is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("person_threshold", 1.5),
        ("person_threshold", -0.1),
        ("person_threshold", 1.0000005),  # rclpy's own check would take it
        ("person_threshold", float("nan")),
        ("no_frame_timeout_s", float("inf")),
        ("person_threshold", "high"),
        ("max_people", 0),
        ("masks", 3),
        ("model", "other.onnx"),
        ("backend", "onnxruntime"),
        ("threads", 2),
        ("image_transport", "compressed"),
        ("image_transport", "theora"),
        ("use_depth", True),
        ("sync_slop_s", 0.0),
        ("max_rate_hz", -1.0),
        ("max_image_megapixels", 0),
        ("autostart", False),
    ],
)
def test_refused_changes(make_node, name, value):
    node = make_node()
    parameters = NodeParameters(node, in_phase=lambda _: True)
    result = set_parameter(node, name, value)
    assert not result.successful
    assert result.reason
    assert parameters.current() == Settings()


def test_what_is_fixed_depends_on_the_phase(make_node):
    node = make_node()
    phases = {LOADED, ACTIVE}
    parameters = NodeParameters(node, phases.__contains__)
    for name, value in (("long_side", 320), ("image_transport", "compressed")):
        assert "deactivate" in set_parameter(node, name, value).reason
        assert set_parameter(node, name, getattr(Settings(), name)).successful  # as it is
    phases.remove(ACTIVE)
    assert set_parameter(node, "image_transport", "compressed").successful
    assert not set_parameter(node, "long_side", 320).successful
    phases.remove(LOADED)
    assert set_parameter(node, "long_side", 320).successful
    assert parameters.current().long_side == 320


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("person_threshold", 2.0),
        ("max_people", "many"),
        ("keypoint_threshold", float("nan")),
        ("image_reliability", "often"),
        ("threads", -1),
    ],
)
def test_bad_initial_values(make_node, name, value):
    with pytest.raises(SettingsError, match=name):
        NodeParameters(make_node(**{name: value}))


def test_model_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_path(Settings(model="~/mine.onnx")) == tmp_path / "mine.onnx"
    other = tmp_path / "other.onnx"
    other.touch()
    monkeypatch.setenv("KDC_MODEL", str(other))
    assert model_path(Settings()) == other


def test_launch_file_is_valid_python(repository):
    path = repository / "launch" / "kdc.launch.py"
    tree = ast.parse(path.read_text())
    assert "generate_launch_description" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
