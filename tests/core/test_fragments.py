"""Pieces of one person are joined where their pixels point at the same centre; people are not."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.decode.fragments import join_fragments
from kdc_core.decode.grouping import Poses
from kdc_core.decode.masks import MaskFields
from kdc_core.geometry import cell_centres_xy
from kdc_core.skeleton import KEYPOINT_INDEX

NOSE, HIP, ANKLE = (KEYPOINT_INDEX[n] for n in ("nose", "left_hip", "left_ankle"))
SIGMA_PX = 10.0


def fields(centre_x_of_right_half: float) -> MaskFields:
    """64 x 64 network pixels: the left half's cells point at (20, 30), the right half's at another x."""
    centres = cell_centres_xy(16, 16, 4)
    goal = np.full((2, 16, 16), 30.0, np.float32)
    goal[0, :, :8], goal[0, :, 8:] = 20.0, centre_x_of_right_half
    return MaskFields(np.ones((16, 16), np.float32), goal - centres, np.full((16, 16), SIGMA_PX, np.float32), 4)


def poses(*people: dict[int, tuple[float, float, float]]) -> Poses:
    """Each person as joint -> (x, y, score)."""
    xy = np.zeros((len(people), 17, 2), np.float32)
    scores = np.zeros((len(people), 17), np.float32)
    for n, joints in enumerate(people):
        for joint, (x, y, score) in joints.items():
            xy[n, joint], scores[n, joint] = (x, y), score
    return Poses(xy, scores, scores.sum(1) / 17)


UPPER = {NOSE: (15.0, 10.0, 0.9), HIP: (15.0, 40.0, 0.5)}
LEGS = {ANKLE: (50.0, 60.0, 0.4), HIP: (50.0, 40.0, 0.2)}


def test_a_fragment_joins_the_person_it_points_at() -> None:
    joined = join_fragments(poses(UPPER, LEGS), fields(22.0), confidence=0.1, membership=0.5)
    assert len(joined.scores) == 1
    assert joined.keypoints_xy[0, ANKLE].tolist() == [50.0, 60.0]
    assert joined.keypoint_scores[0, ANKLE] == pytest.approx(0.4)
    assert joined.keypoints_xy[0, HIP].tolist() == [15.0, 40.0], "the better pose has a hip"
    assert joined.scores[0] == pytest.approx((0.9 + 0.5) / 17), "the fragment does not raise the person's rank"


def test_only_what_is_missing_moves_over() -> None:
    legs = {ANKLE: (50.0, 60.0, 0.1), HIP: (50.0, 40.0, 0.9)}
    joined = join_fragments(poses(UPPER | {ANKLE: (15.0, 55.0, 0.04)}, legs), fields(22.0), 0.1, 0.5)
    assert joined.keypoints_xy[0, ANKLE].tolist() == [50.0, 60.0], "4 % is nothing"
    assert joined.keypoints_xy[0, HIP].tolist() == [15.0, 40.0], "whatever the fragment's score"


def test_people_with_centres_apart_stay_apart() -> None:
    """phi > 0.5 is a distance below 1.1774 sigma."""
    for distance, people in ((0.9 * 1.1774 * SIGMA_PX, 1), (1.1 * 1.1774 * SIGMA_PX, 2)):
        joined = join_fragments(poses(UPPER, LEGS), fields(20.0 + distance), confidence=0.1, membership=0.5)
        assert len(joined.scores) == people


def test_membership_one_joins_nobody() -> None:
    assert len(join_fragments(poses(UPPER, LEGS), fields(20.0), confidence=0.1, membership=1.0).scores) == 2


def test_nobody_and_one() -> None:
    for people in ((), (UPPER,)):
        assert len(join_fragments(poses(*people), fields(20.0), confidence=0.1, membership=0.5).scores) == len(people)


def test_the_input_is_left_as_it_was() -> None:
    before = poses(UPPER, LEGS)
    copy = before.keypoint_scores.copy()
    join_fragments(before, fields(20.0), confidence=0.1, membership=0.5)
    assert np.array_equal(before.keypoint_scores, copy)
