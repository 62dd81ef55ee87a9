"""What the statistics say of a stream with known times, and how diagnostics judge it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from kdc_ros.diagnostics import ERROR, OK, WARN, Report, judge, resident_memory_mb
from kdc_ros.frame_statistics import WINDOW_S, FrameStatistics, Snapshot
from kdc_ros.parameters import Settings
from tests.ros.node_bench import values


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_rates_ages_and_stages_of_the_last_seconds():
    clock = Clock()
    statistics = FrameStatistics(clock)
    for _ in range(11):  # the first second counts as a second, not as five
        statistics.count_received()
        clock.now_s += 0.1
    assert statistics.snapshot().input_rate_hz == pytest.approx(10, rel=0.01)
    statistics = FrameStatistics(clock)
    for i in range(600):  # 20 s at 30 Hz; every third is processed
        clock.now_s += 1 / 30
        statistics.count_received()
        if i % 3 == 0:
            age_s = 9.0 if i < 300 else (0.02 if i % 30 else 0.2)  # the first ten seconds are forgotten
            statistics.count_processed({"inference": 10.0 + i % 2}, age_s, people=i)
        else:
            statistics.count_superseded()
    now = statistics.snapshot()
    assert (now.received, now.processed, now.superseded, now.people) == (600, 200, 400, 597)
    assert now.input_rate_hz == pytest.approx(30, rel=0.01)
    assert now.output_rate_hz == pytest.approx(10, rel=0.01)
    assert now.age_p50_s == pytest.approx(0.02)
    assert 0.02 < now.age_p95_s <= 0.2
    assert now.stage_ms == pytest.approx({"inference": 10.5}, rel=0.01)
    clock.now_s += WINDOW_S / 2  # the camera stops
    assert statistics.snapshot().input_rate_hz == pytest.approx(15, rel=0.05)
    clock.now_s += WINDOW_S
    later = statistics.snapshot()
    assert later.received == 600
    assert (later.input_rate_hz, later.output_rate_hz, later.age_p95_s, later.stage_ms) == (0, 0, None, {})


WORKING = Report(
    state="active",
    network={"model": "/m.onnx", "backend": "onnxruntime"},
    now=Snapshot(
        received=300, processed=150, superseded=150, people=2, input_rate_hz=30.0, output_rate_hz=15.0,
        age_p50_s=0.04, age_p95_s=0.06, stage_ms={"inference": 33.0}, last_received_s=1.0,
    ),
    silence_s=0.01,
    topic="/image",
    publishers=1,
    memory_mb=200.0,
)  # fmt: skip


def judged(report: Report = WORKING, **settings):
    statuses = judge(report, Settings(**settings), "cam/kdc", "robot")
    assert [s.name for s in statuses] == [f"cam/kdc: {n}" for n in ("state", "input", "output", "process")]
    assert {s.hardware_id for s in statuses} == {"robot"}
    return {s.name.split(": ")[1]: s for s in statuses}


def changed(**changes) -> Report:
    """The working node's report with other counts now."""
    return dataclasses.replace(WORKING, now=dataclasses.replace(WORKING.now, **changes))


def test_a_healthy_node():
    statuses = judged()
    assert {s.level for s in statuses.values()} == {OK}
    assert statuses["input"].message == "30.0 Hz"
    assert values(statuses["input"])["dropped: superseded"] == "150"
    output = values(statuses["output"])
    assert (output["age p50 (ms)"], output["age p95 (ms)"], output["people"]) == ("40.0", "60.0", "2")
    assert output["inference (ms)"] == "33.0"
    assert values(statuses["state"])["backend"] == "onnxruntime"
    assert values(statuses["process"])["memory (MB)"] == "200.0"


