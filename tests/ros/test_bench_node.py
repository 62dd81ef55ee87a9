"""Suite `node` of `kdc bench` over real DDS: every case is answered and timed."""

from __future__ import annotations

from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")


def test_transport_is_timed(ros: None, shipped_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdc_bench.result import BenchSettings, Row
    from kdc_ros import bench

    monkeypatch.setattr(bench, "SIZES_HW", ((96, 128),))
    monkeypatch.setattr(bench, "PEOPLE", (0, 3))
    monkeypatch.setattr(bench, "_node_row", lambda settings: Row({"image": "none"}))
    result = bench.measure(BenchSettings(shipped_model, threads=1, rounds=2, long_side=128))
    nobody, three, _ = result.rows
    assert (nobody.case, three.case) == ({"image": "128x96", "people": "0"}, {"image": "128x96", "people": "3"})
    for row in (nobody, three):
        assert set(row.stages) == {"take", "convert", "messages", "publish", "total"}
        assert all(summary.count == 2 and summary.least >= 0 for summary in row.stages.values())
        assert 0 < row.figures["transit_ms"] < 60e3
        expected = 100 * row.stages["total"].p50 / row.figures["pipeline_ms"]
        assert row.figures["overhead_percent"] == pytest.approx(expected)
