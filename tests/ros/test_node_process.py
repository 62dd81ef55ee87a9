"""The installed node as a process over DDS, with a model whose answer is known."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="needs onnx")
from kdc.msg import Keypoint, PersonPose, PoseArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_core.geometry import Letterbox
from kdc_ros.conversions import people_from_messages
from kdc_ros.image_conversion import image_to_rgb, rgb_to_message
from tests.ros import canned_model as canned
from tests.ros.processes import EXCHANGE_TIMEOUT_S, slowdown, wait_until

IMAGE_HW = (240, 320)
BRIGHT = np.full((*IMAGE_HW, 3), 180, np.uint8)
STAGES = ("preprocess (ms)", "inference (ms)", "decode (ms)", "masks (ms)")
DARK = np.zeros((*IMAGE_HW, 3), np.uint8)


def test_a_person_arrives_whole(start_node, make_peer, canned_model):
    node = start_node(model=canned_model)
    node.wait_ready()
    peer = make_peer(overlay=True)
    peer.wait_connected()
    poses = peer.answer_to(BRIGHT, stamp_s=100)
    assert (poses.header.stamp.sec, poses.header.stamp.nanosec) == (100, 123456789)
    assert poses.header.frame_id == "camera"
    assert (poses.image_height, poses.image_width) == IMAGE_HW
    [person] = poses.people
    expected = Letterbox.fit(IMAGE_HW, canned.INPUT_HW).to_source(canned.KEYPOINTS_XY)
    got = np.array([(k.x, k.y) for k in person.keypoints])
    assert np.allclose(got, expected, atol=0.5)
    assert person.keypoints[Keypoint.NOSE].score == pytest.approx(canned.SCORE, abs=0.05)

    for kept in (peer.masks, peer.markers, peer.overlays):
        assert wait_until(lambda kept=kept: kept, EXCHANGE_TIMEOUT_S)
    [masks] = peer.with_stamp(peer.masks, 100)[:1]
    assert masks.header == poses.header
    people, _ = people_from_messages(poses, masks)
    mask = people.mask(0)
    assert 0.03 < mask.mean() < 0.5
    x, y = expected[[5, 6, 11, 12]].mean(0).round().astype(int)  # the middle of the trunk
    assert mask[y, x]
    assert {m.header.frame_id for m in peer.markers[0].markers} == {"camera"}
    overlay = peer.with_stamp(peer.overlays, 100)[0]
    assert overlay.header == poses.header
    drawn = image_to_rgb(overlay)
    assert drawn.shape == BRIGHT.shape
    assert (drawn != BRIGHT).any(axis=2)[mask].mean() > 0.5

    # A frame without anybody is answered too.
    assert peer.answer_to(DARK, stamp_s=101).people == []
    assert wait_until(lambda: peer.with_stamp(peer.masks, 101), EXCHANGE_TIMEOUT_S)
    assert peer.with_stamp(peer.masks, 101)[0].masks == []

    # Bad frames are logged with their cause, and the node goes on.
    truncated = rgb_to_message(BRIGHT, Header())
    truncated.data = truncated.data[:1000]
    depth = rgb_to_message(BRIGHT, Header())
    depth.encoding = "32FC1"
    for message, cause in (
        (Image(), "0 x 0 pixels has nothing in it"),
        (truncated, "needs 230400 bytes, the message has 1000"),
        (depth, "encoding '32FC1' is not one of"),
    ):
        peer.send_until(message, lambda cause=cause: node.logged(cause))
    assert len(peer.answer_to(BRIGHT, stamp_s=102).people) == 1
    assert node.alive()

    code, seconds = node.stop(signal.SIGINT)
    assert code == 0
    assert seconds < 2
    assert not node.logged("Traceback")


def test_large_frames_arrive(start_node, make_peer, canned_model):
    node = start_node(model=canned_model)
    node.wait_ready()
    peer = make_peer()
    peer.wait_connected()
    large = np.full((1080, 1920, 3), 180, np.uint8)
    for stamp in (1, 2, 3):
        poses = peer.answer_to(large, stamp)
        assert len(poses.people) == 1
        assert (poses.image_height, poses.image_width) == (1080, 1920)


def test_ids_and_states_until_tracking_is_reset(start_node, make_peer, canned_model):
    node = start_node(model=canned_model)
    node.wait_ready()
    peer = make_peer()
    peer.wait_connected()
    people = [peer.answer_to(BRIGHT, stamp_s=100 + i).people[0] for i in range(3)]
    ids = {person.track_id for person in people}
    assert len(ids) == 1 and min(ids) > 0
    assert people[0].state == PersonPose.TENTATIVE
    assert people[2].state == PersonPose.TRACKED
    assert people[2].age_s == pytest.approx(2)
    assert (people[2].velocity_x, people[2].velocity_y) == pytest.approx((0, 0), abs=1)
    dark = peer.answer_to(DARK, stamp_s=103)
    assert [(p.track_id, p.state) for p in dark.unseen] == [(people[2].track_id, PersonPose.OCCLUDED)]
    assert peer.answer_to(BRIGHT, stamp_s=104).people[0].track_id in ids

    assert peer.trigger("/kdc/reset_tracking").success
    anew = peer.answer_to(BRIGHT, stamp_s=105)
    assert anew.people[0].track_id > max(ids)
    assert anew.people[0].state == PersonPose.TENTATIVE
    assert anew.unseen == []


def test_parameters_change_while_it_runs(start_node, make_peer, canned_model):
    node = start_node(model=canned_model)
    node.wait_ready()
    peer = make_peer()
    peer.wait_connected()
    assert len(peer.answer_to(BRIGHT, stamp_s=1).people) == 1
    refused = peer.set_parameter("person_threshold", 1.5)
    assert not refused.successful and refused.reason
    assert peer.set_parameter("person_threshold", 0.99).successful
    assert peer.answer_to(BRIGHT, stamp_s=2).people == []
    assert peer.set_parameter("person_threshold", 0.15).successful
    assert peer.set_parameter("masks", False).successful
    seen = len(peer.masks)
    assert len(peer.answer_to(BRIGHT, stamp_s=3).people) == 1
    time.sleep(0.3)
    assert len(peer.masks) == seen


def test_only_the_newest_frame_is_processed(start_node, make_peer, tmp_path):
    model = canned.write_canned_model(tmp_path / "slow.onnx", busy_work=1800)
    node = start_node(model=model, threads=1)
    node.wait_ready()
    peer = make_peer()
    peer.wait_connected()
    peer.answer_to(BRIGHT, stamp_s=1)
    time.sleep(1.0)  # whatever was sent twice is through
    before = len(peer.poses)
    for stamp in range(1000, 1100):
        peer.send_picture(BRIGHT, stamp)
        time.sleep(0.01)
    assert wait_until(lambda: peer.with_stamp(peer.poses, 1099), EXCHANGE_TIMEOUT_S), (
        "the newest frame was not processed"
    )
    stamps = [m.header.stamp.sec for m in peer.poses[before:]]
    assert stamps == sorted(stamps)
    assert len(stamps) < 60, "the network was meant to be slower than the camera"
    # Nothing old comes later.
    time.sleep(0.5)
    assert peer.poses[-1].header.stamp.sec == 1099
    code, seconds = node.stop(signal.SIGTERM)
    assert code == 0
    assert seconds < 2


def test_quality_of_service_and_silence_are_reported_once(start_node, make_peer, canned_model):
    node = start_node(model=canned_model, no_frame_timeout_s=0.6)
    node.wait_ready()
    node.wait_for_log("no frames on '/image' for 0.6 s; nobody publishes it", EXCHANGE_TIMEOUT_S)
    peer = make_peer()
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    for _ in range(2):
        peer.create_subscription(PoseArray, "/kdc/poses", latched)
    node.wait_for_log("a subscriber of '/kdc/poses' has an incompatible QoS (durability)", EXCHANGE_TIMEOUT_S)
    time.sleep(1.0)
    assert len(node.logged("incompatible QoS")) == 1
    assert len(node.logged("no frames on")) == 1
    peer.answer_to(BRIGHT, stamp_s=5)
    node.wait_for_log("frames on '/image' again", EXCHANGE_TIMEOUT_S)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"model": "/nowhere/none.onnx"}, "there is no model file at /nowhere/none.onnx"),
        ({"model": __file__}, "is not a usable ONNX model"),
        ({"person_threshold": 3.0}, "parameter 'person_threshold'"),
        ({"person_threshold": "high"}, "parameter 'person_threshold'"),
        ({"model": "~nobody123/x.onnx"}, "there is no model file at ~nobody123/x.onnx"),
        ({"model": "/" + 300 * "x"}, "File name too long"),
        ({"qos_overrides./diagnostics.publisher.depth": "abc"}, "depth"),
    ],
)
def test_a_start_that_cannot_be(start_node, parameters, told):
    node = start_node(**parameters)
    assert node.exit_code() == 1
    assert len(node.lines) == 1, "\n".join(node.lines)
    assert "FATAL" in node.lines[0]
    assert told in node.lines[0]


def test_an_unknown_backend(start_node, canned_model):
    node = start_node(model=canned_model, backend="abacus")
    assert node.exit_code() == 1
    assert len(node.lines) == 1
    assert "parameter 'backend' must be one of" in node.lines[0]


def test_a_signal_while_idle(start_node, canned_model):
    node = start_node(model=canned_model)
    node.wait_ready()
    code, seconds = node.stop(signal.SIGTERM)
    assert code == 0
    assert seconds < 2
    assert not node.logged("Traceback")


def test_an_impatient_second_signal(start_node, make_peer, tmp_path):
    """While the first one still waits for the frame in the network."""
    model = canned.write_canned_model(tmp_path / "very_slow.onnx", busy_work=6000)
    node = start_node(model=model, threads=1)
    node.wait_ready()
    peer = make_peer()
    peer.wait_connected()
    peer.send_picture(BRIGHT, 1)
    time.sleep(0.5)
    node.interrupt()
    time.sleep(0.2)
    code, _ = node.stop(signal.SIGINT)
    assert code == 0
    assert not node.logged("Traceback")


def test_a_signal_while_the_network_is_busy_for_long(start_node, make_peer, tmp_path):
    model = canned.write_canned_model(tmp_path / "very_slow.onnx", busy_work=6000)
    node = start_node(model=model, threads=1)
    node.wait_ready()
    peer = make_peer()
    peer.wait_connected()
    peer.send_picture(BRIGHT, 1)
    time.sleep(0.5)
    code, seconds = node.stop(signal.SIGINT)
    assert peer.poses == [], "the network was meant to be busy still"
    assert code == 0
    assert seconds < 2
    assert not node.logged("Traceback")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_while_the_network_is_being_loaded(start_node, tmp_path, number):
    model = canned.write_canned_model(tmp_path / "late.onnx", load_work=6000)
    node = start_node(model=model, threads=1)
    node.wait_for_loading()
    code, seconds = node.stop(number)
    assert not node.logged("waiting for images"), "the network was meant to be loading still"
    assert code == 0
    assert seconds < 2
    assert not node.logged("Traceback")


def test_a_signal_right_at_the_start(start_node, canned_model):
    node = start_node(model=canned_model)
    time.sleep(0.3)  # Python is still importing
    code, seconds = node.stop(signal.SIGTERM)
    assert code in (0, -signal.SIGTERM)
    assert seconds < 2
    assert not node.logged("Traceback")


def test_results_are_no_older_than_a_frame_interval_and_an_inference(start_node, make_peer, tmp_path):
    """A camera of 30 Hz in front of a network that takes longer: nothing queues up, what is skipped is counted."""
    model = canned.write_canned_model(tmp_path / "slow.onnx", busy_work=2000)
    node = start_node(model=model, threads=1)
    node.wait_ready()
    peer = make_peer()
    peer.wait_connected()
    peer.answer_to(BRIGHT, stamp_s=1)
    peer.listen_to_latency_and_diagnostics()
    interval_s, seconds, count = 1 / 30, 6.0, 0
    started = time.monotonic()
    while (now := time.monotonic()) < started + seconds:
        if now >= started + count * interval_s:
            peer.send_picture_of_now(BRIGHT)
            count += 1
        time.sleep(0.002)
    assert wait_until(lambda: peer.latencies_s and peer.diagnostics, EXCHANGE_TIMEOUT_S)
    output, counts = peer.diagnostic("output"), peer.diagnostic("input")
    inference_s = sum(float(v) for k, v in output.items() if k in STAGES) * 1e-3
    assert len(peer.latencies_s) < 0.9 * count, "the network was meant to be slower than the camera"
    assert min(peer.latencies_s) > 0
    # On a busy machine everything takes longer than the stages' own mean: hence the factor and the constant.
    limit_s = 2 * (interval_s + inference_s) + 0.1 * slowdown()
    p95_s = float(np.percentile(peer.latencies_s, 95))
    assert p95_s < limit_s, f"{p95_s:.3f} s; stages {inference_s:.3f} s"
    assert float(output["age p95 (ms)"]) > 0
    assert int(counts["dropped: superseded"]) > 0
    assert int(counts["received"]) >= int(output["processed"]) + int(counts["dropped: superseded"]) - 1
