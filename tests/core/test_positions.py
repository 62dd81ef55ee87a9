"""Places in space: from depth, from body sizes, and the axes of bodies."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdc_core.camera import CameraModel
from kdc_core.positions import PositionOptions, Positions, PositionSource, body_rotation, locate_people
from kdc_core.skeleton import KEYPOINT_INDEX
from kdc_core.types import People
from tests.core.depth_scenes import ARM_M, IMAGE_HW, JOINTS, TRUNK_M, one_person, people_of
from tests.core.made_bodies import body, seen_by, turned

CAMERA = CameraModel(550.0, 560.0, 310.0, 245.0)
BENT = CameraModel(550.0, 560.0, 310.0, 245.0, (-0.28, 0.1, 0.001, -0.001, 0.0))


@pytest.mark.parametrize("camera", [CAMERA, BENT], ids=["straight", "distorted"])
def test_joints_lie_where_the_camera_saw_them(camera):
    people, depth = one_person()
    found = locate_people(people, camera, IMAGE_HW, depth)
    assert found.sources.tolist() == [PositionSource.DEPTH]
    for name, place in JOINTS.items():
        point = found.keypoints_m[0, KEYPOINT_INDEX[name]]
        assert point[2] == pytest.approx(ARM_M if name in ("left_elbow", "left_wrist", "right_wrist") else TRUNK_M)
        assert np.allclose(camera.project(point), place, atol=0.05)
    assert np.isnan(found.keypoints_m[0, KEYPOINT_INDEX["left_eye"]]).all()
    # The root: between the hips.
    assert np.allclose(camera.project(found.roots_m[0]), (320, 270), atol=0.05)
    assert found.roots_m[0, 2] == pytest.approx(TRUNK_M)
    assert 0 < found.stds_m[0] < 0.06


def test_millimetres_and_holes_at_the_hips():
    people, depth = one_person()
    depth[240:305, 285:356] = np.nan
    millimetres = np.nan_to_num(depth * 1000).round().astype(np.uint16)
    for image in (depth, millimetres):
        found = locate_people(people, CAMERA, IMAGE_HW, image)
        assert np.isnan(found.keypoints_m[0, KEYPOINT_INDEX["left_hip"]]).all()
        assert found.sources[0] == PositionSource.DEPTH  # by the rest of the person
        assert found.roots_m[0, 2] == pytest.approx(TRUNK_M, abs=1e-3)


def test_somebody_of_whom_only_the_mask_is_seen():
    """In the middle of the box, as far as most of the mask is."""
    people, depth = one_person()
    people = dataclasses.replace(people, keypoint_scores=np.zeros_like(people.keypoint_scores))
    found = locate_people(people, CAMERA, IMAGE_HW, depth)
    assert found.sources.tolist() == [PositionSource.DEPTH] and np.isnan(found.keypoints_m).all()
    assert found.roots_m[0, 2] == pytest.approx(TRUNK_M, abs=1e-3)
    middle = (people.boxes_xyxy[0, :2] + people.boxes_xyxy[0, 2:]) / 2
    assert np.allclose(CAMERA.project(found.roots_m[0]), middle, atol=0.05)
    assert locate_people(people, CAMERA, IMAGE_HW).sources.tolist() == [PositionSource.NONE]


@pytest.mark.parametrize("depth", [None, np.full(IMAGE_HW, np.nan, np.float32), np.zeros((10, 10), np.uint16)])
def test_without_a_measurement_the_size_tells(depth):
    rng = np.random.default_rng(0)
    truth = np.array([body(rng) + [x, 0.1, z] for x, z in ((-1, 3), (0.3, 4), (1.5, 6))])
    people = seen_by(CAMERA, truth, IMAGE_HW, rng, 0.3)
    found = locate_people(people, CAMERA, IMAGE_HW, depth)
    assert found.sources.tolist() == [PositionSource.ESTIMATED] * 3
    assert np.isnan(found.keypoints_m).all()
    roots = truth[:, 11:13].mean(axis=1)
    error = np.linalg.norm(found.roots_m - roots, axis=1)
    assert (error < 3 * found.stds_m).all()
    assert (error < 0.25 * roots[:, 2]).all()
    # The direction is known well.
    cosine = (found.roots_m * roots).sum(1) / np.linalg.norm(found.roots_m, axis=1) / np.linalg.norm(roots, axis=1)
    assert (np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 1.5).all()
    silent = locate_people(people, CAMERA, IMAGE_HW, depth, PositionOptions(estimate=False))
    assert silent.sources.tolist() == [PositionSource.NONE] * 3
    assert np.isnan(silent.roots_m).all()
    assert np.isnan(silent.stds_m).all()


def test_one_measured_one_not():
    labels = np.zeros(IMAGE_HW, np.uint16)
    labels[80:460, 100:250], labels[80:460, 400:550] = 1, 2
    near = {name: (x - 145, y) for name, (x, y) in JOINTS.items()}
    far = {name: (x + 155, y) for name, (x, y) in JOINTS.items()}
    depth = np.full(IMAGE_HW, np.nan, np.float32)
    depth[:, :320] = 2.0
    found = locate_people(people_of([near, far], labels), CAMERA, IMAGE_HW, depth)
    assert found.sources.tolist() == [PositionSource.DEPTH, PositionSource.ESTIMATED]
    assert found.stds_m[1] > found.stds_m[0]
    assert np.isfinite(found.roots_m).all()


def test_the_root_without_hips():
    people, depth = one_person()
    scores = people.keypoint_scores.copy()
    scores[:, [KEYPOINT_INDEX["left_hip"], KEYPOINT_INDEX["right_hip"]]] = 0
    found = locate_people(
        People(people.keypoints_xy, scores, people.scores, people.boxes_xyxy, people.mask_labels),
        CAMERA,
        IMAGE_HW,
        depth,
    )
    assert np.allclose(CAMERA.project(found.roots_m[0]), (320, 150), atol=0.05)  # between the shoulders
    nothing = np.zeros_like(scores)
    bare = People(people.keypoints_xy, nothing, people.scores, people.boxes_xyxy, people.mask_labels)
    found = locate_people(bare, CAMERA, IMAGE_HW, depth)
    assert found.roots_m[0, 2] == pytest.approx(TRUNK_M, abs=1e-3)  # by the mask alone
    assert np.isnan(found.keypoints_m).all()


def test_nobody():
    found = locate_people(People.empty(IMAGE_HW), CAMERA, IMAGE_HW, np.ones(IMAGE_HW, np.float32))
    assert len(found) == 0
    assert found.keypoints_m.shape == (0, 17, 3)
    assert len(Positions.unknown(0)) == 0


def test_axes_of_a_body():
    rng = np.random.default_rng(0)
    for yaw in (0.0, 0.7, -2.0, 3.0):
        points = body(rng) @ turned(yaw, "y").T + [0.5, 0, 4]
        rotation = body_rotation(points[11:13].mean(axis=0), points)
        assert np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1)
        facing = turned(yaw, "y") @ [0, 0, -1]  # the made body looks to -z
        assert np.allclose(rotation[:, 0], facing, atol=1e-6)
        assert np.allclose(rotation[:, 2], [0, -1, 0])
    unknown = np.full((17, 3), np.nan)
    to_camera = body_rotation(np.array([3.0, 1.0, 4.0]), unknown)[:, 0]
    assert np.allclose(to_camera, [-0.6, 0, -0.8])
    straight_down = body_rotation(np.array([0.0, 2.0, 0.0]), unknown)
    assert np.allclose(straight_down.T @ straight_down, np.eye(3))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.booleans(), st.sampled_from(["none", "metres", "millimetres"]))
def test_whatever_comes_places_are_known_or_not(seed, count, masks, kind):
    rng = np.random.default_rng(seed)
    hw = tuple(rng.integers(1, 60, 2).tolist())
    depth_hw = tuple(rng.integers(1, 60, 2).tolist())
    spread = 10.0 ** rng.uniform(0, 7)
    junk = np.array([np.nan, np.inf, -np.inf, 0, -1, 1e30], np.float32)
    xy = rng.normal(0, spread, (count, 17, 2)).astype(np.float32)
    xy[rng.random(xy.shape) < 0.1] = np.nan
    people = People(
        xy,
        (rng.random((count, 17)) * (rng.random((count, 17)) < 0.7)).astype(np.float32),
        rng.random(count).astype(np.float32),
        rng.normal(0, spread, (count, 4)).astype(np.float32),
        rng.integers(0, count + 1, hw).astype(np.uint16) if masks else None,
    )
    depth = {
        "none": None,
        "metres": np.where(rng.random(depth_hw) < 0.5, rng.choice(junk, depth_hw), rng.random(depth_hw) * 9),
        "millimetres": rng.integers(0, 2**16, depth_hw).astype(np.uint16),
    }[kind]
    if kind == "metres":
        depth = depth.astype(np.float32)
    found = locate_people(people, rng.choice([CAMERA, BENT]), hw, depth)
    known = found.sources != PositionSource.NONE
    assert np.array_equal(known, np.isfinite(found.roots_m).all(axis=1))
    assert np.array_equal(known, np.isfinite(found.stds_m))
    assert (found.stds_m[known] > 0).all()
    assert (np.linalg.norm(found.roots_m[known], axis=1) < 1e4).all()
    some = np.isfinite(found.keypoints_m)
    assert np.array_equal(some.all(axis=2), some.any(axis=2))
    depths = found.keypoints_m[..., 2][some.all(axis=2)]
    assert ((depths >= 0.1) & (depths <= 20)).all()
    for i in range(count):
        if known[i]:
            rotation = body_rotation(found.roots_m[i], found.keypoints_m[i])
            assert np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
