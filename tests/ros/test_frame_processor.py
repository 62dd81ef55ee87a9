"""One image message through a made-up pipeline: what is published, and what becomes of bad frames."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="needs onnx")
from builtin_interfaces.msg import Time
from rclpy.clock import Clock
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from kdc_core.backends.base import InferenceError
from kdc_core.tracking import TrackState
from kdc_core.types import People
from kdc_ros.frame_processor import FrameProcessor
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.inputs import Incoming
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

    def process(self, pipeline: FakePipeline, message, depth=None) -> None:
        self.processor.process(pipeline, Incoming(message, depth))

    def __init__(self) -> None:
        self.ages_s: list[float] = []
        self.outputs = FakeOutputs()
        self.logger = FakeLogger()
        self.statistics = FrameStatistics()
        self.settings = Settings()
        self.track_ids = TrackIds()
        self.processor = FrameProcessor(
            self.outputs,
            self.track_ids,
            lambda: self.settings,
            self.statistics,
            Clock(),
            self.logger,
            self.ages_s.append,
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
    bench.process(pipeline, sent)
    assert np.array_equal(pipeline.images[0], IMAGE)
    [(frame, result, tracks, settings)] = bench.outputs.frames
    assert np.array_equal(frame.image, IMAGE)
    assert result.people is people
    assert (tracks.ids > 0).all() and len(set(tracks.ids.tolist())) == 3
    assert frame.header == sent.header
    assert settings is bench.settings
    counts = bench.statistics.snapshot()
    assert counts.processed == 1
    assert counts.people == 3


def test_an_unstamped_frame_has_no_latency(bench):
    bench.process(FakePipeline(), message(sec=0, header=Header()))
    assert bench.outputs.frames[0][0].header == Header()
    assert bench.statistics.snapshot().latency_s is None


def test_a_malformed_frame_is_dropped_with_its_cause(bench):
    pipeline = FakePipeline()
    bad = message(width=31)
    for _ in range(3):
        bench.process(pipeline, bad)
    bench.process(pipeline, message(encoding="32FC1"))
    bench.process(pipeline, message())
    assert len(pipeline.images) == len(bench.outputs.frames) == 1
    counts = bench.statistics.snapshot()
    assert sorted(counts.rejected.values()) == [1, 3]
    level, text = bench.logger.lines[2]
    assert level == "warning"
    assert "takes 93 bytes, the row step is 90" in text and "3 such frames so far" in text


def test_ever_new_nonsense_is_counted_in_bounded_memory(bench):
    for width in range(2000, 2200):
        bench.process(FakePipeline(), message(width=width))
    rejected = bench.statistics.snapshot().rejected
    assert rejected.total() == 200
    assert len(rejected) < 60


def test_very_long_nonsense_is_cut(bench):
    bench.process(FakePipeline(), message(encoding="x" * 1_000_000))
    (cause,) = bench.statistics.snapshot().rejected
    assert "xxx" in cause and len(cause) < 400
    assert len(bench.logger.lines[-1][1]) < 500


def test_a_converter_that_fails_in_its_own_way_does_not_end_the_thread(bench, monkeypatch):
    def broken(message, max_pixels):
        raise AttributeError("newbyteorder")

    monkeypatch.setattr("kdc_ros.frame_processor.message_to_rgb", broken)
    bench.process(FakePipeline(), message())
    (cause,) = bench.statistics.snapshot().rejected
    assert cause == "the picture cannot be converted: AttributeError: newbyteorder"


def test_a_failing_pipeline_does_not_end_the_node(bench):
    bench.process(FakePipeline(error=InferenceError("CUDA out of memory")), message())
    assert bench.outputs.frames == []
    assert bench.statistics.snapshot().failed == 1
    assert bench.logger.lines[0][0] == "error"
    assert "InferenceError: CUDA out of memory" in bench.logger.lines[0][1]
    assert "Traceback" not in bench.logger.lines[0][1]
    bench.process(FakePipeline(), message())
    assert bench.statistics.snapshot().processed == 1


def test_a_bug_is_told_in_full_once(bench):
    for _ in range(2):
        bench.process(FakePipeline(error=KeyError("bug")), message())
    assert ["Traceback" in text for _, text in bench.logger.lines] == [True, False]


def test_changed_parameters_hold_from_the_next_frame(bench):
    pipeline = FakePipeline()
    other = dataclasses.replace(
        bench.settings, person_threshold=0.7, keypoint_threshold=0.3, max_people=2, masks=False
    )
    bench.process(pipeline, message())
    before = pipeline.options
    bench.settings = other
    bench.process(pipeline, message())
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
        bench.process(FakePipeline(people), message(sec))
    ids = [frame[2].ids.tolist() for frame in bench.outputs.frames]
    assert ids[0] == ids[1] == ids[2]
    assert 0 not in ids[0]


def test_ids_stay_when_the_camera_stamps_nothing(bench):
    people = standing_people()
    for _ in range(2):
        bench.process(FakePipeline(people), message(header=Header()))
    first, second = (frame[2].ids.tolist() for frame in bench.outputs.frames)
    assert first == second


def test_without_tracking_ids_are_0(bench):
    bench.settings = dataclasses.replace(bench.settings, tracking=False)
    bench.process(FakePipeline(standing_people()), message())
    assert bench.outputs.frames[0][2].ids.tolist() == [0, 0]


def test_a_reset_gives_everybody_a_new_id(bench):
    for sec in (1, 2, 3, 4):
        if sec == 4:
            bench.track_ids.reset()
        bench.process(FakePipeline(standing_people()), message(sec))
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
        bench.process(FakePipeline(twice), message(sec))
    ids = bench.outputs.frames[-1][2].ids.tolist()
    assert ids[2] == 0
    assert 0 < ids[0] != ids[1] > 0


def now(offset_s: float = 0.0) -> Time:
    nanoseconds = Clock().now().nanoseconds + round(offset_s * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def stamped(offset_s: float):
    return message(header=Header(stamp=now(offset_s), frame_id="lens"))


def test_ages(bench):
    bench.process(FakePipeline(), stamped(-0.5))
    assert 0.5 <= bench.statistics.snapshot().latency_s < 30
    assert bench.ages_s == [bench.statistics.snapshot().latency_s]
    bench.process(FakePipeline(), stamped(+60.0))  # the camera's clock is ahead
    counts = bench.statistics.snapshot()
    assert (counts.latency_s, counts.odd_stamps, counts.processed) == (None, 1, 2)
    assert len(bench.ages_s) == 1


def test_frames_that_are_too_old(bench):
    bench.settings = dataclasses.replace(bench.settings, max_age_s=1.0)
    bench.process(FakePipeline(), stamped(-2.0))
    assert bench.outputs.frames == []
    assert bench.statistics.snapshot().too_old == 1
    bench.process(FakePipeline(), stamped(0.0))
    assert len(bench.outputs.frames) == 1
    bench.process(FakePipeline(), message(sec=12, header=Header()))  # no stamp, no age
    assert len(bench.outputs.frames) == 2


def test_a_frame_overtaken_on_the_way_is_dropped(bench):
    for nanosec in (0, 100, 50, 200):
        bench.process(FakePipeline(), message(header=Header(stamp=Time(sec=5, nanosec=nanosec * 10**6))))
    assert [frame[0].header.stamp.nanosec // 10**6 for frame in bench.outputs.frames] == [0, 100, 200]
    assert bench.statistics.snapshot().out_of_order == 1


def test_stamps_that_jump_back_restart_the_tracks(bench):
    pipeline = FakePipeline(standing_people())
    for sec in (100, 101, 102, 5, 6, 7):
        bench.process(pipeline, message(sec))
    ids = [set(frame[2].ids.tolist()) for frame in bench.outputs.frames]
    assert len(ids) == 6
    assert ids[2] == ids[0] and ids[5] == ids[3]
    assert not ids[2] & ids[5], "nobody gets the id of somebody from before"
    assert bench.statistics.snapshot().stamp_jumps == 1
    [(level, text)] = bench.logger.lines
    assert level == "warning" and "jumped back" in text


def test_a_stamp_that_cannot_be(bench):
    bench.process(FakePipeline(), message(header=Header(stamp=Time(sec=-5, nanosec=3))))
    assert len(bench.outputs.frames) == 1
    assert bench.statistics.snapshot().latency_s is None


def compressed(kind: str, image_format: str) -> CompressedImage:
    smooth = np.full((20, 30, 3), (200, 90, 30), np.uint8)
    written, data = cv2.imencode(kind, smooth[..., ::-1])
    assert written
    made = CompressedImage(header=Header(stamp=Time(sec=3), frame_id="lens"), format=image_format)
    made.data.frombytes(data.tobytes())
    return made


@pytest.mark.parametrize(
    ("kind", "image_format"),
    [(".jpg", "jpeg"), (".jpg", "bgr8; jpeg compressed bgr8"), (".png", "rgb8; png compressed "), (".png", "")],
)
def test_compressed_images(bench, kind, image_format):
    pipeline = FakePipeline()
    bench.process(pipeline, compressed(kind, image_format))
    [image] = pipeline.images
    assert image.shape == (20, 30, 3)
    assert np.abs(image.astype(int) - (200, 90, 30)).max() <= 3
    assert bench.outputs.frames[0][0].header.frame_id == "lens"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda data: data[:10], "no header"),
        (lambda data: data[:60], "not a picture"),
        (lambda data: b"BM" + data[2:], "must be JPEG or PNG"),
        (lambda data: b"", "must be JPEG or PNG"),
        (lambda data: data[:16] + b"\x00\x00\xff\xff\x00\x00\xff\xff" + data[24:], "65535 x 65535 pixels is larger"),
    ],
)
def test_malformed_compressed_images(bench, change, cause):
    sent = compressed(".png", "png")
    data = change(sent.data.tobytes())
    sent.data = type(sent.data)("B", data)
    bench.process(FakePipeline(), sent)
    assert bench.outputs.frames == []
    assert cause in bench.logger.lines[0][1]
    assert bench.statistics.snapshot().rejected.total() == 1


def test_images_that_are_too_large(bench):
    bench.settings = dataclasses.replace(bench.settings, max_image_megapixels=1)
    wide = rgb_to_message(np.zeros((100, 16_000, 3), np.uint8), Header())
    bench.process(FakePipeline(), wide)
    assert "image of 16000 x 100 pixels is larger than max_image_megapixels (1) allows" in bench.logger.lines[0][1]
    bench.settings = dataclasses.replace(bench.settings, max_image_megapixels=2)
    bench.process(FakePipeline(), wide)
    assert len(bench.outputs.frames) == 1


def test_depth_is_counted_when_it_is_asked_for(bench):
    depth = message(encoding="16UC1")
    bench.process(FakePipeline(), message(), depth)
    assert bench.outputs.frames[0][0].depth is depth
    assert bench.statistics.snapshot().paired == 0
    bench.settings = dataclasses.replace(bench.settings, use_depth=True)
    bench.outputs.by_depth = False  # it could not be used
    bench.process(FakePipeline(), message(), depth)
    counts = bench.statistics.snapshot()
    assert (counts.paired, counts.unpaired) == (0, 1)
    bench.outputs.by_depth = True
    bench.process(FakePipeline(), message(), depth)
    bench.process(FakePipeline(), message())
    counts = bench.statistics.snapshot()
    assert (counts.paired, counts.unpaired) == (1, 2)


def test_nothing_comes_of_a_frame_whose_work_was_given_up_meanwhile():
    bench = Bench()
    bench.processor.process(FakePipeline(standing_people()), Incoming(message()), lambda: True)
    now = bench.statistics.snapshot()
    assert bench.outputs.frames == [] and (now.processed, now.discarded, now.failed) == (0, 1, 0)
    bench.process(FakePipeline(standing_people()), message())
    assert bench.statistics.snapshot().processed == 1
