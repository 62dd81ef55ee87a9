"""Start the KDC node, and where they are asked for the bridges to other packages' messages.

ros2 launch kdc kdc.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
ros2 launch kdc kdc.launch.py image:=/camera/color/image_raw depth:=/camera/aligned_depth/image_raw use_depth:=true
ros2 launch kdc kdc.launch.py --show-args
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ("image", "image", "topic of the camera's images (sensor_msgs/Image)"),
    ("camera_info", "camera_info", "topic of its calibration (sensor_msgs/CameraInfo), for places in space"),
    ("depth", "depth", "topic of the depth images registered to the images (16UC1 mm, 32FC1 m)"),
    ("use_depth", "", "true or false: whether depth images are used; empty = what params_file says"),
    ("namespace", "", "namespace of the node, such as the robot's or the camera's name"),
    ("name", "kdc", "name of the node; its topics are below it: /kdc/poses, ..."),
    ("model", "", "ONNX file of the network; empty = what params_file says"),
    ("hri", "false", "whether people are published as REP-155 bodies, too (needs hri_msgs)"),
    ("vision", "false", "whether people are published as vision_msgs/Detection2DArray, too (needs vision_msgs)"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
)


def generate_launch_description() -> LaunchDescription:
    """The node with its arguments."""
    default_params = PathJoinSubstitution([FindPackageShare("kdc"), "config", "kdc.yaml"])
    arguments = (*ARGUMENTS, ("params_file", default_params, "YAML file with the node's parameters"))
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in arguments
    ]
    bridges = [_bridge(argument) for argument in ("hri", "vision")]
    return LaunchDescription([*declared, OpaqueFunction(function=_node), *bridges])


def _node(context: LaunchContext) -> list[Node]:
    """The node; what is given on the command line goes before the parameter file's, left out it does not."""
    parameters: list = [LaunchConfiguration("params_file")]
    if model := LaunchConfiguration("model").perform(context):
        parameters.append({"model": model})
    if use_depth := LaunchConfiguration("use_depth").perform(context):
        if use_depth not in ("true", "false"):
            raise RuntimeError(f"use_depth must be true or false, got '{use_depth}'")
        parameters.append({"use_depth": use_depth == "true"})
    return [
        Node(
            package="kdc",
            executable="kdc_node",
            name=LaunchConfiguration("name"),
            namespace=LaunchConfiguration("namespace"),
            parameters=parameters,
            remappings=[(topic, LaunchConfiguration(topic)) for topic in ("image", "camera_info", "depth")],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]


def _bridge(argument: str) -> Node:
    """A bridge beside the node, when the argument of that name is true."""
    return Node(
        package="kdc",
        executable=f"kdc_{argument}_bridge",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params_file")],  # of which it takes body_prefix, use_sim_time
        remappings=[
            ("image", LaunchConfiguration("image")),
            ("kdc/poses", [LaunchConfiguration("name"), "/poses"]),
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
        condition=IfCondition(LaunchConfiguration(argument)),
    )
