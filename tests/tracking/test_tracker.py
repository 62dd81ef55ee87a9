"""The tracker's behaviour on small cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.tracking import Tracker, TrackerOptions, TrackState
from kdc_core.types import People
from tests.tracking.standing import people

DT = 1 / 30
LEGS = (11, 12, 13, 14, 15, 16)


def walk(tracker: Tracker, frames: int, start_s: float = 0.0, dt: float = DT, **person: float) -> float:
    """Feed one person who walks at `vx` px/s from `x`; the stamp after the last frame."""
    vx = person.pop("vx", 0.0)
    x = person.pop("x")
    for i in range(frames):
        tracker.update(people({"x": x + vx * i * dt, **person}), start_s + i * dt)
    return start_s + frames * dt


def states(tracker: Tracker) -> dict[int, TrackState]:
    return {track.id: track.state for track in tracker.tracks}


def test_a_person_keeps_one_id_and_becomes_tracked() -> None:
    tracker = Tracker()
    seen = [tracker.update(people({"x": 100 + i, "y": 100}), i * DT) for i in range(5)]
    assert [list(s.ids) for s in seen] == [[1]] * 5
    assert [s.states[0] for s in seen] == [1, 1, 2, 2, 2]
    np.testing.assert_allclose([s.ages_s[0] for s in seen], np.arange(5) * DT, rtol=1e-5)
    assert not seen[-1].duplicates.any()


def test_velocity_is_in_pixels_per_second_at_any_rate() -> None:
    for rate in (10.0, 30.0, 60.0):
        tracker = Tracker()
        end = walk(tracker, int(3 * rate), dt=1 / rate, x=100, y=100, vx=40.0)
        tracked = tracker.update(people({"x": 100 + 40 * end, "y": 100}), end)
        np.testing.assert_allclose(tracked.velocities_xy[0], (40, 0), atol=1.5)


def test_a_velocity_is_unknown_until_it_is_measured_and_after_a_long_absence() -> None:
    tracker = Tracker()
    first = tracker.update(people({"x": 100, "y": 100}), 0.0)
    assert np.isnan(first.velocities_xy).all()
    assert np.isnan(tracker.tracks[0].velocity_xy).all()
    end = walk(tracker, 20, start_s=DT, x=100, y=100, vx=60.0)
    np.testing.assert_allclose(tracker.tracks[0].velocity_xy, (60, 0), atol=5)
    while tracker.tracks[0].state != TrackState.LOST:
        tracker.update(People.empty(), end)
        end += DT
    assert np.isnan(tracker.tracks[0].velocity_xy).all()
    back = tracker.update(people({"x": 200, "y": 100}), end)
    assert list(back.ids) == [1]
    assert np.isnan(back.velocities_xy).all()


def test_order_of_people_does_not_matter() -> None:
    tracker = Tracker()
    a, b = {"x": 100, "y": 100}, {"x": 300, "y": 100}
    assert list(tracker.update(people(a, b), 0.0).ids) == [1, 2]
    assert list(tracker.update(people(b, a), DT).ids) == [2, 1]


def test_a_miss_occludes_then_loses_then_forgets() -> None:
    options = TrackerOptions(occluded_s=0.5, reentry_s=1.0)
    tracker = Tracker(options)
    end = walk(tracker, 10, x=100, y=100, vx=60.0)
    seen = {}
    for i in range(45):
        assert len(tracker.update(People.empty(), end + i * DT)) == 0
        for track in tracker.tracks:
            seen.setdefault(track.state, []).append(track)
    assert list(seen) == [TrackState.OCCLUDED, TrackState.LOST]
    assert seen[TrackState.OCCLUDED][-1].unseen_s == pytest.approx(0.5, abs=DT)
    assert seen[TrackState.LOST][-1].unseen_s == pytest.approx(1.0, abs=DT)
    assert tracker.tracks == []
    # The occluded person is carried along at her velocity, the lost one stands.
    middle = [t.box_xyxy[[0, 2]].mean() for t in seen[TrackState.OCCLUDED]]
    assert middle[-1] - middle[0] == pytest.approx(60 * DT * (len(middle) - 1), rel=0.15)
    assert np.ptp([t.box_xyxy[0] for t in seen[TrackState.LOST]]) == 0


def test_the_unseen_are_the_tracks_that_nobody_of_the_frame_is() -> None:
    tracker = Tracker()
    assert tracker.unseen == []
    for i in range(6):
        tracker.update(people({"x": 100, "y": 100}, {"x": 300, "y": 100}), i * DT)
    assert tracker.unseen == []
    tracker.update(people({"x": 300, "y": 100}), 6 * DT)
    assert [(track.id, track.state) for track in tracker.unseen] == [(1, TrackState.OCCLUDED)]
    assert [track.id for track in tracker.tracks] == [1, 2]


def test_tentative_tracks_die_soon() -> None:
    tracker = Tracker(TrackerOptions(tentative_s=0.2))
    tracker.update(people({"x": 100, "y": 100}), 0.0)
    tracker.update(People.empty(), 0.1)
    assert states(tracker) == {1: TrackState.TENTATIVE}
    tracker.update(People.empty(), 0.3)
    assert tracker.tracks == []


def test_the_predicted_track_carries_all_joints() -> None:
    tracker = Tracker()
    end = walk(tracker, 10, x=100, y=100, vx=60.0)
    tracker.update(People.empty(), end)
    (track,) = tracker.tracks
    truth = people({"x": 100 + 60 * end, "y": 100})
    np.testing.assert_allclose(track.keypoints_xy, truth.keypoints_xy[0], atol=1.0)
    np.testing.assert_allclose(track.box_xyxy, truth.boxes_xyxy[0], atol=1.0)


def test_hidden_legs_do_not_move_the_body() -> None:
    tracker = Tracker()
    end = walk(tracker, 15, x=100, y=100)
    half = people({"x": 100, "y": 100, "hidden": LEGS})
    half.boxes_xyxy[0, 3] = 105  # the box ends at the hips now: its centre is 22 px higher
    tracked = tracker.update(half, end)
    assert list(tracked.ids) == [1]
    assert np.linalg.norm(tracked.velocities_xy[0]) < 1


@pytest.mark.parametrize("hidden_s", [0.3, 1.0])
def test_a_walker_behind_a_pillar_keeps_the_id(hidden_s: float) -> None:
    tracker = Tracker()
    end = walk(tracker, 20, x=100, y=100, vx=60.0)
    for i in range(int(hidden_s / DT)):
        tracker.update(People.empty(), end + i * DT)
    back = end + hidden_s
    tracked = tracker.update(people({"x": 100 + 60 * back, "y": 100}), back)
    assert list(tracked.ids) == [1]
    assert tracked.states[0] == TrackState.TRACKED


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_a_gap_carries_nobody_further_than_unseen_frames_would(steps: int) -> None:
    tracker = Tracker(TrackerOptions(max_gap_s=100, occluded_s=1.0))
    end = walk(tracker, 30, x=100, y=100, vx=200.0)
    seen_s, seen_x = end - DT, 100 + 200 * (end - DT)
    for i in range(steps):
        tracker.update(People.empty(), seen_s + 3.0 * (i + 1) / steps)
    (track,) = tracker.unseen
    assert track.state == TrackState.LOST
    # The whole second, to the frame after which she is LOST.
    assert 190 < track.box_xyxy[[0, 2]].mean() - seen_x < 225


def test_a_chain_of_equally_good_sights_is_one_person() -> None:
    """The middle one resembles both others; whichever counts as the person, nobody else's track is touched."""
    tracker = Tracker()
    end = walk(tracker, 10, x=500, y=100)
    other = {"x": 500, "y": 100}
    for i in range(5):
        row = [{"x": 100 + dx, "y": 100, "score": score} for dx, score in ((1.75, 0.5), (-1.75, 0.8), (0, 0.8))]
        tracked = tracker.update(people(*row, other), end + i * DT)
        assert tracked.ids[3] == 1 and 1 not in tracked.ids[:3]
    for i in range(5, 12):
        tracker.update(people(*row), end + i * DT)
    assert states(tracker)[1] == TrackState.OCCLUDED


