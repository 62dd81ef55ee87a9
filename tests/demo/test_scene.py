"""The scene's truth: fixed, and in agreement with the pictures and with itself."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_replay.demo_scene import scene
from kdc_replay.demo_scene.photos import ALL_PHOTOS, PEOPLE_PHOTOS, Photo
from kdc_ros.demo.playlist import built_in_truth

SAMPLED = range(0, scene.FRAMES, 6)
NAMES = [actor.photo.name for actor in scene.ACTORS]


@pytest.mark.parametrize("photo", ALL_PHOTOS, ids=lambda photo: photo.name)
def test_the_photographs_come_with_their_packages(photo: Photo):
    picture = photo.read()
    assert picture.dtype == np.uint8
    assert picture.ndim == (2 if photo.grey else 3)
    assert photo.credit


@pytest.mark.parametrize("photo", PEOPLE_PHOTOS, ids=lambda photo: photo.name)
def test_every_joint_lies_on_its_person(photo: Photo):
    truth = scene.photo_truth(photo)
    assert (truth.people.keypoint_scores[0] > 0).sum() == len(photo.joints)
    assert truth.visible.tolist() == [1.0]
    # The body's left is on the right of somebody who faces the camera.
    places, known = photo.keypoints()
    if known[1] and known[2]:
        assert places[1, 0] > places[2, 0]


def test_a_frame_is_the_same_every_time():
    first = scene.image(40)
    scene._room.cache_clear()
    scene._cut_out.cache_clear()
    np.testing.assert_array_equal(first, scene.image(40))
    one, two = scene.truth(40), scene.truth(40)
    np.testing.assert_array_equal(one.people.mask_labels, two.people.mask_labels)
    np.testing.assert_array_equal(one.people.keypoints_xy, two.people.keypoints_xy)


@pytest.mark.parametrize("index", SAMPLED)
def test_the_truth_of_a_frame_is_consistent(index: int):
    truth = scene.truth(index)
    people = truth.people
    assert people.mask_labels.shape == (scene.HEIGHT, scene.WIDTH)
    for i in range(len(people)):
        mask = people.mask(i)
        if not mask.any():
            assert truth.visible[i] == 0
            assert not people.keypoint_scores[i].any()
            continue
        rows, columns = np.nonzero(mask)
        assert people.boxes_xyxy[i].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        for x, y in people.keypoints_xy[i][people.keypoint_scores[i] > 0]:
            assert mask[round(y), round(x)]


def test_the_people_are_where_the_truth_says():
    """A person's pixels differ from the bare room's, and nearly all others do not."""
    index = scene.FRAMES - 1
    truth, room, picture = scene.truth(index), scene._room().astype(int), scene.image(index).astype(int)
    changed = np.abs(picture - room).max(-1) > 12
    for i in range(len(truth.people)):
        assert changed[truth.people.mask(i)].mean() > 0.9
    # The rest of what changed is what they carry: the helmet and the tripod.
    assert changed[truth.people.mask_labels == 0].mean() < 0.2


def test_a_joint_follows_the_transform():
    """A turn by 90 degrees about the foot point at half size, worked out by hand."""
    actor = scene.Actor(PEOPLE_PHOTOS[0], (100, 200), (scene.Pose(0.0, x=50, size=0.5, turn=90, sink=0),))
    matrix = actor.transform(0.0)
    foot = matrix[:, :2] @ (100, 200) + matrix[:, 2]
    right_of_it = matrix[:, :2] @ (110, 200) + matrix[:, 2]
    np.testing.assert_allclose(foot, [50, scene.HEIGHT - 1])
    np.testing.assert_allclose(right_of_it - foot, [0, 5], atol=1e-9)


def test_something_happens():
    """Each person is well visible most of the time; one hides another once; people leave the frame."""
    visible = np.stack([scene.truth(index).visible for index in range(0, scene.FRAMES, 2)])
    counted = visible >= 0.5
    assert (counted.mean(0) > 0.35).all()
    assert (counted.sum(1) >= 3).any()
    assert (counted.sum(1) >= 1).all()
    hopper, cameraman, astronaut = (
        visible[:, NAMES.index(n)] for n in ("grace_hopper", "cameraman", "astronaut")
    )
    assert hopper.min() < 0.2
    assert cameraman.min() == 0
    assert astronaut.min() == 0


def test_truth_is_found_by_the_clips_name():
    assert built_in_truth("scene", 3).names == tuple(NAMES)
    assert built_in_truth("astronaut", 3).names == ("astronaut",)
