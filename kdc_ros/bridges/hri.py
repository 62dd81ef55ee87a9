"""kdc's people as REP-155 (ROS4HRI) bodies. Executable: kdc_hri_bridge.

Subscribes  kdc/poses; image, while somebody listens to a cropped picture
Publishes   /humans/bodies/tracked (hri_msgs/IdsList) and for each body /humans/bodies/<id>/roi
            (hri_msgs/NormalizedRegionOfInterest2D), cropped (sensor_msgs/Image), skeleton2d (hri_msgs/Skeleton2D),
            all with the image's header

The frame body_<id> is sent by kdc_node itself (parameter body_frames).
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from kdc.msg import PersonPose, PoseArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_ros.body_names import body_id, prefix_fault
from kdc_ros.bridges.hri_messages import crop, region_to_message, skeleton_to_message
from kdc_ros.bridges.startup import FIXED, run
from kdc_ros.image_conversion import ImageConversionError, image_to_rgb, rgb_to_message
from kdc_ros.qos import NEWEST, PICTURES, RESULTS

BODIES = "/humans/bodies"
WATCH_PERIOD_S = 0.25
# Images wait for their poses as long as a slow network may take, but not in any amount of memory.
KEPT_S = 2.0
KEPT_BYTES = 256_000_000
IMAGES = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass
class _Body:
    """The publishers of one body, and when it was seen last (nanoseconds of the node's clock)."""

    roi: Publisher
    cropped: Publisher
    skeleton: Publisher
    seen_ns: int

    def publishers(self) -> tuple[Publisher, ...]:
        return self.roi, self.cropped, self.skeleton


class HriBridge(Node):
    """Keeps a set of topics for each tracked person. Raises ValueError for a parameter that makes no sense.

    A body that is not seen stays listed for `hold_s` seconds, so that a missed frame does not make it a new one; then
    its topics go. People without a track id have no body.
    """

    def __init__(self, messages: ModuleType, **node_options: Any) -> None:
        super().__init__("kdc_hri_bridge", **node_options)
        self._messages = messages
        self._prefix = str(self.declare_parameter("body_prefix", "p", FIXED).value)
        if fault := prefix_fault(self._prefix):
            raise ValueError(f"parameter 'body_prefix' {fault}")
        hold_s = float(self.declare_parameter("hold_s", 1.0, FIXED).value)
        if not 0 <= hold_s <= 3600:
            raise ValueError(f"parameter 'hold_s' must be within 0..3600, got {hold_s}")
        self._hold_ns = int(hold_s * 1e9)
        self._bodies: dict[str, _Body] = {}
        # By their stamps, with the time of their arrival (a monotonic clock's seconds).
        self._images: OrderedDict[tuple[int, int], tuple[float, Image]] = OrderedDict()
        self._image_bytes = 0
        self._image_subscription: Subscription | None = None
        self._subscribed_s = 0.0
        self._last_header = Header()
        self._tracked = self.create_publisher(messages.IdsList, f"{BODIES}/tracked", RESULTS)
        self.create_subscription(PoseArray, "kdc/poses", self._on_poses, NEWEST)
        self.create_timer(WATCH_PERIOD_S, self._watch)

    def _on_poses(self, poses: PoseArray) -> None:
        image_hw = (poses.image_height, poses.image_width)
        if poses.people and 0 in image_hw:
            self.get_logger().warning("poses of an image without size: left out", throttle_duration_sec=5.0)
            return
        now_ns = self.get_clock().now().nanoseconds
        people = {body_id(p.track_id, self._prefix): p for p in poses.people if p.track_id > 0}
        for name in people:
            if name not in self._bodies:
                self._bodies[name] = self._make_body(name, now_ns)
            self._bodies[name].seen_ns = now_ns
        self._remove_gone(now_ns)
        # First who is there, so that a listener may subscribe before the rest comes.
        self._last_header = poses.header
        self._publish_ids(poses.header)
        for name, person in people.items():
            body = self._bodies[name]
            body.roi.publish(region_to_message(person, poses.header, image_hw, self._messages))
            body.skeleton.publish(skeleton_to_message(person, poses.header, image_hw, self._messages))
        self._publish_cropped(poses.header, people)

    def _publish_ids(self, header: Header) -> None:
        self._tracked.publish(self._messages.IdsList(header=header, ids=sorted(self._bodies)))

    def _publish_cropped(self, header: Header, people: dict[str, PersonPose]) -> None:
        wanted = [name for name in people if self._bodies[name].cropped.get_subscription_count() > 0]
        if not wanted or self._image_subscription is None:
            return
        if _stamp(header) not in self._images:
            if time.monotonic() - self._subscribed_s > 2 * KEPT_S:
                self.get_logger().warning(
                    f"nothing cropped: the image of these poses is not among the {len(self._images)} of the last "
                    f"{KEPT_S:g} s; is the topic 'image' the one that kdc_node reads, and the network in time?",
                    throttle_duration_sec=30.0,
                )
            return
        try:
            picture = image_to_rgb(self._images[_stamp(header)][1])
        except ImageConversionError as error:
            self.get_logger().warning(f"nothing cropped: {error}", throttle_duration_sec=5.0)
            return
        for name in wanted:
            cut = crop(picture, people[name])
            if cut.size:
                self._bodies[name].cropped.publish(rgb_to_message(cut, header))

    def _make_body(self, name: str, now_ns: int) -> _Body:
        topic = f"{BODIES}/{name}"
        return _Body(
            roi=self.create_publisher(self._messages.NormalizedRegionOfInterest2D, f"{topic}/roi", RESULTS),
            cropped=self.create_publisher(Image, f"{topic}/cropped", PICTURES),
            skeleton=self.create_publisher(self._messages.Skeleton2D, f"{topic}/skeleton2d", RESULTS),
            seen_ns=now_ns,
        )

    def _remove_gone(self, now_ns: int) -> bool:
        # A clock that was set back (a bag played again) must not keep the dead alive.
        gone = [n for n, body in self._bodies.items() if not 0 <= now_ns - body.seen_ns <= self._hold_ns]
        for name in gone:
            for publisher in self._bodies.pop(name).publishers():
                self.destroy_publisher(publisher)
        return bool(gone)

    def _watch(self) -> None:
        """Without poses people go, too; and images are subscribed as long as somebody wants a part of them."""
        if self._remove_gone(self.get_clock().now().nanoseconds):
            self._publish_ids(self._last_header)
        wanted = any(body.cropped.get_subscription_count() > 0 for body in self._bodies.values())
        if wanted and self._image_subscription is None:
            self._image_subscription = self.create_subscription(Image, "image", self._on_image, IMAGES)
            self._subscribed_s = time.monotonic()
        elif not wanted and self._image_subscription is not None:
            self.destroy_subscription(self._image_subscription)
            self._image_subscription = None
            self._images.clear()
            self._image_bytes = 0

    def _on_image(self, image: Image) -> None:
        now_s = time.monotonic()
        _, before = self._images.pop(_stamp(image.header), (0.0, None))
        self._images[_stamp(image.header)] = now_s, image
        self._image_bytes += len(image.data) - (len(before.data) if before is not None else 0)
        while len(self._images) > 1 and (self._image_bytes > KEPT_BYTES or self._oldest_s() < now_s - KEPT_S):
            _, (_, oldest) = self._images.popitem(last=False)
            self._image_bytes -= len(oldest.data)

    def _oldest_s(self) -> float:
        return next(iter(self._images.values()))[0]


def _stamp(header: Header) -> tuple[int, int]:
    return header.stamp.sec, header.stamp.nanosec


def main(args: list[str] | None = None) -> int:
    """Run the bridge. Returns the exit code."""
    return run("hri_msgs", HriBridge, "kdc_hri_bridge", args)


if __name__ == "__main__":
    sys.exit(main())
