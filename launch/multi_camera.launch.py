"""Start one KDC node for each of several cameras, each in its camera's namespace.

ros2 launch kdc multi_camera.launch.py cameras:=front,rear
ros2 launch kdc multi_camera.launch.py cameras_file:=cameras.yaml
ros2 launch kdc multi_camera.launch.py --show-args

With a list, camera "front" has the topics /front/image_raw and /front/camera_info (arguments `image`, `camera_info`,
`depth`), and its people are on /front/kdc/poses. With a file, each camera may have its own:

  front:                                   # the namespace
    image: /front/color/image_raw          # topics; each may be left out
    camera_info: /front/color/camera_info
    depth: /front/aligned_depth/image_raw
    parameters:                            # of the node, as in config/kdc.yaml
      use_depth: true
  rear: {}
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

TOPICS = ("image", "camera_info", "depth")
ARGUMENTS = (
    ("cameras", "", "namespaces of the cameras, with commas between; or give cameras_file"),
    ("cameras_file", "", "YAML file with the cameras, their topics and parameters (see this file's head)"),
    ("image", "image_raw", "topic of the images, below each camera's namespace unless it begins with /"),
    ("camera_info", "camera_info", "topic of the calibrations (sensor_msgs/CameraInfo), likewise"),
    ("depth", "depth", "topic of the depth images, likewise; used with the parameter use_depth"),
    ("name", "kdc", "name of the nodes; their topics are below it: /front/kdc/poses, ..."),
    ("model", "", "ONNX file of the network; empty = what params_file says"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
)
_NAMESPACE = re.compile(r"/?[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")


def generate_launch_description() -> LaunchDescription:
    """A node for each camera, and the arguments."""
    default_params = PathJoinSubstitution([FindPackageShare("kdc"), "config", "kdc.yaml"])
    arguments = (*ARGUMENTS, ("params_file", default_params, "YAML file with the parameters of all nodes"))
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[Node]:
    values = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    return [_node(namespace, camera, values) for namespace, camera in read_cameras(values).items()]


def read_cameras(values: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The cameras by namespace: topics and parameters of each. Raises RuntimeError with one line for nonsense."""
    cameras: Any = {name.strip(): {} for name in values["cameras"].split(",") if name.strip()}
    if path := values["cameras_file"]:
        try:
            with open(path, encoding="utf-8") as file:
                cameras = cameras | (yaml.safe_load(file) or {})
        except (OSError, yaml.YAMLError, TypeError) as error:
            raise RuntimeError(f"cameras_file {path} cannot be read: {' '.join(str(error).split())}") from error
    if not cameras:
        raise RuntimeError("no cameras: give cameras:=front,rear or cameras_file:=cameras.yaml")
    prefixes: dict[str, str] = {}
    for namespace, camera in cameras.items():
        if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
            raise RuntimeError(f"'{namespace}' is no namespace for a camera")
        camera = {} if camera is None else camera
        if not isinstance(camera, dict) or not set(camera) <= {*TOPICS, "parameters"}:
            raise RuntimeError(f"camera '{namespace}' may have {', '.join(TOPICS)} and parameters, got {camera}")
        for topic in TOPICS:
            if not isinstance(camera.get(topic) or "", str):
                raise RuntimeError(f"camera '{namespace}': {topic} must be a topic's name, got {camera[topic]}")
        if not isinstance(camera.get("parameters") or {}, dict):
            raise RuntimeError(f"camera '{namespace}': parameters must be names with values, got {camera}")
        parameters = _parameters(namespace, camera)
        if parameters.get("body_frames") is False:  # sends nothing to TF
            continue
        other = prefixes.setdefault(str(parameters["body_prefix"]), namespace)
        if other != namespace:
            raise RuntimeError(f"cameras '{other}' and '{namespace}': their people would have the same names in TF")
    return {namespace: camera or {} for namespace, camera in cameras.items()}


def _parameters(namespace: str, camera: dict[str, Any]) -> dict[str, Any]:
    """A camera's own parameters. Its people's frames carry its name, so that two nodes' do not meet in TF."""
    return {"body_prefix": re.sub(r"\W", "_", namespace.strip("/")) + "_p"} | (camera.get("parameters") or {})


def _node(namespace: str, camera: dict[str, Any], values: dict[str, str]) -> Node:
    """The node of one camera."""
    model = {"model": values["model"]} if values["model"] else {}
    return Node(
        package="kdc",
        executable="kdc_node",
        name=values["name"],
        namespace=namespace,
        parameters=[LaunchConfiguration("params_file"), model | _parameters(namespace, camera)],
        remappings=[(topic, camera.get(topic) or values[topic]) for topic in TOPICS],
        ros_arguments=["--log-level", values["log_level"]],
        output="screen",
    )
