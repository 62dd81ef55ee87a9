"""The comparison of an answer with the truth, on people small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.skeleton import NUM_KEYPOINTS, OKS_SIGMAS
from kdc_core.types import People
from kdc_replay.demo_scene.scene import make_truth
from kdc_replay.demo_scene.truth import Truth, box_ious, compare, mask_ious

SIZE_HW = (60, 100)
NOSE = 0


def people(*rectangles: tuple[int, int, int, int]) -> People:
    """People who are rectangles (left, top, width, height), with a nose in the middle."""
    labels = np.zeros(SIZE_HW, np.uint16)
    n = len(rectangles)
    keypoints = np.zeros((n, NUM_KEYPOINTS, 2), np.float32)
    scores = np.zeros((n, NUM_KEYPOINTS), np.float32)
    scores[:, NOSE] = 1
    boxes = np.zeros((n, 4), np.float32)
    for i, (left, top, width, height) in enumerate(rectangles):
        labels[top : top + height, left : left + width] = i + 1
        keypoints[i, NOSE] = left + width // 2, top + height // 2
        boxes[i] = left, top, left + width - 1, top + height - 1
    return People(keypoints, scores, np.ones(n, np.float32), boxes, labels)


def truth(*rectangles: tuple[int, int, int, int], visible: tuple[float, ...] | None = None) -> Truth:
    count = len(rectangles)
    shares = np.array(visible if visible is not None else [1.0] * count)
    return Truth(people(*rectangles), tuple("abcdef"[:count]), shares)


def test_the_truth_itself_is_a_perfect_answer():
    rectangles = (5, 5, 20, 40), (50, 10, 30, 30)
    frame = compare(truth(*rectangles), people(*rectangles))
    assert [p.name for p in frame.persons] == ["a", "b"]
    for person in frame.persons:
        assert person.found
        assert (person.box_iou, person.mask_iou, person.oks) == (1, 1, 1)
        assert person.joint_errors_ratio == (0,)
    assert frame.false_persons == 0


def test_the_order_of_the_answer_does_not_matter():
    frame = compare(truth((5, 5, 20, 40), (50, 10, 30, 30)), people((50, 10, 30, 30), (5, 5, 20, 40)))
    assert all(person.mask_iou == 1 for person in frame.persons)


def test_nobody_answered():
    frame = compare(truth((5, 5, 20, 40)), People.empty(SIZE_HW))
    assert not frame.persons[0].found
    assert frame.false_persons == 0


def test_nobody_there():
    frame = compare(truth(), people((5, 5, 20, 40)))
    assert frame.persons == ()
    assert frame.false_persons == 1


def test_a_duplicate_and_a_person_elsewhere_are_false():
    frame = compare(truth((5, 5, 20, 40)), people((5, 5, 20, 38), (5, 43, 20, 2), (70, 5, 10, 10)))
    assert frame.persons[0].found
    assert frame.false_persons == 2


def test_a_hardly_visible_person_counts_neither_way():
    known = truth((5, 5, 20, 40), (50, 10, 30, 30), visible=(1.0, 0.3))
    both = compare(known, people((5, 5, 20, 40), (50, 10, 10, 30)))
    assert [p.name for p in both.persons] == ["a"]
    assert both.false_persons == 0
    assert compare(known, people((5, 5, 20, 40))).false_persons == 0


def test_oks_of_a_shifted_nose():
    answer = people((5, 5, 20, 40))
    answer.keypoints_xy[0, NOSE, 0] += 3
    (person,) = compare(truth((5, 5, 20, 40)), answer).persons
    area = 20 * 40
    assert person.oks == pytest.approx(np.exp(-9 / (2 * area * (2 * OKS_SIGMAS[NOSE]) ** 2)), rel=1e-5)
    assert person.joint_errors_ratio == pytest.approx((3 / np.sqrt(area),), rel=1e-5)


def test_a_joint_that_was_not_found_is_no_similarity():
    answer = people((5, 5, 20, 40))
    answer.keypoint_scores[0, NOSE] = 0
    (person,) = compare(truth((5, 5, 20, 40)), answer).persons
    assert person.oks == 0
    assert person.joint_errors_ratio == ()


def test_half_a_mask_is_not_found():
    (person,) = compare(truth((0, 0, 40, 40)), people((0, 0, 40, 18))).persons
    assert person.mask_iou == pytest.approx(0.45)
    assert not person.found


def test_ious_of_known_overlap():
    first, second = people((0, 0, 10, 10)), people((5, 0, 10, 10), (50, 50, 5, 5))
    np.testing.assert_allclose(mask_ious(first, second), [[50 / 150, 0]])
    boxes = np.array([[0, 0, 10, 10]]), np.array([[5, 0, 15, 10]])
    np.testing.assert_allclose(box_ious(*boxes), [[50 / 150]])
    with pytest.raises(ValueError, match="masks"):
        mask_ious(first, People.empty((5, 5)))


def test_a_joint_behind_somebody_is_not_visible():
    labels = np.zeros(SIZE_HW, np.uint16)
    labels[:, :50], labels[:, 50:] = 1, 2
    joints = np.zeros((2, NUM_KEYPOINTS, 2))
    joints[0, :3] = (10, 10), (70, 10), (-5, 10)  # its own, the other's pixel, outside
    known = np.zeros((2, NUM_KEYPOINTS), bool)
    known[0, :3] = True
    made = make_truth(labels, joints, known, ("a", "b"), np.array([6000.0, 3000.0]))
    assert made.people.keypoint_scores[0, :3].tolist() == [1, 0, 0]
    assert made.visible.tolist() == [0.5, 1.0]
    assert made.counted.tolist() == [True, True]
