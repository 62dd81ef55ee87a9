"""The seam between the node and the tracker: what the node asks for, frame by frame."""

from __future__ import annotations

import threading

from kdc_core.tracking import FrameTracks, Tracker, TrackerOptions
from kdc_core.tracking.options import SURE_SCORE
from kdc_core.types import People


class TrackIds:
    """Identities for the messages; the tracker behind it sees every frame while tracking is on."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self._tracker = tracker or Tracker(TrackerOptions(high_score=SURE_SCORE))
        self._reset_asked = threading.Event()

    def reset(self) -> None:
        """Forget everybody before the next frame; ids go on and none comes again. May be called from any thread."""
        self._reset_asked.set()

    def update(self, people: People, stamp_s: float, enabled: bool = True) -> FrameTracks:
        """Identities of the people of the frame taken at `stamp_s` seconds.

        Nobody has one while tracking is off, nor has a second, weaker detection of somebody in the frame.
        """
        if self._reset_asked.is_set() or not enabled:
            self._reset_asked.clear()
            self._tracker.reset()
        if not enabled:
            return FrameTracks.untracked(len(people))
        return self._tracker.frame(people, stamp_s)
