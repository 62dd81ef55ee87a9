"""Messages as nobody should send them, through conversion, pipeline and publication: none may do harm."""

from __future__ import annotations

import struct
from array import array

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="needs onnx")
import cv2
from builtin_interfaces.msg import Time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.clock import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from kdc_core.pipeline import Pipeline
from kdc_ros.conversions import masks_to_message, poses_to_message
from kdc_ros.frame_processor import FrameProcessor
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.image_conversion import SUPPORTED_ENCODINGS
from kdc_ros.inputs import Incoming
from kdc_ros.parameters import Settings
from kdc_ros.tracking import TrackIds
from tests.ros.fakes import FakeLogger

RAW_CASES, COMPRESSED_CASES = 1500, 500
# Small pictures, so that thousands take seconds; larger sizes only claimed, never carried.
sides = st.one_of(st.integers(0, 40), st.sampled_from([1, 2, 16_384, 2**31, 2**32 - 1]))
stamps = st.builds(
    Time, sec=st.sampled_from([0, 5, 10**9, -1, -(2**31), 2**31 - 1]), nanosec=st.sampled_from([0, 1, 2**32 - 1])
)
headers = st.builds(Header, stamp=stamps, frame_id=st.sampled_from(["", "lens", "\u00e9\u4eba", "a b/c" * 50]))
BYTES_PER_PIXEL = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "yuyv": 2, "uyvy": 2, "yuv422": 2, "yuv422_yuy": 2}
encodings = st.one_of(
    st.sampled_from(SUPPORTED_ENCODINGS),
    st.sampled_from(["32FC1", "16UC1", "8UC3", "RGB8", "", "bgr8; jpeg", "nv24", "\u00e9"]),
)


@st.composite
def raw_images(draw) -> Image:
    """Well-formed, with some of its fields changed: that goes deepest."""
    encoding = draw(encodings)
    height, width = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    row_bytes = width * BYTES_PER_PIXEL.get(encoding.rstrip("12346"), 1) * (2 if encoding.endswith("16") else 1)
    step = row_bytes + draw(st.sampled_from([0, 0, 1, 7]))
    size = step * height * (3 if encoding.startswith("nv") else 2) // 2
    message = Image(
        header=draw(headers), height=height, width=width, encoding=encoding, step=step,
        is_bigendian=draw(st.integers(0, 2)), data=array("B", bytes([draw(st.sampled_from([0, 150, 255]))]) * size),
    )  # fmt: skip
    for name in draw(st.lists(st.sampled_from(["height", "width", "step", "encoding", "data"]), max_size=2)):
        if name == "data":
            message.data = message.data[: draw(st.integers(0, size))]
        else:
            setattr(message, name, draw(encodings if name == "encoding" else sides))
    return message


def _picture_file(kind: str) -> bytes:
    return cv2.imencode(kind, np.full((24, 32, 3), 150, np.uint8))[1].tobytes()


FORMATS = ["jpeg", "png", "bgr8; jpeg compressed bgr8", "32FC1; compressedDepth", "bayer_rggb8; png", ""]
PICTURE_FILES = [_picture_file(kind) for kind in (".jpg", ".png", ".bmp", ".webp", ".tiff")]


@st.composite
def compressed_images(draw) -> CompressedImage:
    """Picture files with bytes changed, cut off and put in, and plain noise."""
    data = bytearray(draw(st.one_of(st.sampled_from(PICTURE_FILES), st.binary(max_size=200))))
    damage = draw(st.sampled_from(["none", "bytes", "end", "size"]))
    if damage == "bytes" and data:
        for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
            data[at] ^= 0x55
    elif damage == "end":
        data = data[: draw(st.integers(0, len(data)))]
    elif damage == "size" and len(data) > 24:  # a PNG that claims another size
        data[16:24] = struct.pack(">II", draw(sides), draw(sides))
    kind = draw(st.sampled_from(FORMATS))
    return CompressedImage(header=draw(headers), format=kind, data=array("B", bytes(data)))


class Bench:
    """A frame processor with a real pipeline; what comes out is checked as it would be published."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.statistics = FrameStatistics()
        self.logger = FakeLogger()
        # 1 megapixel: a claim of 16384 x 40 is real work, thousands of which would take minutes.
        self.processor = FrameProcessor(
            self, TrackIds(), lambda: Settings(max_image_megapixels=1), self.statistics, Clock(), self.logger
        )

    def publish(self, frame, result, tracks, settings) -> bool:
        height, width = result.image_hw
        assert (height, width) == frame.image.shape[:2]
        poses = poses_to_message(result.people, tracks, frame.header, result.image_hw)
        assert poses.header == frame.header
        for person in poses.people:
            assert 0 <= person.score <= 1
            assert 0 <= person.x_min <= person.x_max <= width - 1
            assert 0 <= person.y_min <= person.y_max <= height - 1
            for keypoint in person.keypoints:
                assert 0 <= keypoint.score <= 1
                assert np.isnan(keypoint.x) if keypoint.score == 0 else abs(keypoint.x) < 4 * max(width, height) + 64
        for mask in masks_to_message(result.people, tracks.ids, frame.header).masks:
            assert mask.roi.x_offset + mask.roi.width <= width
            assert mask.roi.y_offset + mask.roi.height <= height
            assert sum(mask.counts) == mask.roi.width * mask.roi.height

    def process(self, message) -> None:
        before = self.statistics.snapshot()
        self.processor.process(self.pipeline, Incoming(message))
        after = self.statistics.snapshot()
        assert after.failed == before.failed, self.logger.lines[-1]
        outcomes = [
            after.processed - before.processed,
            after.rejected.total() - before.rejected.total(),
            after.out_of_order - before.out_of_order,
        ]
        assert sum(outcomes) == 1, "each frame ends in exactly one way"
        assert after.age_p95_s is None or after.age_p95_s >= 0


@pytest.fixture(scope="module")
def fuzzed(canned_model):
    bench = Bench(Pipeline.load(canned_model, threads=1))
    yield bench
    bench.pipeline.close()


unhurried = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


def test_raw_images(fuzzed):
    @settings(max_examples=RAW_CASES, **unhurried)
    @given(raw_images())
    def fuzz(message):
        fuzzed.process(message)

    fuzz()
    counts = fuzzed.statistics.snapshot()
    assert counts.processed > 100 and counts.rejected.total() > 100, "both ends must be reached"


def test_compressed_images(fuzzed):
    before = fuzzed.statistics.snapshot()

    @settings(max_examples=COMPRESSED_CASES, **unhurried)
    @given(compressed_images())
    def fuzz(message):
        fuzzed.process(message)

    fuzz()
    counts = fuzzed.statistics.snapshot()
    assert counts.processed > before.processed + 30, "some pictures must still be readable"
