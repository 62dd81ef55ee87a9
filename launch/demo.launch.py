"""Play a clip as a camera to the KDC node, over and over.

ros2 launch kdc demo.launch.py                          the built-in moving scene (needs scikit-image and matplotlib)
ros2 launch kdc demo.launch.py input:=holiday.mp4       a video, a picture, several, or a folder
ros2 launch kdc demo.launch.py rviz:=true               with RViz
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ("input", "", "a picture, several, a folder or a video; empty = the built-in moving scene"),
    ("loop", "true", "whether the clip starts again at its end"),
    ("rate_hz", "0.0", "frames in a second; 0.0 = the clip's own rate"),
    ("rviz", "false", "whether RViz is started with config/kdc.rviz"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
)
# What Fast DDS calls it depends on the distribution; both at once is an error.
_OLDER = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
_PROFILES_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE" if _OLDER else "FASTDDS_DEFAULT_PROFILES_FILE"
TOPICS = [("image", "/camera/image_raw"), ("camera_info", "/camera/camera_info")]


def generate_launch_description() -> LaunchDescription:
    """Camera, node and, where it is asked for, RViz."""
    share = FindPackageShare("kdc")
    arguments = (
        *ARGUMENTS,
        ("params_file", PathJoinSubstitution([share, "config", "kdc.yaml"]), "YAML file with the node's parameters"),
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in arguments
    ]
    log = ["--log-level", LaunchConfiguration("log_level")]
    camera = Node(
        package="kdc",
        executable="kdc_demo_camera",
        parameters=[
            {
                "input": ParameterValue(LaunchConfiguration("input"), value_type=str),
                "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                "rate_hz": ParameterValue(LaunchConfiguration("rate_hz"), value_type=float),
            }
        ],
        remappings=TOPICS,
        ros_arguments=log,
        output="screen",
        # An image is larger than what Fast DDS shares between processes by itself.
        additional_env={_PROFILES_VARIABLE: PathJoinSubstitution([share, "config", "fastdds_large_images.xml"])},
    )
    node = Node(
        package="kdc",
        executable="kdc_node",
        name="kdc",
        parameters=[LaunchConfiguration("params_file")],
        remappings=TOPICS,
        ros_arguments=log,
        output="screen",
    )
    # The camera stands in the middle of the map, level: its optical frame (z forward) in one with z up.
    place = Node(
        package="tf2_ros",
        executable="static_transform_publisher",
        arguments=[
            *("--qx", "-0.5", "--qy", "0.5", "--qz", "-0.5", "--qw", "0.5"),
            *("--frame-id", "map", "--child-frame-id", "demo_camera_optical_frame"),
        ],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", PathJoinSubstitution([share, "config", "kdc.rviz"])],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return LaunchDescription([*declared, camera, node, place, rviz])
