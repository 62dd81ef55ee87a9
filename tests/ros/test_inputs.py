"""What the running node makes of its inputs over DDS: compressed images, depth, calibration, time, QoS."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="needs onnx")
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.inputs import Inputs
from kdc_ros.qos import RESULTS, MismatchLog, create_publisher, has_incompatible_peer
from tests.ros.fakes import FakeLogger
from tests.ros.node_bench import ACTIVATE, CONFIGURE, DEACTIVATE, values
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until

BRIGHT = np.full((48, 64, 3), 180, np.uint8)


def at(ms: int) -> Header:
    return Header(stamp=Time(sec=ms // 1000, nanosec=ms % 1000 * 10**6), frame_id="lens")


def picture(ms: int) -> Image:
    return rgb_to_message(BRIGHT, at(ms))


def depth(ms: int) -> Image:
    return Image(header=at(ms), height=2, width=2, encoding="16UC1", step=4, data=bytes(8))


@pytest.fixture
def frames(monkeypatch):
    """What goes from the processor to the outputs of a bench, kept by its stamp in milliseconds."""

    def watch(bench) -> dict:
        kept: dict = {}

        def keep(frame, *_) -> bool:
            stamp = frame.header.stamp
            kept[stamp.sec * 1000 + stamp.nanosec // 10**6] = frame
            return frame.depth is not None

        monkeypatch.setattr(bench.node._outputs, "publish", keep)
        return kept

    return watch


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_compressed_images(make_bench, canned_model, kind):
    bench = make_bench(model=str(canned_model), image_transport="compressed")
    bench.wait_for_state("active")
    data = cv2.imencode(kind, BRIGHT)[1].tobytes()
    sent = CompressedImage(header=at(5000), format=kind, data=data)
    bench.publish_until(lambda: sent, lambda: bench.poses, "image/compressed")
    assert bench.poses[0].header == sent.header
    assert (bench.poses[0].image_height, bench.poses[0].image_width) == BRIGHT.shape[:2]
    assert len(bench.poses[0].people) == 1


def test_depth_and_calibration_of_the_same_moment(make_bench, canned_model, frames):
    bench = make_bench(model=str(canned_model), use_depth=True, sync_slop_s=0.2)
    kept = frames(bench)
    bench.wait_for_state("active")
    for ms in (1000, 2000):
        bench.publish_until(lambda ms=ms: calibration(ms), lambda ms=ms: focal_lengths(bench).count(ms), "camera_info")
    ms = 1000

    def pair() -> Image:
        """The depth image first, then the colour image 40 ms away, at another stamp each time."""
        nonlocal ms
        ms += 1
        bench.publish(depth(ms + 40), "depth")
        return picture(ms)

    bench.publish_until(pair, lambda: any(frame.depth is not None for frame in kept.values()))
    ms_paired, paired = next((ms, frame) for ms, frame in kept.items() if frame.depth is not None)
    assert abs(paired.depth.header.stamp.nanosec / 10**6 - ms_paired % 1000) < 200
    assert paired.camera_info.k[0] == 1000, "the calibration nearest in time"

    # Without its depth image a frame goes on alone, once it has waited for the slop.
    before = bench.node._statistics.snapshot()
    bench.publish_until(lambda: picture(60_000), lambda: 60_000 in kept)
    assert kept[60_000].depth is None
    assert kept[60_000].camera_info.k[0] == 2000
    counts = bench.node._statistics.snapshot()
    assert counts.unpaired > before.unpaired
    assert counts.rejected.total() == counts.failed == 0
    shown = values(bench.status("input", lambda s: int(values(s)["without depth"]) > 0))
    assert int(shown["with depth"]) > 0


def calibration(ms: int) -> CameraInfo:
    """One of the picture, with its stamp in milliseconds for a focal length."""
    return CameraInfo(header=at(ms), width=64, height=48, k=[float(ms), 0.0, 31.5, 0.0, float(ms), 23.5, 0.0, 0.0, 1.0])


def focal_lengths(bench) -> list[float]:
    return [info.k[0] for info in bench.node._inputs._calibrations]


def infos(bench) -> list[int]:
    return [info.width for info in bench.node._inputs._calibrations]


def test_a_calibration_that_is_published_once_is_known_and_stays_known(make_bench, canned_model, frames):
    """Before the node is active, by a publisher that keeps it; and through a pause, by one that does not."""
    bench = make_bench(model=str(canned_model), autostart=False)
    kept = frames(bench)
    once = QoSProfile(
        depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )
    latched = bench.client.create_publisher(CameraInfo, f"{bench.namespace}/camera_info", once)
    latched.publish(CameraInfo(header=at(500), width=1))
    assert bench.change(CONFIGURE) and bench.change(ACTIVATE)
    assert wait_until(lambda: infos(bench) and set(infos(bench)) == {1}, EXCHANGE_TIMEOUT_S)
    bench.client.destroy_publisher(latched)
    bench.publish_until(lambda: CameraInfo(header=at(900), width=2), lambda: 2 in infos(bench), "camera_info")
    assert bench.change(DEACTIVATE) and bench.change(ACTIVATE)
    bench.publish_until(lambda: picture(1000), lambda: 1000 in kept)
    assert kept[1000].camera_info.width == 2
    assert not bench.node._mismatches.texts()


def test_simulated_time(make_bench, canned_model):
    bench = make_bench(model=str(canned_model), use_sim_time=True)
    bench.wait_for_state("active")  # although the simulation has not begun
    now = Clock(clock=Time(sec=500))
    bench.publish_until(lambda: now, lambda: bench.node.get_clock().now().nanoseconds > 0, "/clock")
    bench.publish_until(lambda: picture(499_750), lambda: bench.poses)
    assert bench.node._statistics.snapshot().latency_s == pytest.approx(0.25)
    bench.publish_until(lambda: picture(500_500), lambda: len(bench.poses) > 1 and answered(bench, 500))
    counts = bench.node._statistics.snapshot()
    assert counts.latency_s is None and counts.odd_stamps > 0, "ahead of the clock there is no age"
    # The simulation starts again.
    bench.publish_until(lambda: picture(1_000), lambda: answered(bench, 1))
    assert bench.node._statistics.snapshot().stamp_jumps == 1
    message = bench.status("output")
    assert "-" not in values(message)["age p95 (ms)"]


def answered(bench, sec: int) -> bool:
    return any(poses.header.stamp.sec == sec for poses in bench.poses)


def test_a_mismatch_is_shown_in_diagnostics(make_bench, canned_model):
    bench = make_bench(model=str(canned_model), image_reliability="reliable")
    bench.wait_for_state("active")
    bench.publish(picture(1), qos=QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    status = bench.status("input", lambda s: s.level == s.WARN)
    assert "has an incompatible QoS (reliability): nothing will arrive from it" in status.message


def test_quality_of_service_by_parameter(make_bench, canned_model):
    bench = make_bench(
        **{
            "model": str(canned_model),
            "qos_overrides.{namespace}/kdc/poses.publisher.durability": "transient_local",
            "qos_overrides.{namespace}/image.subscription.durability": "transient_local",
        }
    )
    bench.wait_for_state("active")
    for names in (("kdc/poses", "image"), ("kdc/masks", "camera_info")):
        durability = DurabilityPolicy.TRANSIENT_LOCAL if "image" in names else DurabilityPolicy.VOLATILE
        published, subscribed = (f"{bench.namespace}/{name}" for name in names)

        def told(published=published, subscribed=subscribed) -> list:
            offers = bench.client.get_publishers_info_by_topic(published)
            return [*offers, *bench.client.get_subscriptions_info_by_topic(subscribed)]

        # The client listens to the poses; only the node's own side counts.
        assert wait_until(lambda told=told: len(told()) == 2, EXCHANGE_TIMEOUT_S)
        assert {info.qos_profile.durability for info in told()} == {durability}


def test_of_calibrations_without_a_time_the_newest_holds():
    calibrations = deque(CameraInfo(width=width) for width in (1, 2, 3))
    inputs = Inputs(None, None, None, None, None, calibrations)
    assert inputs._calibration(picture(5000)).width == 3
    assert inputs._calibration(Image()).width == 3
    calibrations.append(CameraInfo(header=at(4000), width=4))
    calibrations.append(CameraInfo(header=at(9000), width=5))
    assert inputs._calibration(picture(5000)).width == 4


def test_a_calibration_without_a_time_ends_those_with_one():
    calibrations = deque(CameraInfo(header=at(4000 + n), width=n + 1) for n in range(3))
    inputs = Inputs(None, None, None, None, None, calibrations)
    inputs._on_calibration(CameraInfo(width=9))
    assert inputs._calibration(picture(4000)).width == 9
    inputs._on_calibration(CameraInfo(header=at(4500), width=10))
    assert inputs._calibration(picture(4000)).width == 10


def test_depth_that_cannot_be_used_is_no_depth(make_bench, canned_model):
    """Malformed, and then of another shape: counted as such, with a warning in diagnostics."""
    bench = make_bench(model=str(canned_model), use_depth=True, sync_slop_s=0.2)
    bench.wait_for_state("active")
    bench.publish_until(lambda: calibration(1000), lambda: bench.node._inputs._calibrations, "camera_info")
    ms = 1000
    for broken, cause in (
        ({"encoding": "8UC1"}, "the depth image is not used: "),
        ({"height": 64, "width": 32}, "it has 32 x 64 pixels"),
    ):

        def pair(broken=broken) -> Image:
            nonlocal ms
            ms += 1
            bad = Image(header=at(ms), height=48, width=64, encoding="16UC1", step=128, data=bytes(64 * 128))
            for name, value in broken.items():
                setattr(bad, name, value)
            bench.publish(bad, "depth")
            return picture(ms)

        def told(cause=cause) -> bool:
            inputs = [s for m in list(bench.diagnostics) for s in m.status if s.name.endswith(": input")]
            causes = [key for s in inputs if s.level == s.WARN and "depth" in s.message for key in values(s)]
            return any(key.startswith("unusable: ") and cause in key for key in causes)

        bench.publish_until(pair, told)
    assert bench.node._statistics.snapshot().paired == 0


def test_an_incompatible_peer_that_has_gone_is_no_longer_told(ros):
    node = rclpy.create_node("kept")
    logger = FakeLogger()
    now_s = [0.0]
    log = MismatchLog(logger, lambda topic: has_incompatible_peer(node, topic), lambda: now_s[0])
    peer = rclpy.create_node("passing")
    publisher = create_publisher(node, CameraInfo, "told", RESULTS, log)
    try:
        peer.create_subscription(
            CameraInfo, "told", print, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        )
        peer.create_subscription(CameraInfo, "other", print, 1)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        assert wait_until(lambda: executor.spin_once(0.05) or log.texts(), EXCHANGE_TIMEOUT_S)
        now_s[0] = log.LEAST_S
        assert len(log.texts()) == 1 and "durability" in log.texts()[0]
        peer.destroy_node()
        assert wait_until(lambda: not log.texts(), EXCHANGE_TIMEOUT_S)
        assert len(logger.lines) == 1
    finally:
        node.destroy_publisher(publisher)
        node.destroy_node()
