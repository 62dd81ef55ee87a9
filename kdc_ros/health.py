"""Gathers what the node knows about itself and publishes it on /diagnostics, whatever state it is in."""

from __future__ import annotations

import time
from collections import deque

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from kdc_ros.diagnostics import Report, judge, resident_memory_mb
from kdc_ros.frame_statistics import WINDOW_S, FrameStatistics, Snapshot
from kdc_ros.inputs import Inputs
from kdc_ros.network import Network
from kdc_ros.parameters import Settings
from kdc_ros.qos import RESULTS, MismatchLog, create_publisher


class Health:
    """Publishes a DiagnosticArray at each call of `publish`, meant for every `PERIOD_S` seconds."""

    PERIOD_S = 1.0

    def __init__(
        self, node: Node, statistics: FrameStatistics, mismatches: MismatchLog, hardware_id: str
    ) -> None:
        self._node = node
        self._statistics = statistics
        self._mismatches = mismatches
        self._hardware_id = hardware_id
        self._publisher = create_publisher(node, DiagnosticArray, "/diagnostics", RESULTS, mismatches)
        self._history: deque[tuple[float, Snapshot]] = deque()
        self._waiting_since_s: float | None = None

    def publish(
        self,
        state: str,
        fault: str,
        enabled: bool,
        network: Network,
        inputs: Inputs | None,
        settings: Settings,
    ) -> None:
        """Publish how the node is now. Does nothing once ROS is shut down."""
        now_s, now = time.monotonic(), self._statistics.snapshot()
        self._history.append((now_s, now))
        while self._history[0][0] < now_s - WINDOW_S:
            self._history.popleft()
        report = Report(
            state=state,
            fault=fault,
            loading_s=network.loading_s,
            enabled=enabled,
            network=dict(network.description),
            now=now,
            before=self._history[0][1],
            silence_s=self._silence_s(now_s, now, inputs),
            mismatches=tuple(self._mismatches.texts()),
            topic=inputs.topic_name if inputs is not None else "",
            publishers=inputs.publisher_count() if inputs is not None else 0,
            memory_mb=resident_memory_mb(),
        )
        statuses = judge(report, settings, self._node.get_fully_qualified_name().lstrip("/"), self._hardware_id)
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self._node.get_clock().now().to_msg()
        try:
            self._publisher.publish(message)
        except RuntimeError:  # rclpy's own exceptions derive from it
            if self._node.context.ok():
                raise

    def _silence_s(self, now_s: float, now: Snapshot, inputs: Inputs | None) -> float | None:
        """Seconds without a frame since frames have been asked for."""
        if inputs is None:
            self._waiting_since_s = None
            return None
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s
        return now_s - max(self._waiting_since_s, now.last_received_s or 0.0)
