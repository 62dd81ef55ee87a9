"""The tracker on made sequences with exact truth: few id switches, IDF1.

The comparison with other trackers is in `kdc_replay.compare_trackers`; its tables in docs/tracking.md.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from kdc_core.tracking import Tracker
from kdc_replay.compare_trackers import score_identities
from kdc_replay.peers import run_kdc
from kdc_replay.scenes.sequences import Detector, Scene, crossing_scenes, crowd_walkers, other_scenes, stamps
from kdc_replay.track_scores import TrackScores

pytest.importorskip("trackeval", reason="needs TrackEval")

MISSED, GHOSTS = 0.1, 0.2
CROSSING = {scene.name: scene for scene in crossing_scenes(MISSED, GHOSTS)}
OTHERS = {scene.name: scene for scene in other_scenes(MISSED, GHOSTS)}


def follow(scene: Scene, seed: int = 0) -> TrackScores:
    """Scores of the ids of the people whom the tracker stands by (TRACKED, no second sights)."""
    frames = list(scene.frames(seed))
    return score_identities(frames, run_kdc(frames))


@pytest.mark.parametrize("name", CROSSING)
def test_crossing_people_keep_their_ids(name: str) -> None:
    found = follow(CROSSING[name])
    assert found.idf1 >= 0.95, found
    assert found.id_switches == 0, found


@pytest.mark.parametrize("name", ["behind a pillar", "leaving and coming back", "crowd of 8"])
def test_other_scenes(name: str) -> None:
    found = follow(OTHERS[name])
    assert found.idf1 >= 0.9, found


def test_a_changing_rate_does_no_more_harm_than_few_frames() -> None:
    """A pair that crosses while the camera goes from 30 to 8 Hz and back, with a hole of half a second."""
    pair = CROSSING["crossing pair"]
    mixed = np.concatenate([stamps(1.8), stamps(1.4, 8, 1.8), stamps(1.8, 30, 3.6)])
    found = follow(Scene("changing rate", pair.walkers, mixed, pair.detector))
    assert found.id_switches == 0, found
    assert found.idf1 >= 0.95, found


def test_second_sights_give_no_ids() -> None:
    scene = Scene("doubles", CROSSING["crossing pair"].walkers, stamps(5), Detector(doubled=0.3))
    tracker = Tracker()
    wrong = total = 0
    for frame in scene.frames():
        tracked = tracker.update(frame.people, frame.stamp_s)
        wrong += abs(int((~tracked.duplicates).sum()) - int((frame.sources >= 0).sum()))
        total += int((frame.sources == -2).sum())
    assert total > 50
    assert wrong <= 0.05 * total
    assert tracker.counts.tracks <= 5


def test_a_jump_of_time_restarts_once() -> None:
    walkers = CROSSING["crossing pair"].walkers
    jump = Scene("jump", walkers, np.concatenate([stamps(2), stamps(1, 30, 0.5)]))
    tracker = Tracker()
    ids = [set(tracker.update(f.people, f.stamp_s).ids.tolist()) for f in jump.frames()]
    assert tracker.counts.backward_jumps == 1
    assert set.union(*ids[:60]).isdisjoint(set.union(*ids[60:]))


def test_an_update_costs_little() -> None:
    """CPU time of an update in a crowd with masks. The bound only guards against a blunder; machines are shared."""
    scene = Scene("crowd of 20", crowd_walkers(20, 3.0, seed=3), stamps(1.0))
    frames = list(scene.frames())
    tracker = Tracker()
    costs = []
    for frame in frames:
        start = time.thread_time()
        tracker.update(frame.people, frame.stamp_s)
        costs.append(time.thread_time() - start)
    assert np.median([len(f.people) for f in frames]) >= 8
    assert np.median(costs) < 0.05
