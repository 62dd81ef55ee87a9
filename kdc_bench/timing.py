"""Times: how they are taken and summed up. All in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

WARM_UP_ROUNDS = 2
# ONNX Runtime's workers spin for a while after their work, on cores that the next network would need: on two cores,
# networks of two threads each took twice as long in turn without a rest as with one.
WORKERS_REST_S = 0.1


@dataclass(frozen=True)
class Summary:
    """Of many times of one thing: the least, three percentiles, how many."""

    least: float
    p50: float
    p95: float
    p99: float
    count: int

    @classmethod
    def of(cls, times_ms: list[float]) -> Summary:
        """Raises ValueError for no times at all."""
        if not times_ms:
            raise ValueError("there are no times to sum up")
        p50, p95, p99 = (float(v) for v in np.percentile(times_ms, (50, 95, 99)))
        return cls(float(min(times_ms)), p50, p95, p99, len(times_ms))


@dataclass
class StageTimes:
    """Times of the named stages of something that runs again and again; `total` is the sum of each run's."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, stage_ms: dict[str, float]) -> None:
        """One run's stages."""
        for stage, value in {**stage_ms, "total": sum(stage_ms.values())}.items():
            self.samples.setdefault(stage, []).append(value)

    def summaries(self) -> dict[str, Summary]:
        """By stage, the total last."""
        return {stage: Summary.of(times) for stage, times in self.samples.items()}


class Stopwatch:
    """Collects one run's stages: `with watch("stage"): ...`. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.stage_ms: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._clock()
        yield
        self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + (self._clock() - start) * 1e3


def interleaved(
    runs: dict[str, Callable[[], dict[str, float]]], rounds: int, rest_s: float = 0.0
) -> dict[str, StageTimes]:
    """Run everything in turn, `rounds` times over, after a few rounds that do not count.

    What else the machine does then falls on all of them alike, so that their ratio means something even where the
    times themselves do not. Each run returns its stages' times.

    rest_s: seconds of rest before each run (see `WORKERS_REST_S`).
    """
    for _ in range(WARM_UP_ROUNDS):
        for run in runs.values():
            run()
    times = {name: StageTimes() for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            if rest_s > 0:
                time.sleep(rest_s)
            times[name].add(run())
    return times
