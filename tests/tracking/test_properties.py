"""What holds for any people and any stamps."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.tracking import Tracker, TrackerOptions, TrackState
from kdc_core.types import People

PLACES = st.floats(-500, 1500, width=32)
STAMPS = st.one_of(
    st.floats(0, 0.2), st.just(0.0), st.floats(-0.2, 0), st.floats(-1e6, 1e6), st.sampled_from([1e-9, 1 / 30])
)


@st.composite
def frames(draw: st.DrawFn) -> list[tuple[People, float, bool]]:
    """Frames of 0..4 people out of a few places (so that some come back), with steps of the stamp and resets."""
    out, stamp = [], draw(st.sampled_from([0.0, 1.7e9]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    anchors = [(draw(PLACES), draw(PLACES), draw(st.floats(0, 300))) for _ in range(draw(st.integers(1, 4)))]
    masks = draw(st.booleans())
    for _ in range(draw(st.integers(1, 10))):
        stamp += draw(STAMPS)
        present = [anchors[i] for i in draw(st.lists(st.integers(0, len(anchors) - 1), max_size=4))]
        n = len(present)
        middle = np.array([a[:2] for a in present]).reshape(n, 1, 2)
        size = np.array([a[2] for a in present]).reshape(n, 1, 1)
        xy = middle + size * rng.uniform(-0.5, 0.5, (n, NUM_KEYPOINTS, 2))
        share_found = draw(st.sampled_from([0.0, 0.6, 1.0]))
        scores = rng.random((n, NUM_KEYPOINTS)) * (rng.random((n, NUM_KEYPOINTS)) < share_found)
        xy[scores == 0] = draw(st.sampled_from([0.0, np.nan, np.inf, 1e30]))
        half = np.concatenate([-size, size], 2)[:, 0].repeat(2, 1).reshape(n, 4)
        boxes = np.tile(middle[:, 0], 2) + half / 2
        labels = rng.integers(0, n + 1, (24, 32)).astype(np.uint16) if masks else None
        made = (a.astype(np.float32) for a in (xy, scores, rng.random(n), boxes))
        out.append((People(*made, labels), stamp, draw(st.integers(0, 20)) == 0))
    return out


@settings(max_examples=120, deadline=None)
@given(frames(), st.booleans())
def test_any_frames(sequence: list[tuple[People, float, bool]], smooth: bool) -> None:
    tracker = Tracker(TrackerOptions(smooth_joints=smooth))
    again = Tracker(TrackerOptions(smooth_joints=smooth))
    retired: set[int] = set()
    alive: set[int] = set()
    for people, stamp, reset in sequence:
        restarts = tracker.counts.backward_jumps + tracker.counts.gaps
        before = tracker.counts.tracks
        if reset:
            tracker.reset()
            again.reset()
        tracked = tracker.update(people, stamp)

        # Aligned with the people, an id for everybody, unique but for second sights.
        assert len(tracked) == len(people) == len(tracked.ids)
        assert (tracked.ids > 0).all()
        assert len(set(tracked.ids[~tracked.duplicates])) == (~tracked.duplicates).sum()
        assert set(tracked.ids[tracked.duplicates]) <= set(tracked.ids[~tracked.duplicates])
        assert set(tracked.states) <= {TrackState.TENTATIVE, TrackState.TRACKED}
        assert (tracked.ages_s >= 0).all()

        # Nothing is ever NaN but an unknown velocity, and that never spoils a place.
        assert not np.isinf(tracked.velocities_xy).any()
        assert np.isfinite(tracked.ages_s).all()
        for track in tracker.tracks:
            for value in (track.box_xyxy, track.keypoints_xy, track.keypoint_scores):
                assert np.isfinite(value).all()
            assert not np.isinf(track.velocity_xy).any()
            assert track.unseen_s >= 0
            assert track.age_s >= track.unseen_s
        if smooth:
            assert tracked.smoothed is not None
            places = tracked.smoothed.keypoints_xy[people.keypoint_scores > 0]
            assert np.isfinite(places[np.abs(places).max(-1, initial=0) < 1e6]).all()

        # Ids that were dropped do not return; every id of this frame is alive now.
        now = {track.id for track in tracker.tracks}
        assert set(tracked.ids.tolist()) <= now
        restarted = reset or tracker.counts.backward_jumps + tracker.counts.gaps > restarts
        retired |= alive - now
        assert not now & retired
        if restarted:
            assert all(i > before for i in now)
        alive = now

        # The same again gives the same.
        repeated = again.update(people, stamp)
        np.testing.assert_array_equal(repeated.ids, tracked.ids)
        np.testing.assert_array_equal(repeated.velocities_xy, tracked.velocities_xy)
