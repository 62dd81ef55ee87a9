"""Markers: stable ids and colours, deletion of those who leave, and their place in space."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from rclpy.serialization import serialize_message
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from kdc_core.camera import CameraModel
from kdc_core.positions import Positions, PositionSource
from kdc_core.types import People
from kdc_ros.markers import PLANE_DEPTH_M, MarkerBuilder
from tests.ros.fakes import random_people

HEADER = Header(frame_id="optical")
IMAGE_HW = (480, 640)
CAMERA = CameraModel.guess(IMAGE_HW)


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


def test_labels_where_the_lens_model_knows_no_way():
    """A wide lens: the label of somebody whose box begins beyond it stands at the highest joint in view; or nowhere."""
    wide = CameraModel(286, 286, 420, 400, (-0.0087, 0.0412, -0.0385, 0.0067), "equidistant")
    people = random_people(2, (800, 848), masks=False)
    people.boxes_xyxy[:, :2] = 1.0  # the picture's corner, beyond 90 degrees
    people.keypoint_scores[:] = 0.9
    people.keypoints_xy[0] = np.stack([np.linspace(400, 440, 17), np.linspace(300, 500, 17)], axis=1)
    people.keypoints_xy[1] = 2.0
    message = MarkerBuilder(0.2).build(people, np.array([7, 9]), HEADER, wide)
    assert by_action(message, Marker.ADD) == {(n, 7) for n in ("joints", "bones", "labels")}
    assert by_action(message, Marker.DELETE) == {(n, 9) for n in ("joints", "bones", "labels")}
    label = next(m for m in message.markers if (m.ns, m.id) == ("labels", 7))
    highest = wide.to_plane(people.keypoints_xy[0, 0], PLANE_DEPTH_M)
    assert label.pose.position.x == pytest.approx(highest[0])
    assert highest[1] - 0.5 < label.pose.position.y < highest[1]
    for marker in message.markers:
        place = marker.pose.position
        assert np.isfinite([place.x, place.y, place.z]).all()
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


def positions_of(people, source, depth_m):
    """Places for people: all at one depth."""
    positions = Positions.unknown(len(people))
    if source == PositionSource.DEPTH:
        positions.keypoints_m[:] = CAMERA.to_plane(people.keypoints_xy, depth_m)
    positions.roots_m[:] = (0.0, 0.0, depth_m)
    positions.stds_m[:] = 0.25
    positions.sources[:] = source
    return positions


def test_a_measured_person_stands_in_space():
    people = random_people(1, IMAGE_HW, masks=False)
    positions = positions_of(people, PositionSource.DEPTH, 3.0)
    visible = np.flatnonzero(people.keypoint_scores[0] >= 0.2)
    positions.keypoints_m[0, visible[0]] = np.nan  # a hole in the depth image
    positions.keypoints_m[0, visible[1], 2] = 2.5
    message = MarkerBuilder(0.2).build(people, np.array([4]), HEADER, CAMERA, positions)
    joints, bones, label = message.markers
    assert [(p.x, p.y, p.z) for p in joints.points] == [tuple(positions.keypoints_m[0, k]) for k in visible[1:]]
    assert all(np.isfinite((p.x, p.y, p.z)).all() for p in bones.points)
    assert joints.scale.x == pytest.approx(0.05)
    assert label.text.endswith("3.00 m")
    assert label.pose.position.y < min(p.y for p in joints.points)  # above the head
    serialize_message(message)


def test_an_estimated_person_is_a_flat_figure_at_that_distance():
    people = random_people(1, IMAGE_HW, masks=False)
    at = {}
    for depth_m in (2.0, 4.0):
        positions = positions_of(people, PositionSource.ESTIMATED, depth_m)
        message = MarkerBuilder(0.2).build(people, np.array([4]), HEADER, CAMERA, positions)
        at[depth_m] = message.markers
        places = np.array([(p.x, p.y, p.z) for p in message.markers[0].points])
        visible = people.keypoint_scores[0] >= 0.2
        assert np.allclose(places[:, 2], depth_m)
        assert np.allclose(CAMERA.project(places), people.keypoints_xy[0, visible], atol=1e-2)
    assert at[4.0][0].scale.x == pytest.approx(2 * at[2.0][0].scale.x)
    assert at[4.0][2].text.endswith("~4.0 m +- 0.2")


def test_a_measured_person_without_measured_joints_keeps_the_label():
    people = random_people(1, IMAGE_HW, masks=False)
    positions = positions_of(people, PositionSource.DEPTH, 3.0)
    positions.keypoints_m[:] = np.nan
    message = MarkerBuilder(0.2).build(people, np.array([4]), HEADER, CAMERA, positions)
    assert by_action(message, Marker.ADD) == {("labels", 4)}
    assert message.markers[2].pose.position.z == 3.0
