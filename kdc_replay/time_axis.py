"""The time axis that the charts of a run share."""

from __future__ import annotations

import numpy as np

from kdc_replay.run_reader import Run


class TimeAxis:
    """Where frames lie on the page: seconds of their stamps, or their numbers where the stamps jump back.

    x:    float64 (frames,), ascending.
    ends: float64 (frames,), until when a frame counts: the next one, but no longer than twice the usual step.
    """

    def __init__(self, run: Run) -> None:
        times = run.times_s()
        ascending = bool((np.diff(times) > 0).all())
        self.label = "seconds" if ascending else "frame (the stamps jump back)"
        self.x = times if ascending else np.array([float(f.index) for f in run.frames])
        steps = np.diff(self.x)
        self.usual_step = float(np.median(steps)) if len(steps) else 1.0
        following = np.append(self.x[1:], self.x[-1:] + self.usual_step)
        self.ends = np.minimum(following, self.x + 2 * self.usual_step)
        self.range = (float(self.x[0]), float(self.ends[-1])) if len(self.x) else (0.0, 1.0)

    def when(self, place: int) -> str:
        """A frame's place in words."""
        return f"{self.x[place]:.2f} s" if self.label == "seconds" else f"number {self.x[place]:.0f}"
