"""Subscribers of every result that come and go: `python -m kdc_ros.soak.storm NAMESPACE COUNT`.

A process of its own: Fast DDS may never return from taking a large message where a process has several reliable
subscriptions to it (see kdc_ros.image_subscription). So pictures are subscribed best-effort; and were it to happen
all the same, it would hang neither the node nor whoever judges it.
"""

from __future__ import annotations

import sys
import time

import rclpy
from kdc.msg import InstanceMaskArray, PoseArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

_RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_TOPICS = (
    (PoseArray, "poses", _RELIABLE),
    (InstanceMaskArray, "masks", _RELIABLE),
    (MarkerArray, "markers", _RELIABLE),
    (Image, "overlay", _BEST_EFFORT),
)
_HELD = 8
_STEP_S = 0.05


def main() -> int:
    """The process. Returns the exit code."""
    namespace, count = sys.argv[1], int(sys.argv[2])
    rclpy.init()
    node = rclpy.create_node("storm", namespace=namespace)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    held = []
    for i in range(count):
        kind, name, qos = _TOPICS[i % len(_TOPICS)]
        held.append(node.create_subscription(kind, f"kdc/{name}", lambda _: None, qos))
        if len(held) > _HELD:
            node.destroy_subscription(held.pop(0))
        deadline = time.monotonic() + _STEP_S
        while (left_s := deadline - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left_s)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
