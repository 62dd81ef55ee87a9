"""The launch files, where launch is installed (on PyPI it is not), and the views beside them."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml


@pytest.fixture(scope="module")
def launch():
    """ROS's launch."""
    module = pytest.importorskip("launch", reason="needs ROS 2's launch")
    pytest.importorskip("launch_ros", reason="needs ROS 2's launch_ros")
    if not hasattr(module, "LaunchDescription"):
        pytest.skip("needs ROS 2's launch")  # a folder of that name was found instead
    return module


@pytest.fixture
def load(launch, repository):
    """Loads a launch file as a module, and hands out its description's arguments by name with it."""

    def load_file(name):
        spec = importlib.util.spec_from_file_location(name, repository / "launch" / f"{name}.launch.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        description = module.generate_launch_description()
        arguments = {argument.name: argument for argument in description.get_launch_arguments()}
        assert all(argument.description for argument in arguments.values())
        return module, description, arguments

    return load_file


@pytest.fixture
def context(launch, repository):
    """A launch context in which the arguments have their defaults, but for those given."""

    def make(arguments, **given):
        context = launch.LaunchContext()
        for name, argument in arguments.items():
            if name == "params_file":  # needs the installed package
                context.launch_configurations[name] = str(repository / "config" / "kdc.yaml")
            else:
                context.launch_configurations[name] = "".join(s.perform(context) for s in argument.default_value)
        context.launch_configurations.update(given)
        return context

    return make


def parameters_of(node, context):
    """The parameters that a node action gets from dictionaries, evaluated, and how many files beside them."""
    from launch_ros.utilities import evaluate_parameters

    evaluated = evaluate_parameters(context, node._Node__parameters)
    values = {}
    for source in evaluated:
        if isinstance(source, dict):
            values |= source
    return values, sum(not isinstance(source, dict) for source in evaluated)


def remappings_of(node, context):
    """Topic names of a node action: from -> to."""
    join = lambda parts: "".join(part.perform(context) for part in parts)  # noqa: E731
    return {join(a): join(b) for a, b in node._Node__remappings}


def test_one_node(load, context):
    module, description, arguments = load("kdc")
    assert set(arguments) == {name for name, *_ in module.ARGUMENTS} | {"params_file"}
    assert {"image", "camera_info", "depth", "use_depth", "namespace", "name", "model", "hri"} <= set(arguments)

    plain = context(arguments)
    [node] = module._node(plain)
    assert node.node_package == "kdc"
    assert parameters_of(node, plain) == ({}, 1)
    assert remappings_of(node, plain) == {"image": "image", "camera_info": "camera_info", "depth": "depth"}
    given = context(arguments, model="mine.onnx", use_depth="true", image="/cam/image")
    [node] = module._node(given)
    assert parameters_of(node, given) == ({"model": "mine.onnx", "use_depth": True}, 1)
    assert remappings_of(node, given)["image"] == "/cam/image"
    with pytest.raises(RuntimeError, match="use_depth"):
        module._node(context(arguments, use_depth="maybe"))

    bridges = [action for action in description.entities if type(action).__name__ == "Node"]
    for wanted in ("hri", "vision"):
        switched = context(arguments, **{wanted: "true"})
        started = [node for node in bridges if node.condition.evaluate(switched)]
        assert [remappings_of(node, switched)["kdc/poses"] for node in started] == ["kdc/poses"]
        assert [parameters_of(node, switched) for node in started] == [({}, 1)]  # body_prefix is the node's
        assert not any(node.condition.evaluate(plain) for node in bridges)


def test_several_cameras(load, context, tmp_path):
    module, _, arguments = load("multi_camera")
    listed = context(arguments, cameras="front, rear/left", camera_info="/info")
    nodes = module._nodes(listed)
    assert len(nodes) == 2
    names = [node._Node__node_namespace for node in nodes]
    assert names == ["front", "rear/left"]
    prefixes = [parameters_of(node, listed)[0]["body_prefix"] for node in nodes]
    assert prefixes == ["front_p", "rear_left_p"]
    assert remappings_of(nodes[0], listed) == {"image": "image_raw", "camera_info": "/info", "depth": "depth"}

    path = tmp_path / "cameras.yaml"
    path.write_text("front: {image: /f/image, parameters: {use_depth: true, body_prefix: f}}\nrear:\n")
    filed = context(arguments, cameras_file=str(path), model="mine.onnx")
    front, rear = module._nodes(filed)
    assert remappings_of(front, filed)["image"] == "/f/image"
    assert parameters_of(front, filed)[0] == {"use_depth": True, "body_prefix": "f", "model": "mine.onnx"}
    assert parameters_of(rear, filed)[0] == {"body_prefix": "rear_p", "model": "mine.onnx"}


@pytest.mark.parametrize(
    ("cameras", "content", "said"),
    [
        ("", None, "no cameras"),
        ("front,9", None, "'9' is no namespace"),
        ("a b", None, "no namespace"),
        ("", "front: {pictures: /x}", "may have image"),
        ("", "front: 3", "may have image"),
        ("", "[front", "cannot be read"),
        ("", "- front", "cannot be read"),
        ("front", "missing", "cannot be read"),
        ("", "front: [a]", "may have image"),
        ("", "front: {parameters: [a]}", "parameters must be names"),
        ("", "front: {image: 5}", "image must be a topic"),
        ("a/b,a_b", None, "'a/b' and 'a_b'"),
        ("front,/front", None, "'front' and '/front'"),
        ("a/b", "a_b: {parameters: {body_prefix: a_b_p}}", "same names in TF"),
    ],
)
def test_nonsense_about_cameras_is_told_in_one_line(load, context, tmp_path, cameras, content, said):
    module, _, arguments = load("multi_camera")
    path = tmp_path / "cameras.yaml"
    if content is not None and content != "missing":
        path.write_text(content)
    given = context(arguments, cameras=cameras, cameras_file=str(path) if content else "")
    with pytest.raises(RuntimeError, match=said) as error:
        module._nodes(given)
    assert "\n" not in str(error.value)


def test_the_demo(load, context):
    _, description, arguments = load("demo")
    quiet = context(arguments, input="12.mp4")
    nodes = {
        action.node_executable: action for action in description.entities if type(action).__name__ == "Node"
    }
    assert set(nodes) == {"kdc_demo_camera", "kdc_node", "static_transform_publisher", "rviz2"}
    values, _ = parameters_of(nodes["kdc_demo_camera"], quiet)
    assert values == {"input": "12.mp4", "loop": True, "rate_hz": 0.0}
    camera, node = (remappings_of(nodes[name], quiet) for name in ("kdc_demo_camera", "kdc_node"))
    assert camera == node
    assert not nodes["rviz2"].condition.evaluate(quiet)
    assert nodes["rviz2"].condition.evaluate(context(arguments, rviz="true"))


LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, *arguments = sys.argv[1:]
included = IncludeLaunchDescription(
    PythonLaunchDescriptionSource(path), launch_arguments=[a.split(":=", 1) for a in arguments]
)
service = LaunchService(argv=[], noninteractive=True)
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""


def test_the_demo_runs(launch, ros, repository, canned_model, tmp_path):
    """Camera and node for real: a picture goes in, a person comes out, and both end when they are told to."""
    import rclpy
    from kdc.msg import PersonPose, PoseArray

    from tests.ros.processes import START_TIMEOUT_S, wait_until

    cv2.imwrite(str(tmp_path / "picture.png"), np.full((240, 320, 3), 200, np.uint8))
    (tmp_path / "kdc.yaml").write_text(yaml.safe_dump({"/**": {"ros__parameters": {"model": str(canned_model)}}}))
    arguments = [f"input:={tmp_path / 'picture.png'}", f"params_file:={tmp_path / 'kdc.yaml'}"]
    command = [sys.executable, "-c", LAUNCH, str(repository / "launch" / "demo.launch.py"), *arguments]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path)
    node = rclpy.create_node("launch_watcher")
    heard: list[PoseArray] = []
    node.create_subscription(PoseArray, "/kdc/poses", heard.append, 10)
    try:

        def seen() -> bool:
            rclpy.spin_once(node, timeout_sec=0.05)
            return any(message.people for message in heard)

        assert wait_until(seen, START_TIMEOUT_S), log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(START_TIMEOUT_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        node.destroy_node()
    person = next(message.people[0] for message in heard if message.people)
    assert person.position_source in (PersonPose.POSITION_ESTIMATED, PersonPose.POSITION_NONE)
    assert log.read_text().count("process has finished cleanly") == 2


def test_the_views_show_topics_that_exist(repository):
    published = set(re.findall(r'"~/([a-z_/]+)"', (repository / "kdc_ros" / "outputs.py").read_text()))
    rviz = yaml.safe_load((repository / "config" / "kdc.rviz").read_text())
    displays = rviz["Visualization Manager"]["Displays"]
    topics = [display["Topic"]["Value"] for display in displays if "Topic" in display]
    assert {topic.removeprefix("/kdc/") for topic in topics} <= published
    assert all(display["Class"].startswith("rviz_default_plugins/") for display in displays)

    layout = json.loads((repository / "config" / "foxglove_layout.json").read_text())
    topics = set(re.findall(r"/kdc/([a-z_/]+)", json.dumps(layout)))
    assert topics <= published
    panels = set(layout["configById"])

    def shown(node):
        return {node} if isinstance(node, str) else shown(node["first"]) | shown(node["second"])

    assert shown(layout["layout"]) == panels
