"""The real node with depth: image, depth image and calibration go in over DDS, people in space come out."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="needs onnx to write the canned model")
import rclpy
from builtin_interfaces.msg import Time
from kdc.msg import Keypoint, PersonPose
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from kdc_ros.image_conversion import rgb_to_message
from tests.ros.canned_model import KEYPOINTS_XY
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until

SIZE = 320  # five times the canned model's input
FOCAL, CENTRE = 300.0, 159.5
K = [FOCAL, 0.0, CENTRE, 0.0, FOCAL, CENTRE, 0.0, 0.0, 1.0]
WALL_MM, PERSON_MM, HAND_MM = 6000, 2500, 2000


def header_of(stamp_s: int) -> Header:
    return Header(stamp=Time(sec=stamp_s), frame_id="optical")


def depth_of_the_canned_person(header: Header) -> Image:
    """Half the image's size: a person before a wall, one hand stretched out, holes in the wall; 16UC1."""
    depth = np.full((SIZE // 2, SIZE // 2), WALL_MM, np.uint16)
    depth[::7, ::5] = 0
    depth[10:155, 40:120] = PERSON_MM
    x, y = (KEYPOINTS_XY[Keypoint.LEFT_WRIST] * 2.5).astype(int)
    depth[y - 8 : y + 9, x - 8 : x + 9] = HAND_MM
    message = Image(header=header, height=SIZE // 2, width=SIZE // 2, encoding="16UC1", step=SIZE)
    message.data = array("B", depth.tobytes())
    return message


@pytest.fixture
def camera(ros):
    """A node that publishes image, depth and calibration."""
    node = rclpy.create_node("depth_camera")
    yield {
        kind: node.create_publisher(message, topic, 1)
        for kind, message, topic in (
            ("image", Image, "image"),
            ("depth", Image, "depth"),
            ("camera_info", CameraInfo, "camera_info"),
        )
    }
    node.destroy_node()


def test_people_in_space(start_node, make_peer, camera, canned_model):
    node = start_node(model=canned_model, use_depth=True, sync_slop_s=0.5)
    node.wait_ready()
    peer = make_peer()
    assert wait_until(
        lambda: all(publisher.get_subscription_count() > 0 for publisher in camera.values()), EXCHANGE_TIMEOUT_S
    )
    picture = np.full((SIZE, SIZE, 3), 200, np.uint8)
    measured: list[PersonPose] = []
    for stamp_s in range(100, 130):
        image = rgb_to_message(picture, header_of(stamp_s))
        camera["camera_info"].publish(CameraInfo(header=image.header, width=SIZE, height=SIZE, k=K))
        camera["depth"].publish(depth_of_the_canned_person(image.header))
        camera["image"].publish(image)
        wait_until(lambda s=stamp_s: peer.with_stamp(peer.poses, s), 2.0)
        people = [person for message in peer.poses for person in message.people]
        measured = [person for person in people if person.position_source == PersonPose.POSITION_DEPTH]
        if measured:
            break
    assert measured, "no person was measured by depth"
    person = measured[0]
    assert person.root.z == pytest.approx(PERSON_MM / 1000)
    assert 0 < person.distance_std_m < 0.1
    for k, keypoint in enumerate(person.keypoints):
        expected = HAND_MM if k == Keypoint.LEFT_WRIST else PERSON_MM
        assert keypoint.position.z == pytest.approx(expected / 1000), k
        # The point projects onto the keypoint.
        assert keypoint.position.x / keypoint.position.z * FOCAL + CENTRE == pytest.approx(keypoint.x, abs=0.01)
        assert keypoint.position.y / keypoint.position.z * FOCAL + CENTRE == pytest.approx(keypoint.y, abs=0.01)
