"""One image message through a made-up pipeline: what is published, and what becomes of bad frames."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="needs onnx")
from builtin_interfaces.msg import Time
from rclpy.clock import Clock
from std_msgs.msg import Header

from kdc_core.backends.base import InferenceError
from kdc_core.tracking import TrackState
from kdc_core.types import People
from kdc_ros.frame_processor import FrameProcessor
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.parameters import Settings
from kdc_ros.tracking import TrackIds
from tests.ros.canned_model import KEYPOINTS_XY
from tests.ros.fakes import FakeLogger, FakeOutputs, FakePipeline, random_people

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def standing_people() -> People:
    """Two people beside each other, sure of themselves."""
    body = (KEYPOINTS_XY - KEYPOINTS_XY[0])[None] * np.float32(4)
    keypoints = np.concatenate([body + np.float32(200), body + np.float32(600)])
    return People(
        keypoints_xy=keypoints,
        keypoint_scores=np.full(keypoints.shape[:2], 0.9, np.float32),
        scores=np.full(2, 0.9, np.float32),
        boxes_xyxy=np.concatenate([keypoints.min(1), keypoints.max(1)], axis=1),
    )


class Bench:
    """A frame processor between fakes."""

    def __init__(self) -> None:
        self.outputs = FakeOutputs()
        self.logger = FakeLogger()
        self.statistics = FrameStatistics()
        self.settings = Settings()
        self.track_ids = TrackIds()
        self.processor = FrameProcessor(
            self.outputs, self.track_ids, lambda: self.settings, self.statistics, Clock(), self.logger
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def message(sec: int = 12, **changes):
    made = rgb_to_message(IMAGE, Header(stamp=Time(sec=sec, nanosec=34), frame_id="lens"))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_frame_goes_through(bench):
    people = random_people(3, IMAGE.shape[:2])
    pipeline = FakePipeline(people)
    sent = message()
    bench.processor.process(pipeline, sent)
    assert np.array_equal(pipeline.images[0], IMAGE)
    [(frame, result, tracks, settings)] = bench.outputs.frames
    assert np.array_equal(frame.image, IMAGE)
    assert result.people is people
    assert (tracks.ids > 0).all() and len(set(tracks.ids.tolist())) == 3
    assert frame.header == sent.header
    assert settings is bench.settings
    counts = bench.statistics.snapshot()
    assert counts.processed == 1
    assert counts.latency_s is not None and counts.latency_s > 0


def test_an_unstamped_frame_has_no_latency(bench):
    bench.processor.process(FakePipeline(), message(sec=0, header=Header()))
    assert bench.outputs.frames[0][0].header == Header()
    assert bench.statistics.snapshot().latency_s is None


def test_a_malformed_frame_is_dropped_with_its_cause(bench):
    pipeline = FakePipeline()
    bad = message(width=31)
    for _ in range(3):
        bench.processor.process(pipeline, bad)
    bench.processor.process(pipeline, message(encoding="32FC1"))
    bench.processor.process(pipeline, message())
    assert len(pipeline.images) == len(bench.outputs.frames) == 1
    counts = bench.statistics.snapshot()
    assert sorted(counts.rejected.values()) == [1, 3]
    level, text = bench.logger.lines[2]
    assert level == "warning"
    assert "takes 93 bytes, the row step is 90" in text and "3 such frames so far" in text


def test_ever_new_nonsense_is_counted_in_bounded_memory(bench):
    for width in range(2000, 2200):
        bench.processor.process(FakePipeline(), message(width=width))
    rejected = bench.statistics.snapshot().rejected
    assert rejected.total() == 200
    assert len(rejected) < 60


def test_a_failing_pipeline_does_not_end_the_node(bench):
    bench.processor.process(FakePipeline(error=InferenceError("CUDA out of memory")), message())
    assert bench.outputs.frames == []
    assert bench.statistics.snapshot().failed == 1
    assert bench.logger.lines[0][0] == "error"
    assert "InferenceError: CUDA out of memory" in bench.logger.lines[0][1]
    assert "Traceback" not in bench.logger.lines[0][1]
    bench.processor.process(FakePipeline(), message())
    assert bench.statistics.snapshot().processed == 1


def test_a_bug_is_told_in_full_once(bench):
    for _ in range(2):
        bench.processor.process(FakePipeline(error=KeyError("bug")), message())
    assert ["Traceback" in text for _, text in bench.logger.lines] == [True, False]


def test_changed_parameters_hold_from_the_next_frame(bench):
    pipeline = FakePipeline()
    other = dataclasses.replace(
        bench.settings, person_threshold=0.7, keypoint_threshold=0.3, max_people=2, masks=False
    )
    bench.processor.process(pipeline, message())
    before = pipeline.options
    bench.settings = other
    bench.processor.process(pipeline, message())
    after = pipeline.options
    assert (after.person_threshold, after.keypoint_threshold, after.max_people, after.masks) == (
        0.7,
        0.3,
        2,
        False,
    )
    assert after.grouping is before.grouping


def test_ids_stay_with_the_people(bench):
    people = standing_people()
    for sec in (1, 2, 3):
        bench.processor.process(FakePipeline(people), message(sec))
    ids = [frame[2].ids.tolist() for frame in bench.outputs.frames]
    assert ids[0] == ids[1] == ids[2]
    assert 0 not in ids[0]


def test_ids_stay_when_the_camera_stamps_nothing(bench):
    people = standing_people()
    for _ in range(2):
        bench.processor.process(FakePipeline(people), message(header=Header()))
    first, second = (frame[2].ids.tolist() for frame in bench.outputs.frames)
    assert first == second


def test_without_tracking_ids_are_0(bench):
    bench.settings = dataclasses.replace(bench.settings, tracking=False)
    bench.processor.process(FakePipeline(standing_people()), message())
    assert bench.outputs.frames[0][2].ids.tolist() == [0, 0]


def test_a_reset_gives_everybody_a_new_id(bench):
    for sec in (1, 2, 3, 4):
        if sec == 4:
            bench.track_ids.reset()
        bench.processor.process(FakePipeline(standing_people()), message(sec))
    tracks = [frame[2] for frame in bench.outputs.frames]
    assert tracks[0].ids.tolist() == tracks[2].ids.tolist()
    assert tracks[2].states.tolist() == [TrackState.TRACKED] * 2
    assert tracks[3].ids.min() > tracks[2].ids.max()
    assert tracks[3].states.tolist() == [TrackState.TENTATIVE] * 2
    assert tracks[3].unseen == ()


def test_a_person_seen_twice_has_the_id_once(bench):
    one = standing_people()
    twice = People(
        *(
            np.concatenate([v, v[:1]])
            for v in (one.keypoints_xy, one.keypoint_scores, one.scores, one.boxes_xyxy)
        )
    )
    for sec in (1, 2, 3):
        bench.processor.process(FakePipeline(twice), message(sec))
    ids = bench.outputs.frames[-1][2].ids.tolist()
    assert ids[2] == 0
    assert 0 < ids[0] != ids[1] > 0
