"""Distances from body sizes alone, on made bodies whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.body_distance import SEGMENTS, BodyOptions, estimate_distances
from kdc_core.camera import CameraModel
from kdc_core.types import People
from tests.core.made_bodies import body, seen_by, turned

IMAGE_HW = (480, 640)
CAMERA = CameraModel(600.0, 600.0, 319.5, 239.5)
NOBODY_SEEN = np.zeros((1, 17), np.float32)


def crowd(rng, count, distances_m, swing_deg=25.0, yaw_rad=np.pi, sitting=False, pitch_rad=0.0):
    """Bodies of all heights turned anyhow, in the optical frame of a camera that looks down by `pitch_rad`."""
    bodies = []
    for _ in range(count):
        points = body(rng, rng.normal(1.66, 0.09), swing_deg, sitting) @ turned(rng.uniform(-yaw_rad, yaw_rad), "y").T
        far = rng.uniform(*distances_m)
        bodies.append((points @ turned(pitch_rad, "x").T) + [rng.uniform(-0.2, 0.2) * far, 0, far])
    return np.array(bodies)


CROWDS = {
    "standing straight": {"distances_m": (3, 8), "swing_deg": 0.0, "yaw_rad": 0.3},
    "walking": {"distances_m": (3, 8)},
    "sitting": {"distances_m": (2.5, 6), "sitting": True},
    "far": {"distances_m": (8, 20)},
    "legs out of sight": {"distances_m": (1, 2), "swing_deg": 15.0, "yaw_rad": 1.0},
    "from above": {"distances_m": (3, 6), "pitch_rad": -0.5},
}


@pytest.mark.parametrize("name", CROWDS)
@pytest.mark.parametrize("noise", [0.5, 1.2])
def test_the_truth_is_within_the_stated_uncertainty(name, noise):
    rng = np.random.default_rng(7)
    bodies = crowd(rng, 150, **CROWDS[name])
    found = estimate_distances(seen_by(CAMERA, bodies, IMAGE_HW, rng, noise), CAMERA, IMAGE_HW)
    truth = np.linalg.norm(bodies[:, 11:13].mean(axis=1), axis=1)
    known = np.isfinite(found.range_m)
    assert known.mean() > 0.95
    error = np.abs(found.range_m - truth)[known] / found.std_m[known]
    assert (error < 1).mean() > 0.5
    assert (error < 2).mean() > 0.9
    assert (error < 4).mean() > 0.98
    # And it says something: typically within a sixth of the distance.
    assert np.median(np.abs(found.range_m / truth - 1)[known]) < 0.17
    assert np.median(found.std_m[known] / truth[known]) < 0.2


def test_foreshortening_does_not_push_people_away():
    rng = np.random.default_rng(1)
    straight = body(rng) + [0, 0, 4.0]
    profile = body(rng) @ turned(np.pi / 2, "y").T + [0, 0, 4.0]
    found = estimate_distances(seen_by(CAMERA, np.array([straight, profile]), IMAGE_HW, rng, 0.1), CAMERA, IMAGE_HW)
    # From the side the shoulders look 3 times as narrow; as a plain measure they would say 12 m.
    assert np.allclose(found.range_m, 4.0, rtol=0.2)


def test_what_scales_the_answer():
    rng = np.random.default_rng(2)
    bodies = crowd(rng, 10, (3, 6))
    people = seen_by(CAMERA, bodies, IMAGE_HW, rng, 0.3)
    adult = estimate_distances(people, CAMERA, IMAGE_HW).range_m
    child = estimate_distances(people, CAMERA, IMAGE_HW, BodyOptions(height_m=1.2, height_std_m=0.065)).range_m
    assert np.allclose(child / adult, 1.2 / 1.66, rtol=0.02)
    # The same picture in twice the pixels by a camera of twice the focal length.
    large = CAMERA.resized(IMAGE_HW, (960, 1280))
    doubled = People(
        (people.keypoints_xy + 0.5) * 2 - 0.5,
        people.keypoint_scores,
        people.scores,
        (people.boxes_xyxy + 0.5) * 2 - 0.5,
    )
    assert np.allclose(estimate_distances(doubled, large, (960, 1280)).range_m, adult, rtol=0.03)


def test_too_little_seen_is_unknown():
    rng = np.random.default_rng(3)
    whole = seen_by(CAMERA, crowd(rng, 1, (4, 4)), IMAGE_HW, rng, 0.0)
    for kept in ([], [0], [5], [9, 14], [5, 8]):  # no two ends of one segment
        scores = NOBODY_SEEN.copy()
        scores[0, kept] = 0.9
        some = People(whole.keypoints_xy, scores, whole.scores, whole.boxes_xyxy)
        found = estimate_distances(some, CAMERA, IMAGE_HW)
        assert np.isnan(found.range_m).all()
        assert np.isnan(found.std_m).all()
    weak = People(whole.keypoints_xy, whole.keypoint_scores * 0.1, whole.scores, whole.boxes_xyxy)
    assert np.isnan(estimate_distances(weak, CAMERA, IMAGE_HW).range_m).all()
    # Shoulders and arms alone: an answer, but a vague one.
    scores = NOBODY_SEEN.copy()
    scores[0, 5:11] = 0.9
    upper = People(whole.keypoints_xy, scores, whole.scores, whole.boxes_xyxy)
    vague = estimate_distances(upper, CAMERA, IMAGE_HW)
    sure = estimate_distances(whole, CAMERA, IMAGE_HW)
    assert vague.std_m[0] / vague.range_m[0] > 1.5 * sure.std_m[0] / sure.range_m[0]


def test_nobody_and_nonsense():
    assert estimate_distances(People.empty(), CAMERA, IMAGE_HW).range_m.shape == (0,)
    rng = np.random.default_rng(4)
    same_place = People(
        np.full((1, 17, 2), 100, np.float32),
        NOBODY_SEEN + 0.9,
        np.ones(1, np.float32),
        np.full((1, 4), 100, np.float32),
    )
    far_off = People(
        rng.normal(0, 1e6, (1, 17, 2)).astype(np.float32),
        NOBODY_SEEN + 0.9,
        np.ones(1, np.float32),
        same_place.boxes_xyxy,
    )
    not_a_number = People(
        np.full((1, 17, 2), np.nan, np.float32), NOBODY_SEEN + 0.9, np.ones(1, np.float32), same_place.boxes_xyxy
    )
    for people in (same_place, far_off, not_a_number):
        found = estimate_distances(people, CAMERA, IMAGE_HW)
        good = np.isnan(found.range_m) | ((found.range_m > 0.2) & (found.range_m < 100) & (found.std_m > 0))
        assert good.all()


def test_the_segments_are_of_one_body():
    shares = {segment.name: segment.share for segment in SEGMENTS}
    assert shares["left_thigh"] + shares["left_shank"] + shares["trunk"] < shares["standing"]
    assert shares["eyes"] < shares["ears"] < shares["shoulders"] < shares["trunk"]
