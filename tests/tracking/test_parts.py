"""The tracker's parts against formulas and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.skeleton import OKS_SIGMAS
from kdc_core.tracking import Tracker, TrackerOptions, motion
from kdc_core.tracking.detections import Detections, body_sizes_px
from kdc_core.tracking.similarity import box_iou, mask_grids, mask_iou, match_joints
from tests.tracking.standing import people

RNG = np.random.default_rng(0)


def test_near_is_cocos_oks_where_nothing_is_uncertain() -> None:
    a, b = RNG.uniform(0, 50, (2, 4, 17, 2))
    sizes = np.array([40.0, 70.0, 30.0, 100.0])
    found = match_joints(a, np.ones((4, 17)), sizes, np.zeros(4), b, np.ones((4, 17)), 0.0)
    d2 = ((a - b) ** 2).sum(2)
    oks = np.exp(-d2 / (2 * sizes[:, None] ** 2 * (2 * OKS_SIGMAS) ** 2)).mean(1)
    np.testing.assert_allclose(found.near, oks, rtol=1e-5)


def test_pose_does_not_see_a_common_shift_and_missing_joints_weigh_on_agreement() -> None:
    a = people({"x": 100, "y": 100}).keypoints_xy.astype(float)
    ones, few = np.ones((1, 17)), np.array([[1.0] * 6 + [0.0] * 11])
    found = match_joints(a, ones, np.array([46.0]), np.zeros(1), a + (30, -12), ones, 0.05)
    assert found.pose[0] == pytest.approx(1)
    assert found.near[0] < 0.1
    np.testing.assert_allclose(found.shift_xy[0], (30, -12))
    assert found.agreement[0] == pytest.approx(1)
    assert match_joints(a, ones, np.array([46.0]), np.zeros(1), a, few, 0.05).agreement[0] < 0.6


def test_box_iou() -> None:
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], float)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]], float)
    np.testing.assert_allclose(box_iou(a, b), [[1 / 3, 1, 0], [0, 0, 0]])


def test_mask_iou_is_near_the_exact_one() -> None:
    """Discs that moved by a few pixels: the sampled IoU against the IoU of the pixels."""
    y, x = np.mgrid[:240, :320]
    centres = [(80, 120, 40), (150, 110, 35), (300, 200, 60)]

    def scene(shift: int) -> np.ndarray:
        labels = np.zeros((240, 320), np.uint16)
        for i, (cx, cy, r) in enumerate(centres):
            labels[(x - cx - shift) ** 2 + (y - cy) ** 2 < r * r] = i + 1
        return labels

    before, after = scene(0), scene(9)
    boxes = np.array([[cx - r, cy - r, cx + r, cy + r] for cx, cy, r in centres], float)
    moved = boxes + (9, 0, 9, 0)
    found = mask_iou(mask_grids(before, boxes), boxes, after, mask_grids(after, moved), moved)
    for i in range(3):
        for j in range(3):
            m, n = before == i + 1, after == j + 1
            assert found[i, j] == pytest.approx((m & n).sum() / (m | n).sum(), abs=0.06)


def test_the_filter_does_not_depend_on_the_number_of_steps() -> None:
    mean, covariance = motion.new_motion(np.array([[10.0, 20.0]]), np.array([40.0]), 0.05, 2.0)
    mean[:, :, 1] = (30, -10, 0.1)
    sizes = np.array([40.0])
    once = motion.predict(mean, covariance, sizes, 1.0, 1.0)
    often = mean, covariance
    for _ in range(10):
        often = motion.predict(*often, sizes, 0.1, 1.0)
    for a, b in zip(once, often):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_the_filter_is_the_textbook_one() -> None:
    mean, covariance = motion.new_motion(np.array([[10.0, 20.0]]), np.array([40.0]), 0.05, 2.0)
    sizes, dt, walk, noise = np.array([40.0]), 0.2, 1.0, 9.0
    m, c = motion.predict(mean, covariance, sizes, dt, walk)
    m, c = motion.correct(m, c, np.full((1, 3), 5.0), np.full((1, 3), noise))
    f = np.array([[1, dt], [0, 1]])
    q = (walk * 40) ** 2 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    p = f @ np.diag([(0.05 * 40) ** 2, (2 * 40) ** 2]) @ f.T + q
    gain = p[:, 0] / (p[0, 0] + noise)
    np.testing.assert_allclose(m[0, 0], np.array([10.0, 0.0]) + gain * 5)
    expected = p - np.outer(gain, p[0])
    np.testing.assert_allclose(c[0, 0], expected[[0, 0, 1], [0, 1, 1]])


def test_body_motion_is_the_joints_not_the_box() -> None:
    a = people({"x": 100, "y": 100}, {"x": 300, "y": 100})
    b = people({"x": 104, "y": 98, "hidden": (13, 14, 15, 16)}, {"x": 306, "y": 100, "hidden": range(17)})
    b.boxes_xyxy[0, 3] = 120
    f = [np.asarray(v, float) for v in (a.keypoints_xy, a.keypoint_scores, b.keypoints_xy, b.keypoint_scores)]
    innovation, noise = motion.body_motion(*f, a.boxes_xyxy, b.boxes_xyxy, np.array([2.0, 2.0]))
    np.testing.assert_allclose(innovation[0], (4, -2, 0), atol=1e-4)
    np.testing.assert_allclose(innovation[1], (6, 0, 0), atol=1e-4)
    assert (noise[1] > noise[0]).all()


def test_growth_is_seen() -> None:
    tracker = Tracker()
    for i in range(60):
        tracked = tracker.update(people({"x": 200, "y": 200, "height": 100 * 1.01**i}), i / 30)
    assert list(tracked.ids) == [1]
    box = tracker.tracks[0].box_xyxy
    assert box[3] - box[1] == pytest.approx(100 * 1.01**59, rel=0.02)


def test_body_sizes() -> None:
    boxes = np.array([[0, 0, 40, 100], [0, 0, 2, 100], [5, 5, 5, 5]], float)
    np.testing.assert_allclose(body_sizes_px(boxes), [np.sqrt(0.53 * 4000), 25, 2])


def test_odd_people_become_finite() -> None:
    odd = people({"x": 100, "y": 100}, {"x": 50, "y": 50, "hidden": range(17)})
    odd.boxes_xyxy[:] = np.nan
    odd.scores[:] = np.nan
    odd.keypoints_xy[0, 3] = np.inf
    found = Detections.of(odd)
    for value in (found.xy, found.joint_scores, found.scores, found.boxes, found.sizes):
        assert np.isfinite(value).all()
    assert found.joint_scores[0, 3] == 0
    np.testing.assert_allclose(found.boxes[0], (81, 57, 119, 146))


@pytest.mark.parametrize("rate", [10.0, 30.0])
def test_smoothed_joints_lag_at_most_the_limit(rate: float) -> None:
    options = TrackerOptions(smooth_joints=True, max_lag_s=0.08, min_cutoff_hz=0.1, speed_coefficient=0.0)
    tracker = Tracker(options)
    for i in range(int(4 * rate)):
        tracked = tracker.update(people({"x": 50 + 90 * i / rate, "y": 100}), i / rate)
    assert tracked.smoothed is not None
    lag = (tracked.people.keypoints_xy - tracked.smoothed.keypoints_xy)[0, :, 0] / 90
    np.testing.assert_allclose(lag, 0.08, atol=0.002)


def test_smoothing_calms_a_person_at_rest() -> None:
    tracker = Tracker(TrackerOptions(smooth_joints=True))
    rng = np.random.default_rng(1)
    raw, smooth = [], []
    for i in range(120):
        found = people({"x": 100, "y": 100})
        found.keypoints_xy[:] += rng.normal(0, 1, found.keypoints_xy.shape)
        tracked = tracker.update(found, i / 30)
        assert tracked.smoothed is not None
        raw.append(found.keypoints_xy[0])
        smooth.append(tracked.smoothed.keypoints_xy[0])
    assert np.std(smooth[30:], axis=0).mean() < 0.6 * np.std(raw[30:], axis=0).mean()
