"""What the node logs about its own health: frames that do not come, frames that were dropped."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger

from kdc_ros.frame_statistics import FrameStatistics, Snapshot

SUMMARY_PERIOD_S = 30.0


class FrameMonitor:
    """Watches the statistics; `check` is called by a timer about twice a second.

    Says once that no frames come (again once frames had come and ceased), and sums up dropped frames now and
    then.

    topic:      name of the image topic, for the log.
    timeout_s:  asked at each check: seconds without a frame that are worth a warning, 0 = none are.
    publishers: asked for the warning: how many publishers of images the topic has.
    others:     asked for the warning: of what other types it has publishers.
    now_s:      a monotonic clock in seconds.
    """

    def __init__(
        self,
        topic: str,
        statistics: FrameStatistics,
        logger: RcutilsLogger,
        timeout_s: Callable[[], float],
        publishers: Callable[[], int],
        now_s: Callable[[], float] = time.monotonic,
        others: Callable[[], list[str]] = list,
    ) -> None:
        self._topic = topic
        self._statistics = statistics
        self._logger = logger
        self._timeout_s = timeout_s
        self._publishers = publishers
        self._others = others
        self._now_s = now_s
        self._started_s = now_s()
        self._silent = False
        self._summed_up = statistics.snapshot()
        self._summed_up_s = self._started_s

    def check(self) -> None:
        """Log what there is to say now."""
        snapshot = self._statistics.snapshot()
        self._check_silence(snapshot)
        now_s = self._now_s()
        if now_s - self._summed_up_s >= SUMMARY_PERIOD_S:
            self._sum_up(snapshot, now_s - self._summed_up_s)
            self._summed_up, self._summed_up_s = snapshot, now_s

    def _check_silence(self, snapshot: Snapshot) -> None:
        timeout_s = self._timeout_s()
        last_s = max(self._started_s, snapshot.last_received_s or 0.0)
        silent = 0 < timeout_s <= self._now_s() - last_s
        if silent and not self._silent:
            self._logger.warning(f"no frames on '{self._topic}' for {timeout_s:g} s; {self._hint()}")
        elif self._silent and not silent and snapshot.last_received_s is not None:
            self._logger.info(f"frames on '{self._topic}' again")
        self._silent = silent

    def _hint(self) -> str:
        if count := self._publishers():
            return (
                f"it has {count} publisher(s): is the camera sending? "
                "Large images may get lost on the way: see config/fastdds_large_images.xml"
            )
        if others := self._others():
            return (
                f"what is published there is {' and '.join(others)}: for sensor_msgs/msg/CompressedImage set "
                "image_transport to compressed, for sensor_msgs/msg/Image to raw"
            )
        return "nobody publishes it: is the camera running, and the topic remapped (image:=/your/topic)?"

    def _sum_up(self, snapshot: Snapshot, period_s: float) -> None:
        before = self._summed_up
        superseded = snapshot.superseded - before.superseded
        rejected = snapshot.rejected.total() - before.rejected.total()
        failed = snapshot.failed - before.failed
        too_old, out_of_order = snapshot.too_old - before.too_old, snapshot.out_of_order - before.out_of_order
        if not superseded + rejected + failed + too_old + out_of_order:
            return
        processed = snapshot.processed - before.processed
        latency = "" if snapshot.latency_s is None else f", latest latency {snapshot.latency_s * 1e3:.0f} ms"
        self._logger.info(
            f"in {period_s:.0f} s: {processed} frames processed, {superseded} skipped for newer ones, "
            f"{rejected} malformed, {too_old} too old, {out_of_order} out of order, {failed} failed{latency}"
        )
