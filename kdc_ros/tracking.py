"""The seam between the node and the tracker: what the node asks for, frame by frame."""

from __future__ import annotations

import threading

import numpy as np

from kdc_core.tracking import Tracker, TrackerOptions
from kdc_core.types import People

# The network's scores are low: a clearly visible person has 0.2 to 0.7.
SURE_SCORE = 0.25


class TrackIds:
    """Track ids for the messages; the tracker behind it sees every frame while tracking is on."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self._tracker = tracker or Tracker(TrackerOptions(high_score=SURE_SCORE))
        self._reset_asked = threading.Event()

    def reset(self) -> None:
        """Forget everybody before the next frame; ids go on and none comes again. May be called from any thread."""
        self._reset_asked.set()

    def update(self, people: People, stamp_s: float, enabled: bool = True) -> np.ndarray:
        """Ids of the people of the frame taken at `stamp_s` seconds, int32 (N,), each but 0 at most once.

        0 = not tracked: everybody while tracking is off, and a second, weaker detection of somebody in the
        frame.
        """
        if self._reset_asked.is_set():
            self._reset_asked.clear()
            self._tracker.reset()
        if not enabled:
            self._tracker.reset()
            return np.zeros(len(people), np.int32)
        tracked = self._tracker.update(people, stamp_s)
        return np.where(tracked.duplicates, np.int32(0), tracked.ids)
