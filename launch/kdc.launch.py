"""Start the KDC node.

ros2 launch kdc kdc.launch.py image:=/camera/image_raw
ros2 launch kdc kdc.launch.py --show-args
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ("image", "image", "topic of the camera's images (sensor_msgs/Image)"),
    ("camera_info", "camera_info", "topic of its calibration (sensor_msgs/CameraInfo), for the markers"),
    ("namespace", "", "namespace of the node, such as the robot's or the camera's name"),
    ("name", "kdc", "name of the node; its topics are below it: /kdc/poses, ..."),
    ("model", "", "ONNX file of the network; empty = what params_file says"),
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
    return LaunchDescription([*declared, OpaqueFunction(function=_node)])


def _node(context: LaunchContext) -> list[Node]:
    """The node; `model` given on the command line goes before the parameter file's, left out it does not."""
    parameters: list = [LaunchConfiguration("params_file")]
    if model := LaunchConfiguration("model").perform(context):
        parameters.append({"model": model})
    return [
        Node(
            package="kdc",
            executable="kdc_node",
            name=LaunchConfiguration("name"),
            namespace=LaunchConfiguration("namespace"),
            parameters=parameters,
            remappings=[
                ("image", LaunchConfiguration("image")),
                ("camera_info", LaunchConfiguration("camera_info")),
            ],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]
