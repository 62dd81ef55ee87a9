"""The launch file, where launch is installed (on PyPI it is not)."""

from __future__ import annotations

import importlib.util

import pytest


def test_the_launch_file_describes_its_arguments(repository):
    launch = pytest.importorskip("launch", reason="needs ROS 2's launch")
    pytest.importorskip("launch_ros", reason="needs ROS 2's launch_ros")
    if not hasattr(launch, "LaunchDescription"):
        pytest.skip("needs ROS 2's launch")  # a folder of that name was found instead
    spec = importlib.util.spec_from_file_location("kdc_launch", repository / "launch" / "kdc.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    assert {"image", "camera_info", "namespace", "name", "model", "params_file", "log_level"} == set(
        arguments
    )
    assert all(argument.description for argument in arguments.values())

    context = launch.LaunchContext()
    defaults = dict.fromkeys(arguments, "") | {"params_file": str(repository / "config" / "kdc.yaml")}
    for model, parameter_sources in (("", 1), ("mine.onnx", 2)):
        context.launch_configurations.update(defaults | {"model": model})
        [node] = module._node(context)
        assert node.node_package == "kdc"
        assert len(node._Node__parameters) == parameter_sources
