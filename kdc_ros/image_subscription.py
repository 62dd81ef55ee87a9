"""The subscription to a camera's pictures: newest only, in the reliability that the publishers offer.

A best-effort subscription matches every publisher, but a large picture travels in many pieces, and one lost
piece loses the frame: with Fast DDS's default shared memory (half a megabyte) frames beyond that size hardly
ever arrive on a busy machine. A reliable subscription has lost pieces sent again, but a best-effort publisher
does not match it. So the subscription is best-effort until it is known that every publisher is reliable.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from kdc_ros.qos import MismatchLog

AUTO = "auto"
FIXED = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}
CHOICES = (AUTO, *FIXED)
RAW, COMPRESSED = "raw", "compressed"
TRANSPORTS = (RAW, COMPRESSED)
# Reliability is the parameter image_reliability's affair: it may change while the node runs.
_OVERRIDABLE = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY))


class ImageSubscription:
    """Receives pictures; `adapt`, called now and then by a timer, lets the reliability follow the publishers.

    reliability: "auto", or "best_effort" / "reliable" to have it fixed.
    transport:   "raw" (sensor_msgs/Image), or "compressed" (sensor_msgs/CompressedImage, on the topic with
                 "/compressed" behind its name, as image_transport has it).
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        callback: Callable[[Image | CompressedImage], None],
        reliability: str,
        mismatches: MismatchLog,
        transport: str = RAW,
    ) -> None:
        self._node = node
        self._callback = callback
        self._auto = reliability == AUTO
        self._mismatches = mismatches
        self._kind = CompressedImage if transport == COMPRESSED else Image
        self.topic_name = node.resolve_topic_name(topic)
        if transport == COMPRESSED and not self.topic_name.endswith("/compressed"):
            self.topic_name += "/compressed"
        self.reliability = FIXED.get(reliability, ReliabilityPolicy.BEST_EFFORT)
        self._subscription = self._subscribe()

    def adapt(self) -> None:
        """Subscribe anew when the publishers' reliability asks for it."""
        if not self._auto:
            return
        offers = self._node.get_publishers_info_by_topic(self.topic_name)
        if not offers:
            return
        all_reliable = all(o.qos_profile.reliability == ReliabilityPolicy.RELIABLE for o in offers)
        wanted = ReliabilityPolicy.RELIABLE if all_reliable else ReliabilityPolicy.BEST_EFFORT
        if wanted != self.reliability:
            self.reliability = wanted
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()
            self._node.get_logger().debug(f"'{self.topic_name}' is now subscribed {wanted.name.lower()}")

    def close(self) -> None:
        """Receive nothing any more."""
        self._node.destroy_subscription(self._subscription)

    def publisher_count(self) -> int:
        """How many publishers the topic has."""
        return self._node.count_publishers(self.topic_name)

    def _subscribe(self) -> Subscription:
        newest = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=self.reliability,
            durability=DurabilityPolicy.VOLATILE,
        )
        return self._node.create_subscription(
            self._kind,
            self.topic_name,
            self._callback,
            newest,
            event_callbacks=self._mismatches.for_subscription(self.topic_name),
            qos_overriding_options=_OVERRIDABLE,
        )
