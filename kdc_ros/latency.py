"""The topic ~/latency: how old each result was when it went out."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import Float64

from kdc_ros.qos import RESULTS, MismatchLog, create_publisher


class LatencyOutput:
    """Publishes seconds from a frame's stamp to the end of its publication, while somebody listens."""

    def __init__(self, node: Node, mismatches: MismatchLog) -> None:
        self._node = node
        self._mismatches = mismatches
        self._publisher: Publisher | None = None

    def activate(self) -> None:
        """Create the publisher."""
        self._publisher = create_publisher(self._node, Float64, "~/latency", RESULTS, self._mismatches)

    def close(self) -> None:
        """Destroy the publisher."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            self._node.destroy_publisher(publisher)

    def publish(self, latency_s: float) -> None:
        """Publish one latency; does nothing when closed, nor once ROS is shut down."""
        publisher = self._publisher
        try:
            if publisher is not None and publisher.get_subscription_count() > 0:
                publisher.publish(Float64(data=latency_s))
        except RuntimeError:  # rclpy's own exceptions derive from it
            if self._node.context.ok() and self._publisher is not None:
                raise
