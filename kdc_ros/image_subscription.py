"""The subscription to a camera's pictures: newest only, in the reliability that the publishers offer.

A best-effort subscription matches every publisher, but a large picture travels in many pieces, and one lost
piece loses the frame: with Fast DDS's default shared memory (half a megabyte) frames beyond that size hardly
ever arrive on a busy machine. A reliable subscription has lost pieces sent again, but a best-effort publisher
does not match it. So the subscription is reliable until a best-effort publisher is known.

Fast DDS (seen with 3.2; the code is the same from 2.6 to 3.6) can stop a process for good when a reliable
subscription begins while the publisher still sends to another one of the same process. Of the picture on its
way the new one gets the last pieces, then the word (GAP) that it is not meant for it: the pieces are freed but
stay listed (StatefulReader::process_gap_msg goes past DataReaderHistory), and taking them never ends, in native
code that holds Python's lock. So a topic that was left rests before it is subscribed reliably again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image

from kdc_ros.qos import MismatchLog

AUTO = "auto"
FIXED = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}
CHOICES = (AUTO, *FIXED)
RAW, COMPRESSED = "raw", "compressed"
TRANSPORTS = (RAW, COMPRESSED)
# How long a publisher may take to learn that a subscription has ended; milliseconds on an idle machine.
REST_S = 1.0
# Reliability is the parameter image_reliability's affair: it may change while the node runs.
_OVERRIDABLE = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY))


class Departures:
    """When this process unsubscribed from which topic."""

    def __init__(self) -> None:
        self._left_s: dict[str, float] = {}

    def note(self, topic_name: str) -> None:
        """Unsubscribed just now."""
        self._left_s[topic_name] = time.monotonic()

    def recent(self, topic_name: str) -> bool:
        """Whether a publisher may not know it yet."""
        return time.monotonic() < self._left_s.get(topic_name, -REST_S) + REST_S


class ImageSubscription:
    """Receives pictures; `adapt`, called now and then by a timer, lets the reliability follow the publishers.

    reliability: "auto", or "best_effort" / "reliable" to have it fixed.
    departures:  shared by all that are made one after another.
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
        departures: Departures,
        transport: str = RAW,
    ) -> None:
        self._node = node
        self._callback = callback
        self._auto = reliability == AUTO
        self._mismatches = mismatches
        self._departures = departures
        self._kind = CompressedImage if transport == COMPRESSED else Image
        self._type_name = f"sensor_msgs/msg/{self._kind.__name__}"
        # As rclpy is to have it, which resolves it itself at every call (image_transport's name for a second time).
        self._name = topic
        if transport == COMPRESSED and not node.resolve_topic_name(topic).endswith("/compressed"):
            self._name = node.resolve_topic_name(topic) + "/compressed"
        self.topic_name = node.resolve_topic_name(self._name)
        self.reliability = FIXED.get(reliability, ReliabilityPolicy.RELIABLE)
        self._subscription: Subscription | None = None
        self.adapt()

    @property
    def open(self) -> bool:
        """Whether it receives; not while the topic rests."""
        return self._subscription is not None

    def adapt(self) -> None:
        """Subscribe, unless it is done, in the reliability that suits the publishers."""
        wanted = self._wanted()
        if wanted != self.reliability:
            self.close()
            self.reliability = wanted
            self._node.get_logger().debug(f"'{self.topic_name}' is now subscribed {wanted.name.lower()}")
        if self._subscription is not None:
            return
        if wanted == ReliabilityPolicy.RELIABLE and self._departures.recent(self.topic_name):
            return
        self._subscription = self._subscribe()

    def close(self) -> None:
        """Receive nothing any more."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._departures.note(self.topic_name)

    def publisher_count(self) -> int:
        """How many publishers of such messages the topic has."""
        return len(self._offers())

    def other_types(self) -> list[str]:
        """Of what else the topic has publishers, whose messages never come."""
        known = self._node.get_publishers_info_by_topic(self._name)
        return sorted({offer.topic_type for offer in known} - {self._type_name})

    def _offers(self) -> list[TopicEndpointInfo]:
        known = self._node.get_publishers_info_by_topic(self._name)
        return [offer for offer in known if offer.topic_type == self._type_name]

    def _wanted(self) -> ReliabilityPolicy:
        offers = self._offers() if self._auto else []
        if not offers:
            return self.reliability
        all_reliable = all(o.qos_profile.reliability == ReliabilityPolicy.RELIABLE for o in offers)
        return ReliabilityPolicy.RELIABLE if all_reliable else ReliabilityPolicy.BEST_EFFORT

    def _subscribe(self) -> Subscription:
        newest = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=self.reliability,
            durability=DurabilityPolicy.VOLATILE,
        )
        # A publisher of another reliability is no news where it is about to be followed.
        followed = (QoSPolicyKind.RELIABILITY,) if self._auto else ()
        return self._node.create_subscription(
            self._kind,
            self._name,
            self._callback,
            newest,
            event_callbacks=self._mismatches.for_subscription(self.topic_name, unless=followed),
            qos_overriding_options=_OVERRIDABLE,
        )