def test_leaving_and_coming_back_keeps_the_id_only_near_and_soon() -> None:
    for x, after_s, same in ((130, 2.0, True), (420, 2.0, False), (130, 6.0, False)):
        tracker = Tracker(TrackerOptions(max_gap_s=100))
        end = walk(tracker, 20, x=100, y=100, vx=60.0)
        tracker.update(People.empty(), end)
        tracker.update(People.empty(), end + after_s - 0.5)
        tracked = tracker.update(people({"x": x, "y": 100}), end + after_s)
        assert bool(tracked.ids[0] == 1) is same
        assert tracker.counts.reentries == int(same)


def test_a_child_does_not_reenter_as_an_adult() -> None:
    tracker = Tracker()
    end = walk(tracker, 20, x=100, y=100)
    tracker.update(People.empty(), end)
    assert tracker.update(people({"x": 150, "y": 125, "height": 40}), end + 2.0).ids[0] != 1


def test_a_weaker_second_sight_of_a_person_has_her_id() -> None:
    tracker = Tracker()
    end = walk(tracker, 10, x=100, y=100)
    tracked = tracker.update(
        people({"x": 101, "y": 100, "score": 0.3, "hidden": LEGS}, {"x": 100, "y": 100}), end
    )
    assert list(tracked.ids) == [1, 1]
    assert list(tracked.duplicates) == [True, False]
    assert tracker.counts.tracks == 1
    assert tracker.counts.duplicates == 1


