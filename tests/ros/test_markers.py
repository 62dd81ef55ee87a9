"""Markers: stable ids and colours, deletion of those who leave, and their place in space."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from kdc_core.types import People
from kdc_ros.camera import Pinhole
from kdc_ros.markers import PLANE_DEPTH_M, MarkerBuilder
from tests.ros.fakes import random_people

HEADER = Header(frame_id="optical")
IMAGE_HW = (480, 640)
CAMERA = Pinhole.guess(IMAGE_HW)


def by_action(message, action):
    return {(m.ns, m.id) for m in message.markers if m.action == action}


def test_each_person_has_joints_bones_and_a_label():
    people = random_people(2, IMAGE_HW, masks=False)
    message = MarkerBuilder(0.2).build(people, np.array([7, 9]), HEADER, CAMERA)
    assert by_action(message, Marker.ADD) == {(n, i) for n in ("joints", "bones", "labels") for i in (7, 9)}
    for marker in message.markers:
        assert marker.header == HEADER
        assert marker.pose.orientation.w == 1.0
        assert marker.color.a == 1.0
    joints = next(m for m in message.markers if (m.ns, m.id) == ("joints", 7))
    visible = people.keypoint_scores[0] >= 0.2
    assert len(joints.points) == visible.sum()
    x, y = people.keypoints_xy[0][visible][0]
    point = joints.points[0]
    assert point.z == PLANE_DEPTH_M
    # Projected back, the marker covers the pixel.
    assert point.x / point.z * CAMERA.fx + CAMERA.cx == pytest.approx(x, abs=1e-3)
    assert point.y / point.z * CAMERA.fy + CAMERA.cy == pytest.approx(y, abs=1e-3)
    bones = next(m for m in message.markers if (m.ns, m.id) == ("bones", 7))
    assert len(bones.points) % 2 == 0
    serialize_message(message)


def test_who_leaves_is_deleted_once():
    builder = MarkerBuilder()
    people = random_people(2, IMAGE_HW, masks=False)
    builder.build(people, np.array([7, 9]), HEADER, CAMERA)
    one = People(
        people.keypoints_xy[:1], people.keypoint_scores[:1], people.scores[:1], people.boxes_xyxy[:1]
    )
    message = builder.build(one, np.array([9]), HEADER, CAMERA)
    assert by_action(message, Marker.DELETE) == {(n, 7) for n in ("joints", "bones", "labels")}
    message = builder.build(People.empty(), np.zeros(0, int), HEADER, CAMERA)
    assert by_action(message, Marker.DELETE) == {(n, 9) for n in ("joints", "bones", "labels")}
    assert builder.build(People.empty(), np.zeros(0, int), HEADER, CAMERA).markers == []


def test_untracked_people_have_slots_that_meet_no_track_id():
    builder = MarkerBuilder()
    people = random_people(3, IMAGE_HW, masks=False)
    message = builder.build(people, np.array([0, 1, 0]), HEADER, CAMERA)
    assert {m.id for m in message.markers} == {-1, 1, -3}


def test_colours_belong_to_the_track():
    people = random_people(2, IMAGE_HW, masks=False)
    first = MarkerBuilder().build(people, np.array([4, 5]), HEADER, CAMERA)
    second = MarkerBuilder().build(people, np.array([5, 4]), HEADER, CAMERA)
    colours = [
        {m.id: (m.color.r, m.color.g, m.color.b) for m in message.markers} for message in (first, second)
    ]
    assert colours[0] == colours[1]
    assert colours[0][4] != colours[0][5]


def test_a_person_without_visible_joints_shows_no_empty_lists():
    people = random_people(1, IMAGE_HW, masks=False)
    message = MarkerBuilder(keypoint_threshold=1.1).build(people, np.array([3]), HEADER, CAMERA)
    assert by_action(message, Marker.ADD) == {("labels", 3)}
    assert by_action(message, Marker.DELETE) == {("joints", 3), ("bones", 3)}


def test_pinhole_from_camera_info():
    info = CameraInfo(width=1280, height=960)
    info.k = [1000.0, 0.0, 639.5, 0.0, 990.0, 479.5, 0.0, 0.0, 1.0]
    same = Pinhole.from_camera_info(info, (960, 1280))
    assert (same.fx, same.fy, same.cx, same.cy) == (1000.0, 990.0, 639.5, 479.5)
    half = Pinhole.from_camera_info(info, (480, 640))
    assert (half.fx, half.fy, half.cx, half.cy) == (500.0, 495.0, 319.5, 239.5)
    assert Pinhole.from_camera_info(CameraInfo(width=640, height=480), (480, 640)) is None
    assert np.allclose(half.to_plane(np.array([819.5, 239.5]), 2.0), [2.0, 0.0, 2.0])
