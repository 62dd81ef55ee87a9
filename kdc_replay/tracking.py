"""The tracker as a run uses it: fed in the order of the bag, by the stamps alone."""

from __future__ import annotations

import numpy as np

from kdc_core.tracking import Tracker, TrackerOptions, TrackState
from kdc_core.types import People
from kdc_replay.journal import UNTRACKED

# The network's scores are low: a clearly visible person has 0.2 to 0.7.
_SURE_SCORE = 0.25


class RunTracker:
    """Ids and states of people, frame by frame; the same frames always give the same ones."""

    def __init__(self) -> None:
        self._tracker = Tracker(TrackerOptions(high_score=_SURE_SCORE))

    def update(self, people: People, time_ns: int) -> tuple[np.ndarray, list[str]]:
        """(ids int32 (N,), names of states) of the people of the frame of `time_ns`.

        A second, weaker detection of somebody in the frame has id 0 and is UNTRACKED.
        """
        tracked = self._tracker.update(people, time_ns * 1e-9)
        states = [
            UNTRACKED if twice else TrackState(state).name
            for state, twice in zip(tracked.states.tolist(), tracked.duplicates.tolist())
        ]
        return np.where(tracked.duplicates, np.int32(0), tracked.ids), states