def test_legs_torn_off_are_no_new_person() -> None:
    tracker = Tracker()
    end = walk(tracker, 10, x=100, y=100)
    upper = {"x": 100, "y": 100, "hidden": LEGS}
    lower = {"x": 100, "y": 100, "score": 0.3, "hidden": [k for k in range(17) if k not in LEGS]}
    tracked = tracker.update(people(upper, lower), end)
    assert list(tracked.ids) == [1, 1]
    assert list(tracked.duplicates) == [False, True]


def test_two_people_side_by_side_are_two() -> None:
    tracker = Tracker()
    ids = [tracker.update(people({"x": 100, "y": 100}, {"x": 125, "y": 100}), i * DT).ids for i in range(5)]
    assert all(list(i) == [1, 2] for i in ids)


def test_a_weak_person_far_from_everybody_has_an_id_but_stays_tentative() -> None:
    tracker = Tracker()
    for i in range(20):
        tracked = tracker.update(people({"x": 100, "y": 100, "score": 0.2}), i * DT)
        assert list(tracked.ids) == [1]
        assert tracked.states[0] == TrackState.TENTATIVE


def test_the_hidden_one_does_not_steal_the_id_of_the_one_in_front() -> None:
    """Two walk towards each other; while they overlap only the one in front is found, even she not always."""
    tracker = Tracker()
    names: dict[str, set[int]] = {"front": set(), "behind": set()}
    for i in range(90):
        t = i * DT
        front = {"x": 40 + 100 * t, "y": 100}
        behind = {"x": 340 - 100 * t, "y": 96, "height": 90, "mirrored": True}
        hidden = abs(front["x"] - behind["x"]) < 30
        found = [("front", front)] * (not (hidden and i % 4 == 0)) + [("behind", behind)] * (not hidden)
        tracked = tracker.update(people(*(p for _, p in found)), t)
        for (name, _), person_id in zip(found, tracked.ids):
            names[name].add(int(person_id))
    assert names == {"front": {1}, "behind": {2}}


def test_box_only_people_are_followed() -> None:
    tracker = Tracker()
    for i in range(20):
        a, b = {"x": 50 + 2 * i, "y": 100}, {"x": 250 - 2 * i, "y": 220}
        found = people({**a, "hidden": range(17)}, {**b, "hidden": range(17)})
        assert list(tracker.update(found, i * DT).ids) == [1, 2]
    np.testing.assert_allclose(tracker.tracks[0].velocity_xy, (60, 0), atol=12)


def test_masks_tell_apart_what_boxes_cannot() -> None:
    """Two people without joints in one box, each in her own half; the order changes: the masks hold the ids."""
    labels = np.zeros((200, 200), np.uint16)
    labels[50:150, 60:100], labels[50:150, 100:140] = 1, 2
    base = people(*({"x": 100, "y": 100, "hidden": range(17)},) * 2)
    boxes = np.array([[60, 50, 140, 150]] * 2, np.float32)
    tracker = Tracker(TrackerOptions(mask_share=1.0))
    made = (base.keypoints_xy, base.keypoint_scores, np.array([0.9, 0.8], np.float32), boxes)
    first = tracker.update(People(*made, labels), 0.0)
    swapped = np.choose(labels, [0, 2, 1]).astype(np.uint16)
    second = tracker.update(People(*made, swapped), DT)
    assert list(first.ids) == [1, 2]
    assert list(second.ids) == [2, 1]


def test_reset_forgets_people_but_not_ids() -> None:
    tracker = Tracker()
    walk(tracker, 5, x=100, y=100)
    tracker.reset()
    assert tracker.tracks == []
    assert list(tracker.update(people({"x": 100, "y": 100}), 0.0).ids) == [2]


