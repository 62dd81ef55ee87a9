"""Depth at the joints, in made scenes where every distance is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdc_core.lifting import LiftingOptions, clean_depth, read_depths
from kdc_core.skeleton import KEYPOINT_INDEX
from kdc_core.types import People
from tests.core.depth_scenes import (
    ARM_M,
    IMAGE_HW,
    JOINTS,
    LEFT_ARM,
    RIGHT_HAND,
    TRUNK_M,
    WALL_M,
    one_person,
    people_of,
)

OPTIONS = LiftingOptions()


def check_one_person(people, depth, tolerance_m=1e-3, without=()):
    """Every joint at its distance, nothing on the wall."""
    found = read_depths(people, depth, IMAGE_HW, OPTIONS)
    for name in JOINTS:
        if name in without:
            continue
        expected = ARM_M if name in LEFT_ARM + RIGHT_HAND else TRUNK_M
        assert found.depth_m[0, KEYPOINT_INDEX[name]] == pytest.approx(expected, abs=tolerance_m), name
    assert found.person_m[0] == pytest.approx(TRUNK_M, abs=tolerance_m)
    missing = people.keypoint_scores[0] == 0
    assert np.isnan(found.depth_m[0, missing]).all()
    return found


def test_a_person_before_a_wall():
    found = check_one_person(*one_person())
    assert np.nanmax(found.spread_m) < 1e-3


def test_a_thin_arm_does_not_fall_onto_the_wall():
    people, depth = one_person(arm_px=3, mask_growth_px=4)
    assert (depth[people.mask_labels > 0] == WALL_M).mean() > 0.1  # the mask spills
    check_one_person(people, depth)


def test_without_masks_the_wall_is_still_behind():
    people, depth = one_person()
    bare = People(people.keypoints_xy, people.keypoint_scores, people.scores, people.boxes_xyxy)
    check_one_person(bare, depth)


def test_noise_holes_and_floating_edges():
    rng = np.random.default_rng(0)
    people, depth = one_person(arm_px=7, mask_growth_px=2)
    # Edges: between body and wall a stereo camera measures something in the middle.
    depth = cv2.GaussianBlur(depth, (3, 3), 0)
    depth += rng.normal(0, 0.008 * depth).astype(np.float32)
    for value in (0.0, np.nan, np.inf, -1.0):
        depth[rng.random(depth.shape) < 0.1] = value
    check_one_person(people, depth, tolerance_m=0.04)


def test_a_joint_in_a_hole_is_unknown():
    people, depth = one_person()
    depth[410:450, 320:370] = 0
    found = check_one_person(people, depth, without=("left_ankle",))
    assert np.isnan(found.depth_m[0, KEYPOINT_INDEX["left_ankle"]])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, -2.0, 1e6])
def test_nothing_measured_is_nothing_known(value):
    people, depth = one_person()
    found = read_depths(people, np.full_like(depth, value), IMAGE_HW, OPTIONS)
    for values in (found.depth_m, found.spread_m, found.person_m, found.person_spread_m):
        assert np.isnan(values).all()


def test_millimetres():
    people, depth = one_person()
    for kind in (np.uint16, ">u2", np.int32):
        check_one_person(people, np.round(depth * 1000).astype(kind))


@pytest.mark.parametrize("depth_hw", [(240, 320), (960, 1280), (120, 160), (400, 640)])
def test_depth_of_another_size(depth_hw):
    people, depth = one_person(arm_px=13)
    resized = cv2.resize(depth, depth_hw[::-1], interpolation=cv2.INTER_NEAREST)
    check_one_person(people, resized)


def test_a_neighbour_close_by_does_not_lend_its_depth():
    labels = np.zeros(IMAGE_HW, np.uint16)
    depth = np.full(IMAGE_HW, 6.0, np.float32)
    labels[100:400, 200:300], depth[100:400, 200:300] = 1, 3.0
    labels[100:400, 300:400], depth[100:400, 300:400] = 2, 1.5
    far = {"left_shoulder": (297, 150), "right_shoulder": (210, 150), "left_hip": (297, 300)}
    near = {"right_shoulder": (303, 150), "left_shoulder": (390, 150), "right_hip": (303, 300)}
    found = read_depths(people_of([far, near], labels), depth, IMAGE_HW, OPTIONS)
    for i, (names, expected) in enumerate(((far, 3.0), (near, 1.5))):
        got = found.depth_m[i, [KEYPOINT_INDEX[name] for name in names]]
        assert np.allclose(got, expected)


def test_an_object_far_before_the_person_is_not_the_person():
    people, depth = one_person()
    depth[335:365, 325:360] = 0.6  # a sign, held into the picture
    found = check_one_person(people, depth, without=("left_knee",))
    assert np.isnan(found.depth_m[0, KEYPOINT_INDEX["left_knee"]])


def test_a_joint_beyond_the_border_or_off_the_mask_is_unknown():
    people, depth = one_person()
    xy = people.keypoints_xy.copy()
    places = {"left_wrist": (700, 165), "left_ankle": (344, 520), "nose": (60, 60), "left_knee": (np.nan, 1)}
    for name, place in places.items():
        xy[0, KEYPOINT_INDEX[name]] = place
    moved = People(xy, people.keypoint_scores, people.scores, people.boxes_xyxy, people.mask_labels)
    found = check_one_person(moved, depth, without=tuple(places))
    for name in places:
        assert np.isnan(found.depth_m[0, KEYPOINT_INDEX[name]]), name


def test_nobody_and_tiny_images():
    nobody = People.empty(IMAGE_HW)
    assert read_depths(nobody, np.ones((1, 1), np.float32), IMAGE_HW, OPTIONS).depth_m.shape == (0, 17)
    people = people_of([{"nose": (1, 1)}], np.ones((3, 3), np.uint16))
    assert read_depths(people, np.full((3, 3), 2, np.float32), (3, 3), OPTIONS).depth_m[0, 0] == 2
    one_pixel = people_of([{"nose": (0, 0)}], np.ones((1, 1), np.uint16))
    assert read_depths(one_pixel, np.full((1, 1), 2, np.float32), (1, 1), OPTIONS).depth_m.shape == (1, 17)


def test_a_joint_just_beyond_a_rough_mask_is_found():
    people, depth = one_person(arm_px=13)
    labels = people.mask_labels.copy()
    labels[:, 447:] = 0  # the mask misses the hand
    found = check_one_person(
        People(people.keypoints_xy, people.keypoint_scores, people.scores, people.boxes_xyxy, labels), depth
    )
    assert found.depth_m[0, KEYPOINT_INDEX["left_wrist"]] == pytest.approx(ARM_M)


def test_what_is_a_measurement():
    values = np.array([0.0, -1, np.nan, np.inf, 0.05, 0.5, 19.0, 21.0], np.float32)
    clean = clean_depth(values, OPTIONS)
    assert np.isfinite(clean).tolist() == [False] * 5 + [True, True, False]
