"""The other process of the suite `node`: sends made images, and the next one when the results of the last are there.

Arguments: how many frames of each case, then the cases, "WIDTHxHEIGHT PEOPLE". The case travels as the frame_id.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from kdc.msg import InstanceMaskArray, PoseArray
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_ros.image_conversion import rgb_to_message

RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE)
END = "end"
RESEND_S = 3.0


class _Camera(Node):
    """A camera that knows when its last frame has been answered."""

    def __init__(self) -> None:
        super().__init__("kdc_bench_camera")
        self._images = self.create_publisher(Image, "bench/image", RELIABLE)
        self._waits_for: set[tuple[type, int]] = set()
        self.create_subscription(PoseArray, "bench/poses", self._on_result, RELIABLE)
        self.create_subscription(InstanceMaskArray, "bench/masks", self._on_result, RELIABLE)

    def _on_result(self, message: PoseArray | InstanceMaskArray) -> None:
        stamp = message.header.stamp
        self._waits_for.discard((type(message), stamp.sec * 10**9 + stamp.nanosec))

    def wait_for_listener(self) -> None:
        """Both directions are matched, or the first frames would be nobody's."""
        while not (self._images.get_subscription_count() and self.count_publishers("bench/masks")):
            rclpy.spin_once(self, timeout_sec=0.05)

    def exchange(self, message: Image) -> None:
        """Send a frame, anew when no answer comes, until its poses and masks are here."""
        while True:
            now = time.time_ns()
            self._waits_for = {(PoseArray, now), (InstanceMaskArray, now)}
            message.header.stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
            self._images.publish(message)
            deadline = time.monotonic() + RESEND_S
            while self._waits_for and time.monotonic() < deadline:
                rclpy.spin_once(self, timeout_sec=0.1)
            if not self._waits_for:
                return

    def say_end(self) -> None:
        """Tell the other process that this was all."""
        self._images.publish(Image(header=Header(frame_id=END)))


def main(rounds: int, cases: list[str]) -> None:
    """Send every case `rounds` times, in turn."""
    # The other process ends this one by a signal, and that is no fault.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    camera = _Camera()
    camera.wait_for_listener()
    frames = []
    for case in cases:
        width, _, height = case.partition(" ")[0].partition("x")
        picture = np.random.default_rng(0).integers(0, 256, (int(height), int(width), 3), dtype=np.uint8)
        frames.append(rgb_to_message(picture, Header(frame_id=case)))
    for _ in range(rounds):
        for frame in frames:
            camera.exchange(frame)
    while True:  # until the other process ends this one
        camera.say_end()
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
