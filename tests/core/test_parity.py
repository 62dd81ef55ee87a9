"""What the accuracy gate counts, on people whose differences are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kdc_core.parity import LIMITS, Parity, ParityCount, ParityLimits, mask_iou, pose_similarity
from kdc_core.skeleton import OKS_SIGMAS
from kdc_core.types import People
from tests.core.made_people import STANDING

HW = (240, 320)


def people(places: list[tuple[float, float, float]], score: float | list[float] = 0.6) -> People:
    """Upright people at (x of the axis, top, height), each with a rectangle for a mask; later ones in front."""
    joints = np.stack([STANDING * size + (x, y) for x, y, size in places]).astype(np.float32)
    labels = np.zeros(HW, np.uint16)
    boxes = []
    for i, (x, y, size) in enumerate(places):
        left, right, top, bottom = (round(v) for v in (x - 0.2 * size, x + 0.2 * size, y, y + size))
        labels[max(0, top) : bottom, max(0, left) : right] = i + 1
        boxes.append((left, top, right, bottom))
    n = len(places)
    scores = np.broadcast_to(np.asarray(score, np.float32), (n,)).copy()
    return People(joints, np.full((n, 17), 0.5, np.float32), scores, np.array(boxes, np.float32), labels)


def compared(reference: People, other: People) -> Parity:
    count = ParityCount()
    count.add(reference, other)
    return count.result()


def test_the_same_people_in_another_order() -> None:
    here = people([(60, 20, 200), (200, 40, 160)])
    there = people([(200, 40, 160), (60, 20, 200)])
    result = compared(here, there)
    assert (result.people, result.missed, result.extra) == (2, 0, 0)
    assert result.oks == pytest.approx(1.0) and result.iou == pytest.approx(1.0)
    assert result.failures(LIMITS["fp32"]) == []


def test_oks_of_one_joint_moved_is_cocos() -> None:
    here, there = people([(100, 20, 200)]), people([(100, 20, 200)])
    there.keypoints_xy[0, 0, 0] += 5.0
    area = 80.0 * 200.0
    moved = np.exp(-25.0 / (2 * area * (2 * OKS_SIGMAS[0]) ** 2))
    assert pose_similarity(here, there)[0, 0] == pytest.approx((16 + moved) / 17)


def test_guessed_keypoints_do_not_count() -> None:
    here, there = people([(100, 20, 200)]), people([(100, 20, 200)])
    there.keypoints_xy[0, 16] += 300.0
    assert pose_similarity(here, there)[0, 0] < 0.95
    here.keypoint_scores[0, 16] = 0.05
    assert pose_similarity(here, there)[0, 0] == pytest.approx(1.0)
    there.keypoint_scores[0, 0] = 0.0  # not found on the other side: a loss
    assert pose_similarity(here, there)[0, 0] == pytest.approx(15 / 16)


def test_mask_iou_is_counted_in_pixels() -> None:
    here, there = people([(100, 20, 200), (250, 20, 100)]), people([(110, 20, 200)])
    # Rectangles 80 wide, 10 apart: 70 of 90 columns in common; the second person shares nothing.
    np.testing.assert_allclose(mask_iou(here, there), [[70 / 90], [0.0]])


def test_missed_and_extra_people_fail_the_gate() -> None:
    here = people([(60, 20, 200), (200, 40, 160)])
    result = compared(here, people([(60, 20, 200)]))
    assert (result.missed, result.extra) == (1, 0)
    assert result.failures(LIMITS["fp32"]) == ["1 people missed of 2, 1 % may be"]
    result = compared(people([(60, 20, 200)]), here)
    assert (result.missed, result.extra) == (0, 1)


def test_people_at_the_threshold_may_come_and_go() -> None:
    here = people([(60, 20, 200), (200, 40, 160)], [0.6, 0.16])
    result = compared(here, people([(60, 20, 200)]))
    assert (result.people, result.missed, result.extra) == (1, 0, 0)
    assert compared(people([(60, 20, 200)]), here).extra == 0


def test_nobody_at_all_is_no_success() -> None:
    result = compared(People.empty(HW), People.empty(HW))
    assert "nobody was found" in result.failures(LIMITS["fp32"])[0]


def test_lost_ap_and_the_record() -> None:
    result = dataclasses.replace(compared(people([(60, 20, 200)]), people([(60, 20, 200)])), ap={"keypoints.AP": -0.03})
    assert result.failures(ParityLimits()) == ["keypoints.AP falls by 0.0300, 0.01 may be lost"]
    record = result.record(ParityLimits(ap_drop=0.05), measured_on="a made device")
    assert record["passed"] and record["measured_on"] == "a made device" and record["limits"]["ap_drop"] == 0.05
    with pytest.raises(ValueError, match="limit oks must be within"):
        ParityLimits(oks=1.5)


def test_all_missed_says_so_once() -> None:
    assert compared(people([(60, 20, 200)]), People.empty(HW)).failures(LIMITS["fp32"]) == [
        "1 people missed of 1, 1 % may be"
    ]
