"""Quality of service of the node's topics, and what is said when a peer's does not match."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

# Matches every publisher, reliable or not, and never hands over an old message.
NEWEST = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
# Also what was published before; matches only publishers that keep it.
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
# Reliable, so that reliable and best-effort subscribers both match (RViz asks for reliable).
RESULTS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
# Pictures are large: the newest only.
PICTURES = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)

# What the user may override for each topic, by parameters such as
# qos_overrides./kdc/poses.publisher.reliability: best_effort
OVERRIDABLE = QoSOverridingOptions(
    (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
)


def create_publisher(
    node: Node, kind: type, topic: str, qos: QoSProfile, mismatches: MismatchLog
) -> Publisher:
    """A publisher whose quality of service the user may override, and whose mismatches are reported."""
    return node.create_publisher(
        kind,
        topic,
        copy.copy(qos),  # overrides are written into it
        event_callbacks=mismatches.for_publisher(node.resolve_topic_name(topic)),
        qos_overriding_options=OVERRIDABLE,
    )


def has_incompatible_peer(node: Node, topic: str) -> bool:
    """Whether somebody on a topic (its full name) cannot exchange messages with the node."""
    ours = (node.get_name(), node.get_namespace())
    return any(
        ours in ((sender.node_name, sender.node_namespace), (receiver.node_name, receiver.node_namespace))
        and qos_check_compatible(sender.qos_profile, receiver.qos_profile)[0] == QoSCompatibility.ERROR
        for sender in node.get_publishers_info_by_topic(topic)
        for receiver in node.get_subscriptions_info_by_topic(topic)
    )


class MismatchLog:
    """Logs an incompatible peer, once for each topic and policy, and remembers it for diagnostics while it is there.

    there: asked whether a topic (its full name) still has one.
    """

    # The peer itself may be known to ROS's graph later than its mismatch is.
    LEAST_S = 5.0

    def __init__(
        self,
        logger: RcutilsLogger,
        there: Callable[[str], bool] = lambda topic: True,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._there = there
        self._now_s = now_s
        self._told: dict[tuple[str, Any], tuple[float, str]] = {}

    def texts(self) -> list[str]:
        """What was logged since the last `forget`, of peers that are still there."""
        for key, (told_s, _) in list(self._told.items()):
            if self._now_s() - told_s >= self.LEAST_S and not self._there(key[0]):
                self._told.pop(key, None)
        return [text for _, text in list(self._told.values())]

    def forget(self) -> None:
        """Start afresh: topics are made anew."""
        self._told.clear()

    def for_subscription(
        self, topic: str, unless: Collection[QoSPolicyKind] = ()
    ) -> SubscriptionEventCallbacks:
        """Event callbacks for a subscription to `topic`; a mismatch in one of the policies `unless` is not told."""

        def tell(event: Any) -> None:
            if event.last_policy_kind not in unless:
                self._tell(topic, event, "a publisher", "nothing will arrive from it")

        return SubscriptionEventCallbacks(incompatible_qos=tell)

    def for_publisher(self, topic: str) -> PublisherEventCallbacks:
        """Event callbacks for a publisher of `topic`."""
        return PublisherEventCallbacks(
            incompatible_qos=lambda event: self._tell(topic, event, "a subscriber", "it will receive nothing")
        )

    def _tell(self, topic: str, event: Any, peer: str, consequence: str) -> None:
        if (topic, event.last_policy_kind) in self._told:
            return
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        text = f"{peer} of '{topic}' has an incompatible QoS ({policy}): {consequence}"
        self._told[(topic, event.last_policy_kind)] = (self._now_s(), text)
        self._logger.warning(text)
