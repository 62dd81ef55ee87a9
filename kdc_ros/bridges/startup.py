"""How a bridge starts: with one clear line where what it needs is missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import rclpy
import rclpy.logging
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

# What a bridge reads when it starts, and never again.
FIXED = ParameterDescriptor(read_only=True)


def run(package: str, make_node: Callable[[ModuleType], Node], name: str, args: list[str] | None = None) -> int:
    """Run a bridge until it is told to stop. Returns the exit code: 0, or 1 when it cannot start.

    package:   the interface package that it needs, such as "hri_msgs".
    make_node: makes the node from that package's `msg` module. name: the node's name.
    """
    logger = rclpy.logging.get_logger(name)
    try:
        messages = importlib.import_module(f"{package}.msg")
    except ImportError:
        logger.fatal(
            f"the package {package} is not installed (apt install ros-$ROS_DISTRO-{package.replace('_', '-')}): "
            f"{name} needs it"
        )
        return 1
    node = None
    try:
        rclpy.init(args=args)
        node = make_node(messages)
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ValueError, ParameterException) as error:  # a parameter that makes no sense
        logger.fatal(" ".join(str(error).split()))
        return 1
    except RuntimeError as error:  # rclpy's own exceptions derive from it
        # Whatever is made or published after a signal has shut ROS down fails.
        if node is None or rclpy.ok():
            logger.fatal(" ".join(str(error).split()))
            return 1
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
