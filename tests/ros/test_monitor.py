"""What the node says about missing and dropped frames: once, and when it is over."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.monitor import SUMMARY_PERIOD_S, FrameMonitor
from tests.ros.fakes import FakeLogger


class Bench:
    """A monitor whose clock is set by hand."""

    def __init__(self, timeout_s: float = 5.0, publishers: int = 0, others: tuple[str, ...] = ()) -> None:
        self.now_s = time.monotonic()
        self.statistics = FrameStatistics()
        self.logger = FakeLogger()
        self.timeout_s = timeout_s
        self.monitor = FrameMonitor(
            "/image",
            self.statistics,
            self.logger,
            lambda: self.timeout_s,
            lambda: publishers,
            lambda: self.now_s,
            lambda: list(others),
        )

    def after(self, seconds: float) -> list[tuple[str, str]]:
        """What is logged at a check that much later."""
        self.now_s += seconds
        before = len(self.logger.lines)
        self.monitor.check()
        return self.logger.lines[before:]


def test_silence_is_reported_once_with_a_hint():
    bench = Bench()
    assert bench.after(4.0) == []
    [(level, text)] = bench.after(1.5)
    assert level == "warning"
    assert "no frames on '/image' for 5 s" in text and "nobody publishes it" in text
    assert bench.after(10.0) == []


def test_the_hint_knows_of_a_publisher():
    bench = Bench(publishers=2)
    [(_, text)] = bench.after(6.0)
    assert "2 publisher(s)" in text


def test_the_hint_names_messages_of_another_type():
    [(_, text)] = Bench(others=("sensor_msgs/msg/CompressedImage",)).after(6.0)
    assert "what is published there is sensor_msgs/msg/CompressedImage" in text and "image_transport" in text
    [(_, text)] = Bench(publishers=1, others=("sensor_msgs/msg/CompressedImage",)).after(6.0)
    assert "1 publisher(s)" in text


def test_frames_again_and_silence_again():
    bench = Bench(timeout_s=5.0)
    bench.after(6.0)
    bench.now_s = time.monotonic()
    bench.statistics.count_received()
    assert bench.after(0.0) == [("info", "frames on '/image' again")]
    [(level, _)] = bench.after(6.0)
    assert level == "warning"


def test_silence_can_be_ignored():
    bench = Bench(timeout_s=0.0)
    assert bench.after(1000.0) == []


def test_drops_are_summed_up_now_and_then():
    bench = Bench(timeout_s=0.0)
    for _ in range(3):
        bench.statistics.count_received()
    for _ in range(2):
        bench.statistics.count_superseded()
    bench.statistics.count_rejected("too short")
    bench.statistics.count_failed()
    bench.statistics.count_out_of_order()
    bench.statistics.count_processed({}, 0.025, people=1)
    assert bench.after(1.0) == []
    [(level, text)] = bench.after(SUMMARY_PERIOD_S)
    assert level == "info"
    assert "1 frames processed, 2 skipped for newer ones, 1 malformed, 0 too old, 1 out of order, 1 failed" in text
    assert "latest latency 25 ms" in text
    assert bench.after(SUMMARY_PERIOD_S) == []  # nothing new
