"""Quality of service of the node's topics, and what is said when a peer's does not match."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
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


class MismatchLog:
    """Logs an incompatible peer, once for each topic and policy, and remembers it for diagnostics."""

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._told: dict[tuple[str, Any], str] = {}

    def texts(self) -> list[str]:
        """What was logged since the last `forget`."""
        return list(self._told.values())

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
        self._told[(topic, event.last_policy_kind)] = text
        self._logger.warning(text)
