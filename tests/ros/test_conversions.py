"""People -> messages -> people, and the masks on the wire against COCO's own tools."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from builtin_interfaces.msg import Time
from kdc.msg import (
    InstanceMask,
    InstanceMaskArray,
    InstancePolygons,
    Keypoint,
    PersonPose,
    PolygonRing,
    PoseArray,
)
from pycocotools import mask as coco_mask
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from kdc_core.polygons import rings_to_mask
from kdc_core.positions import Positions, PositionSource
from kdc_core.skeleton import KEYPOINT_NAMES, NUM_KEYPOINTS
from kdc_core.tracking import FrameTracks, TrackState
from kdc_core.types import People
from kdc_ros.conversions import (
    PersonPool,
    label_image_to_message,
    mask_from_message,
    mask_to_message,
    masks_to_message,
    people_from_messages,
    polygons_to_message,
    poses_to_message,
    positions_from_message,
    rings_from_message,
    tracks_from_message,
)
from kdc_ros.tracking import TrackIds
from tests.ros.fakes import random_people
from tests.tracking.standing import people as people_at

HEADER = Header(stamp=Time(sec=1234567890, nanosec=987654321), frame_id="camera_optical")


def random_tracks(count: int) -> FrameTracks:
    """Identities with random numbers in them, of which the first is none."""
    rng = np.random.default_rng(count)
    velocities = rng.normal(size=(count, 2)).astype(np.float32) * 100
    velocities[:1] = np.nan
    return FrameTracks(
        ids=np.arange(count, dtype=np.int32) * 3,
        states=np.arange(count, dtype=np.uint8) % 3,
        ages_s=rng.random(count, np.float32),
        velocities_xy=velocities,
    )


def over_the_wire(message):
    """The message as a receiver gets it."""
    return deserialize_message(serialize_message(message), type(message))


def test_joint_constants_are_the_skeleton():
    for index, name in enumerate(KEYPOINT_NAMES):
        assert getattr(Keypoint, name.upper()) == index
    assert Keypoint.COUNT == NUM_KEYPOINTS == len(PersonPose().keypoints)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_round_trip_is_lossless(count):
    image_hw = (31, 45)
    people = random_people(count, image_hw, seed=count)
    tracks = random_tracks(count)
    ids = tracks.ids
    poses = over_the_wire(poses_to_message(people, tracks, HEADER, image_hw))
    masks = over_the_wire(masks_to_message(people, ids, HEADER))
    assert poses.header == masks.header == HEADER
    assert (poses.image_height, poses.image_width) == (masks.image_height, masks.image_width) == image_hw
    assert [m.track_id for m in masks.masks] == ids.tolist()
    assert np.array_equal(np.array([m.score for m in masks.masks], np.float32), people.scores)
    polygons = over_the_wire(polygons_to_message(people, ids, HEADER, 1.0))
    for instances in (masks.masks, polygons.instances):
        assert np.array_equal(np.array([m.mask_score for m in instances], np.float32), people.mask_scores)

    back, back_ids = people_from_messages(poses, masks)
    found = people.keypoint_scores > 0
    assert np.array_equal(back.keypoints_xy[found], people.keypoints_xy[found])
    assert np.array_equal(back.keypoint_scores, people.keypoint_scores)
    assert np.array_equal(back.scores, people.scores)
    assert np.array_equal(back.boxes_xyxy, people.boxes_xyxy)
    assert np.array_equal(back.mask_labels, people.mask_labels)
    assert np.array_equal(back.mask_scores, people.mask_scores)
    assert np.array_equal(back_ids, ids)
    back_tracks = tracks_from_message(poses)
    for name in ("ids", "states", "ages_s", "velocities_xy"):
        value = getattr(back_tracks, name)
        assert value.dtype == getattr(tracks, name).dtype
        assert np.array_equal(value, getattr(tracks, name), equal_nan=value.dtype.kind == "f"), name


def test_a_mask_score_that_is_not_known():
    people = dataclasses.replace(random_people(2, (8, 8)), mask_scores=None)
    tracks = FrameTracks.untracked(2)
    masks = over_the_wire(masks_to_message(people, tracks.ids, HEADER))
    assert all(math.isnan(m.mask_score) for m in masks.masks)
    poses = poses_to_message(people, tracks, HEADER, (8, 8))
    assert people_from_messages(poses, masks)[0].mask_scores is None
    # One that is known does not help: there is one for everybody, or none.
    masks.masks[0].mask_score = 0.5
    assert people_from_messages(poses, masks)[0].mask_scores is None


def test_a_missing_keypoint_has_no_place():
    people = random_people(3, (8, 8))
    message = over_the_wire(poses_to_message(people, FrameTracks.untracked(3), HEADER, (8, 8)))
    for person, scores in zip(message.people, people.keypoint_scores):
        for keypoint, score in zip(person.keypoints, scores):
            assert math.isnan(keypoint.x) == math.isnan(keypoint.y) == (score == 0)
            assert math.isnan(keypoint.position.x)  # no depth: unknown for all
    back, _ = people_from_messages(message)
    assert np.all(back.keypoints_xy[people.keypoint_scores == 0] == 0)


def test_positions_travel():
    people = random_people(2, (8, 8))
    rng = np.random.default_rng(1)
    positions = Positions(
        keypoints_m=rng.random((2, NUM_KEYPOINTS, 3)),
        roots_m=np.array([[0.5, -0.25, 3.0], [np.nan] * 3]),
        stds_m=np.array([0.125, np.nan]),
        sources=np.array([PersonPose.POSITION_DEPTH, PersonPose.POSITION_NONE], np.uint8),
    )
    positions.keypoints_m[0, 3] = np.nan
    message = over_the_wire(poses_to_message(people, FrameTracks.untracked(2), HEADER, (8, 8), positions))
    back = positions_from_message(message)
    for name in ("keypoints_m", "roots_m", "stds_m", "sources"):
        assert np.array_equal(getattr(back, name), getattr(positions, name), equal_nan=True), name
    unknown = positions_from_message(over_the_wire(poses_to_message(people, FrameTracks.untracked(2), HEADER, (8, 8))))
    assert unknown.sources.tolist() == [PersonPose.POSITION_NONE] * 2
    assert np.isnan(unknown.roots_m).all()
    assert np.isnan(unknown.stds_m).all()


def test_position_sources_are_the_messages_constants():
    for source in PositionSource:
        assert getattr(PersonPose, f"POSITION_{source.name}") == source


@pytest.mark.parametrize(("wide", "encoding", "dtype"), [(False, "mono8", np.uint8), (True, "16UC1", np.uint16)])
def test_label_image(wide, encoding, dtype):
    people = random_people(7, (31, 45))
    message = over_the_wire(label_image_to_message(people, HEADER, wide))
    assert (message.header, message.encoding, message.height, message.width) == (HEADER, encoding, 31, 45)
    assert message.step == 45 * np.dtype(dtype).itemsize
    labels = np.frombuffer(message.data, dtype).reshape(31, 45)
    assert np.array_equal(labels, people.mask_labels)


def test_a_narrow_label_image_of_many_people_shows_the_first():
    people = random_people(300, (40, 50))
    labels = np.frombuffer(label_image_to_message(people, HEADER).data, np.uint8).reshape(40, 50)
    assert np.array_equal(labels, np.where(people.mask_labels > 255, 0, people.mask_labels))


def test_polygons_are_the_masks():
    image_hw = (60, 80)
    people = random_people(4, image_hw, seed=3)
    ids = np.array([5, 0, 9, 2])
    message = over_the_wire(polygons_to_message(people, ids, HEADER, tolerance_px=0.0))
    assert message.header == HEADER
    assert (message.image_height, message.image_width) == image_hw
    assert [instance.track_id for instance in message.instances] == ids.tolist()
    assert np.array_equal(np.array([i.score for i in message.instances], np.float32), people.scores)
    for i, instance in enumerate(message.instances):
        assert np.array_equal(rings_to_mask(rings_from_message(instance), image_hw), people.mask(i))
    empty = People(
        people.keypoints_xy, people.keypoint_scores, people.scores, people.boxes_xyxy, np.zeros(image_hw, np.uint16)
    )
    assert [i.rings for i in polygons_to_message(empty, ids, HEADER, 1.0).instances] == [[]] * 4
    with pytest.raises(ValueError, match="ring"):
        rings_from_message(InstancePolygons(rings=[PolygonRing(x=[1, 2], y=[1])]))


def test_a_pool_is_filled_anew():
    """Nothing of an earlier, fuller frame is left in a later one."""
    pool = PersonPool()
    rng = np.random.default_rng(4)
    full = Positions(rng.random((3, NUM_KEYPOINTS, 3)), rng.random((3, 3)), rng.random(3), np.ones(3, np.uint8))
    first = poses_to_message(random_people(3, (8, 8)), random_tracks(3), HEADER, (8, 8), full, pool)
    persons = list(first.people)
    people = random_people(2, (9, 9), seed=5)
    second = poses_to_message(people, FrameTracks.untracked(2), HEADER, (9, 9), None, pool)
    assert all(a is b for a, b in zip(second.people, persons))
    fresh = poses_to_message(people, FrameTracks.untracked(2), HEADER, (9, 9))
    # Not their bytes: CDR's alignment gaps hold whatever was in memory.
    assert str(over_the_wire(second)) == str(over_the_wire(fresh))


def test_states_have_the_trackers_numbers():
    for state in TrackState:
        assert getattr(PersonPose, state.name) == state
    assert PersonPose.UNTRACKED == PersonPose().state == 0


def test_the_hidden_travel_beside_those_who_are_seen():
    """A person walks to the right and is not found any more: the message says where she should be by now."""
    tracker = TrackIds()
    for i in range(20):
        tracker.update(people_at({"x": 100 + 2 * i, "y": 100}), i / 30)
    tracks = tracker.update(People.empty(), 21 / 30)
    message = over_the_wire(poses_to_message(People.empty(), tracks, HEADER, (200, 300)))
    assert message.people == []
    [person] = message.unseen
    assert (person.track_id, person.state) == (1, PersonPose.OCCLUDED)
    assert person.age_s == pytest.approx(21 / 30)
    assert (person.x_min + person.x_max) / 2 == pytest.approx(100 + 2 * 21, abs=2)
    assert person.velocity_x == pytest.approx(60, abs=3)
    assert person.keypoints[Keypoint.NOSE].y == pytest.approx(60, abs=2)
    [track], [back] = tracks.unseen, tracks_from_message(message).unseen
    assert (back.id, back.state, back.age_s) == (track.id, track.state, pytest.approx(track.age_s))
    for name in ("box_xyxy", "keypoint_scores", "velocity_xy"):
        assert np.array_equal(getattr(back, name), getattr(track, name)), name
    found = track.keypoint_scores > 0
    assert np.array_equal(back.keypoints_xy[found], track.keypoints_xy[found])


def test_people_without_masks():
    people = random_people(2, (8, 8), masks=False)
    with pytest.raises(ValueError, match="no masks"):
        masks_to_message(people, np.zeros(2, int), HEADER)
    back, _ = people_from_messages(poses_to_message(people, FrameTracks.untracked(2), HEADER, (8, 8)))
    assert back.mask_labels is None


def test_wrong_number_of_ids():
    people = random_people(2, (8, 8))
    for convert in (
        lambda: poses_to_message(people, FrameTracks.untracked(1), HEADER, (8, 8)),
        lambda: masks_to_message(people, np.zeros(3), HEADER),
    ):
        with pytest.raises(ValueError, match="track ids"):
            convert()


def mask_cases() -> dict[str, np.ndarray]:
    """Masks that are easy to get wrong, on a canvas taller than wide, so that no axes are confused."""
    shape = (23, 11)
    rng = np.random.default_rng(0)
    cases = {
        name: np.zeros(shape, bool) for name in ("empty", "one pixel", "corner", "column", "row", "ring")
    }
    cases["one pixel"][7, 3] = True
    cases["corner"][-1, -1] = True
    cases["column"][:, 4] = True
    cases["row"][0, :] = True
    cases["ring"][3:15, 2:9] = True
    cases["ring"][6:11, 4:7] = False
    cases["full"] = np.ones(shape, bool)
    cases["noise"] = rng.random(shape) < 0.5
    cases["sparse"] = rng.random(shape) < 0.05
    return cases


@pytest.mark.parametrize("name", mask_cases())
def test_mask_round_trip_and_coco(name):
    mask = mask_cases()[name]
    message = over_the_wire(mask_to_message(mask, track_id=5, score=0.5))
    assert np.array_equal(mask_from_message(message, mask.shape), mask)
    assert (message.track_id, message.score) == (5, 0.5)
    roi = message.roi
    if not mask.any():
        assert (roi.height, roi.width, len(message.counts)) == (0, 0, 0)
        return
    # The ROI is tight: COCO's own bounding box of the mask.
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert [roi.x_offset, roi.y_offset, roi.width, roi.height] == coco_mask.toBbox(encoded).astype(
        int
    ).tolist()
    # COCO reads the counts as its uncompressed RLE.
    size = [roi.height, roi.width]
    rle = coco_mask.frPyObjects({"size": size, "counts": [int(c) for c in message.counts]}, *size)
    rows = slice(roi.y_offset, roi.y_offset + roi.height)
    columns = slice(roi.x_offset, roi.x_offset + roi.width)
    assert np.array_equal(coco_mask.decode(rle).astype(bool), mask[rows, columns])
    assert coco_mask.area(rle) == mask.sum()


def test_masks_of_people_equal_single_masks():
    people = random_people(5, (40, 30), seed=4)
    message = masks_to_message(people, np.zeros(5, int), HEADER)
    for i, mask in enumerate(message.masks):
        alone = mask_to_message(
            people.mask(i), score=float(people.scores[i]), mask_score=float(people.mask_scores[i])
        )
        assert mask == alone


def test_a_person_without_pixels_keeps_its_place():
    people = random_people(3, (20, 20))
    people.mask_labels[people.mask_labels == 2] = 0
    message = over_the_wire(masks_to_message(people, np.array([1, 2, 3]), HEADER))
    assert [m.track_id for m in message.masks] == [1, 2, 3]
    assert len(message.masks[1].counts) == 0
    assert not mask_from_message(message.masks[1], (20, 20)).any()


def test_overlapping_masks_stay_whole():
    """Each mask travels on its own, so overlap survives; a label map gives the pixel to the first person."""
    first, second = np.zeros((2, 12, 12), bool)
    first[2:8, 2:8] = True
    second[5:11, 5:11] = True
    masks = InstanceMaskArray(header=HEADER, image_height=12, image_width=12)
    masks.masks = [mask_to_message(first), mask_to_message(second)]
    received = over_the_wire(masks)
    for message, mask in zip(received.masks, (first, second)):
        assert np.array_equal(mask_from_message(message, (12, 12)), mask)
    poses = poses_to_message(random_people(2, (12, 12), masks=False), FrameTracks.untracked(2), HEADER, (12, 12))
    people, _ = people_from_messages(poses, received)
    assert np.array_equal(people.mask(0), first)
    assert np.array_equal(people.mask(1), second & ~first)


def test_malformed_masks_are_refused():
    message = mask_to_message(np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="beyond an image"):
        mask_from_message(message, (3, 4))
    message.counts = [0, 15]
    with pytest.raises(ValueError, match="add up"):
        mask_from_message(message, (4, 4))
    empty = InstanceMask()
    empty.counts = [7]
    assert not mask_from_message(empty, (4, 4)).any()


def test_messages_of_different_images_are_refused():
    people = People.empty((4, 4))
    none = np.zeros(0, int)
    poses = poses_to_message(people, FrameTracks.untracked(len(people)), HEADER, (4, 4))
    later = Header(stamp=Time(sec=1234567891), frame_id=HEADER.frame_id)
    with pytest.raises(ValueError, match="not of the same image"):
        people_from_messages(poses, masks_to_message(people, none, later))
    assert isinstance(poses, PoseArray)