def test_time_jumps_restart_and_are_counted() -> None:
    tracker = Tracker()
    walk(tracker, 10, x=100, y=100)
    here = people({"x": 100, "y": 100})
    assert list(tracker.update(here, -50.0).ids) == [2]
    assert list(tracker.update(here, 900.0).ids) == [3]
    assert (tracker.counts.backward_jumps, tracker.counts.gaps) == (1, 1)


def test_repeated_and_slightly_late_stamps_do_no_harm() -> None:
    tracker = Tracker(TrackerOptions(smooth_joints=True))
    for stamp in (0.0, 0.033, 0.033, 0.066, 0.050, 0.1, 0.1, 0.1, 0.133):
        tracked = tracker.update(people({"x": 100, "y": 100}), stamp)
        assert list(tracked.ids) == [1]
        assert np.isnan(tracked.velocities_xy).all() == (stamp == 0.0)
    np.testing.assert_allclose(tracked.velocities_xy, 0, atol=0.1)
    assert (tracker.counts.same_stamps, tracker.counts.late_stamps) == (3, 1)
    assert tracker.counts.backward_jumps == 0


def test_copies_of_one_picture_confirm_nobody() -> None:
    tracker = Tracker()
    repeated = [tracker.update(people({"x": 100, "y": 100}), 1.0) for _ in range(4)]
    assert [list(tracked.ids) for tracked in repeated] == [[1]] * 4
    assert states(tracker) == {1: TrackState.TENTATIVE}
    walk(tracker, 2, start_s=1.0 + DT, x=100, y=100)
    assert states(tracker) == {1: TrackState.TRACKED}


def test_false_detections_do_not_pile_up_while_the_stamps_stand_still() -> None:
    tracker = Tracker()
    for i in range(60):
        tracker.update(people({"x": 100, "y": 100}, {"x": 200 + 90 * (i % 5), "y": 100}), 1.0)
    assert len(tracker.tracks) == 2


@pytest.mark.parametrize("stamp", [float("nan"), float("inf")])
def test_a_stamp_that_is_no_time_is_refused_and_changes_nothing(stamp: float) -> None:
    tracker = Tracker()
    walk(tracker, 5, x=100, y=100)
    with pytest.raises(ValueError, match="finite"):
        tracker.update(people({"x": 100, "y": 100}), stamp)
    assert list(tracker.update(people({"x": 100, "y": 100}), 5 * DT).ids) == [1]


def test_missing_joints_may_hold_anything() -> None:
    tracker = Tracker(TrackerOptions(smooth_joints=True))
    for i in range(5):
        found = people({"x": 100 + i, "y": 100, "hidden": LEGS})
        found.keypoints_xy[0, list(LEGS)] = np.nan
        tracked = tracker.update(found, i * DT)
        assert list(tracked.ids) == [1]
        assert tracked.smoothed is not None
        assert np.isfinite(tracked.smoothed.keypoints_xy[0, :11]).all()
    assert np.isfinite(tracker.tracks[0].keypoints_xy).all()
    np.testing.assert_allclose(tracked.velocities_xy, [(1 / DT, 0)], atol=6)


def test_inputs_are_left_alone() -> None:
    tracker = Tracker(TrackerOptions(smooth_joints=True))
    for i in range(3):
        found = people({"x": 100 + 5 * i, "y": 100})
        copies = [a.copy() for a in (found.keypoints_xy, found.keypoint_scores, found.scores, found.boxes_xyxy)]
        tracker.update(found, i * DT)
        for before, after in zip(
            copies, (found.keypoints_xy, found.keypoint_scores, found.scores, found.boxes_xyxy)
        ):
            np.testing.assert_array_equal(before, after)


def test_ids_end_with_int32() -> None:
    tracker = Tracker()
    tracker._next_id = np.iinfo(np.int32).max
    assert list(tracker.update(people({"x": 100, "y": 100}), 0.0).ids) == [np.iinfo(np.int32).max]
    with pytest.raises(OverflowError, match="used up"):
        tracker.update(people({"x": 400, "y": 100}), DT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"high_score": 1.5}, {"confirm_hits": 0}, {"confirm_hits": 2.5}, {"max_gap_s": 0.0}, {"occluded_s": -1.0},
        {"occluded_s": 9.0}, {"max_size_ratio": 0.5}, {"velocity_walk": float("nan")}, {"max_lag_s": 0.0},
        {"pose_gain": 0.0, "overlap_gain": 0.0},
    ],
)  # fmt: skip
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrackerOptions(**wrong)
