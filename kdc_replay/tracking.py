"""The tracker as a run uses it: fed in the order of the bag, by the stamps alone."""

from __future__ import annotations

from kdc_core.tracking import FrameTracks, Tracker, TrackerOptions
from kdc_core.tracking.options import SURE_SCORE
from kdc_core.types import People


class RunTracker:
    """Identities of people, frame by frame, as the live node gives them; the same frames always give the same ones."""

    def __init__(self) -> None:
        self._tracker = Tracker(TrackerOptions(high_score=SURE_SCORE))

    def update(self, people: People, time_ns: int) -> FrameTracks:
        """Identities of the people of the frame of `time_ns`."""
        return self._tracker.frame(people, time_ns * 1e-9)