@pytest.mark.parametrize(
    ("status", "report", "settings", "level", "text"),
    [
        ("input", dataclasses.replace(WORKING, silence_s=6.0), {}, WARN, "no frames on '/image' for 6 s"),
        ("input", dataclasses.replace(WORKING, silence_s=40.0), {}, ERROR, "no frames"),
        ("input", dataclasses.replace(WORKING, silence_s=40.0),
         {"no_frame_timeout_s": 0.0, "no_frame_error_s": 0.0}, OK, "30.0 Hz"),
        ("input", dataclasses.replace(WORKING, mismatches=("a publisher of ...",)), {}, WARN, "a publisher"),
        ("input", changed(rejected=Counter({"too short": 3})), {}, WARN, "3 frames malformed"),
        ("input", changed(failed=2, processed=0), {}, ERROR, "2 frames malformed or failed"),
        ("input", changed(unpaired=5), {}, WARN, "no usable depth"),
        ("input", changed(unusable=Counter({"CameraInfo is not used": 4})), {}, WARN, "CameraInfo is not used"),
        ("input", changed(unpaired=5, paired=100), {}, OK, "30.0 Hz"),
        ("input", changed(stamp_jumps=1), {}, WARN, "stamps jumped back"),
        ("output", changed(age_p95_s=0.7), {}, WARN, "results are 700 ms old"),
        ("output", changed(age_p95_s=2.5), {}, ERROR, "results are 2500 ms old"),
        ("output", changed(age_p95_s=2.5), {"age_warn_s": 0.0, "age_error_s": 0.0}, OK, "15.0 Hz, 2 people"),
        ("output", WORKING, {"rate_warn_hz": 20.0, "rate_error_hz": 5.0}, WARN, "only 15.0 results"),
        ("output", WORKING, {"rate_warn_hz": 30.0, "rate_error_hz": 20.0}, ERROR, "only 15.0 results"),
        ("output", dataclasses.replace(WORKING, enabled=False), {"rate_error_hz": 20.0}, OK, "15.0 Hz"),
        ("process", WORKING, {"memory_warn_mb": 150}, WARN, "200 MB"),
        ("process", WORKING, {"memory_warn_mb": 100, "memory_error_mb": 150}, ERROR, "200 MB"),
        ("state", Report(state="unconfigured"), {}, OK, "unconfigured"),
        ("state", Report(state="configuring", loading_s=12.0), {}, OK, "loading the network for 12 s"),
        (
            "state",
            Report(state="configuring", loading_s=12.0, doing="building the engine: layers, 40%"),
            {},
            OK,
            "loading the network for 12 s (building the engine: layers, 40%)",
        ),
        ("state", Report(state="unconfigured", fault="no model"), {}, ERROR, "unconfigured: no model"),
        ("state", dataclasses.replace(WORKING, enabled=False), {}, OK, "active, paused by ~/enable"),
    ],
)  # fmt: skip
def test_levels(status, report, settings, level, text):
    got = judged(report, **settings)[status]
    assert got.level == level
    assert text in got.message


def test_old_drops_are_no_warning():
    rejected = Counter({"too short": 3})
    report = changed(rejected=rejected)
    report = dataclasses.replace(report, before=dataclasses.replace(report.now, rejected=rejected))
    got = judged(report)["input"]
    assert got.level == OK
    assert values(got)["malformed: too short"] == "3"
    unusable = Counter({"the depth image is not used": 3})
    report = changed(unusable=unusable)
    report = dataclasses.replace(report, before=dataclasses.replace(report.now, unusable=Counter(unusable)))
    got = judged(report)["input"]
    assert got.level == OK
    assert values(got)["unusable: the depth image is not used"] == "3"
    assert values(got)["depth or calibration unusable"] == "3"


def test_resident_memory():
    assert 5 < resident_memory_mb() < 100_000


def test_diagnostics_of_a_running_node(make_bench, canned_model):
    bench = make_bench(model=str(canned_model), no_frame_timeout_s=0.2)
    bench.wait_for_state("active")
    input_status = bench.status("input", lambda s: s.level == WARN)
    assert f"no frames on '{bench.namespace}/image'" in input_status.message
    assert input_status.name == f"{bench.namespace[1:]}/kdc: input"
    state = values(bench.status("state"))
    assert state["model"] == str(canned_model)
    assert state["backend"].startswith("onnxruntime")
    assert state["network input"] == "64 x 64"
