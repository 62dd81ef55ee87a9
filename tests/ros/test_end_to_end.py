"""The real node with the shipped network: a photograph of a person goes in over DDS, the person comes out."""

from __future__ import annotations

import signal

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
skimage_data = pytest.importorskip("skimage.data", reason="needs scikit-image")
from kdc.msg import Keypoint  # noqa: E402

from kdc_ros.conversions import people_from_messages  # noqa: E402
from kdc_ros.image_conversion import image_to_rgb  # noqa: E402
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until  # noqa: E402


def test_a_photograph(start_node, make_peer, shipped_model):
    image = np.ascontiguousarray(skimage_data.astronaut())
    assert image.shape == (512, 512, 3)
    node = start_node()  # the network that the node finds by itself
    node.wait_ready()
    assert node.logged(shipped_model.name)
    peer = make_peer(overlay=True)
    peer.wait_connected()
    poses = peer.answer_to(image, stamp_s=1700000000)
    assert poses.header.stamp.nanosec == 123456789
    assert poses.header.frame_id == "camera"
    assert (poses.image_height, poses.image_width) == (512, 512)
    assert poses.people
    best = max(poses.people, key=lambda person: person.score)
    # Measured by eye in the picture; the shoulders are inside a wide space suit, and the network takes the collar's
    # ring for the right one (62 px away).
    face = {Keypoint.NOSE: (218, 127), Keypoint.LEFT_EYE: (242, 104), Keypoint.RIGHT_EYE: (200, 104)}
    shoulders = {Keypoint.LEFT_SHOULDER: (318, 255), Keypoint.RIGHT_SHOULDER: (100, 242)}
    for places, reach_px in ((face, 22), (shoulders, 70)):
        for joint, (x, y) in places.items():
            keypoint = best.keypoints[joint]
            distance_px = np.hypot(keypoint.x - x, keypoint.y - y)
            assert distance_px < reach_px, f"joint {joint} at {keypoint.x:.0f}, {keypoint.y:.0f}"
    assert min(best.keypoints[joint].score for joint in face) > 0.2

    assert wait_until(lambda: peer.with_stamp(peer.masks, 1700000000), EXCHANGE_TIMEOUT_S)
    masks = peer.with_stamp(peer.masks, 1700000000)[0]
    assert masks.header == poses.header
    people, track_ids = people_from_messages(poses, masks)
    mask = people.mask(poses.people.index(best))
    assert 0.6 < masks.masks[poses.people.index(best)].mask_score <= 1
    assert 0.15 < mask.mean() < 0.75
    assert mask[90:150, 190:245].mean() > 0.8  # the face
    assert mask[200:310, 150:290].mean() > 0.8  # collar and chest
    assert mask[:60, 380:].mean() < 0.2  # the wall
    assert track_ids[poses.people.index(best)] > 0

    assert wait_until(lambda: peer.with_stamp(peer.overlays, 1700000000), EXCHANGE_TIMEOUT_S)
    overlay = peer.with_stamp(peer.overlays, 1700000000)[0]
    assert overlay.header == poses.header
    assert (image_to_rgb(overlay) != image).any(axis=2).mean() > 0.05

    code, seconds = node.stop(signal.SIGINT)
    assert code == 0
    assert seconds < 2


def test_nobody_there(start_node, make_peer, shipped_model):
    node = start_node(model=shipped_model)
    node.wait_ready()
    peer = make_peer()
    peer.wait_connected()
    grey = np.full((300, 400, 3), 120, np.uint8)
    poses = peer.answer_to(grey, stamp_s=7)
    assert poses.people == []
    assert (poses.image_height, poses.image_width) == (300, 400)
    assert wait_until(lambda: peer.with_stamp(peer.masks, 7), EXCHANGE_TIMEOUT_S)
    assert peer.with_stamp(peer.masks, 7)[0].masks == []
    for height, width in ((1, 1), (1, 500), (480, 3)):  # nothing to see, nothing to fall over
        stamp = 1000 * height + width
        odd = peer.answer_to(np.zeros((height, width, 3), np.uint8), stamp)
        assert (odd.image_height, odd.image_width) == (height, width)
    assert node.alive()
