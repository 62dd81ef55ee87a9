"""Counts and times of what became of the frames: one place for the log and for diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

# A sender of ever new nonsense must not fill the memory.
MAX_CAUSES = 50
_MAX_CAUSE_LENGTH = 300
# Rates, ages and stage times are those of the last seconds.
WINDOW_S = 5.0


def shortened(cause: str) -> str:
    """What a message said is part of a cause: a sender of very long nonsense must not fill the memory either."""
    return cause if len(cause) <= _MAX_CAUSE_LENGTH else cause[:_MAX_CAUSE_LENGTH] + " ..."


@dataclass(frozen=True)
class Snapshot:
    """Counts since the start, and rates, ages and times over the last `WINDOW_S` seconds, at one moment.

    received, processed: frames that arrived, and that went through the network to the topics.
    superseded:          frames that a newer one replaced before the network was free for them.
    discarded:           frames that waited for the network or their depth image when the work was paused or ended.
    rejected:            malformed frames, by cause.
    failed:              frames on which the pipeline itself failed.
    too_old:             frames older than `max_age_s`.
    out_of_order:        frames older than one already processed.
    paired, unpaired:    frames processed with, and for want of a usable one without, a depth image (with use_depth).
    unusable:            depth images and calibrations that came with frames and could not be used, by cause.
    stamp_jumps:         how often stamps jumped back, so that the tracks were given up.
    odd_stamps:          processed frames whose age makes no sense: stamped ahead of the clock, or by another one.
    people:              in the last processed frame.
    last_received_s:     time.monotonic() of the last arrival; None before the first.
    latency_s:           from the last processed frame's stamp to its publication; None where that is unknown.
    input_rate_hz, output_rate_hz: frames received and processed per second.
    age_p50_s, age_p95_s: of `latency_s`; None without any.
    stage_ms:            mean time in each stage, ms.
    """

    received: int = 0
    processed: int = 0
    superseded: int = 0
    discarded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    too_old: int = 0
    out_of_order: int = 0
    paired: int = 0
    unpaired: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    stamp_jumps: int = 0
    odd_stamps: int = 0
    people: int = 0
    last_received_s: float | None = None
    latency_s: float | None = None
    input_rate_hz: float = 0.0
    output_rate_hz: float = 0.0
    age_p50_s: float | None = None
    age_p95_s: float | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)

    @property
    def spoilt(self) -> int:
        """Frames from which nothing came because something is wrong with them or with the pipeline."""
        return self.rejected.total() + self.failed


@dataclass(frozen=True)
class _Processed:
    at_s: float
    latency_s: float | None
    stage_ms: dict[str, float]


class FrameStatistics:
    """Counters that the executor's threads and the inference thread write, and that anybody reads."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._unusable: Counter[str] = Counter()
        self._arrivals: deque[float] = deque()
        self._outcomes: deque[_Processed] = deque()
        self._first_received_s: float | None = None
        self._last_received_s: float | None = None
        self._latency_s: float | None = None
        self._people = 0

    def count_received(self) -> None:
        """A frame arrived."""
        now_s = self._now_s()
        with self._lock:
            self._counts["received"] += 1
            self._last_received_s = now_s
            if self._first_received_s is None:
                self._first_received_s = now_s
            self._arrivals.append(now_s)
            while self._arrivals[0] < now_s - WINDOW_S:
                self._arrivals.popleft()

    def count_superseded(self) -> None:
        """A newer frame replaced one that was still waiting."""
        self._count("superseded")

    def count_discarded(self, frames: int = 1) -> None:
        """Frames were waiting when the work was paused or ended."""
        with self._lock:
            self._counts["discarded"] += frames

    def count_rejected(self, cause: str) -> int:
        """A malformed frame was dropped. Returns how often that cause was seen."""
        return self._count_cause(self._rejected, cause)

    def count_unusable(self, cause: str) -> int:
        """A depth image or calibration could not be used for its frame. Returns how often that cause was seen."""
        return self._count_cause(self._unusable, cause)

    def count_failed(self) -> int:
        """The pipeline failed on a frame. Returns how often that happened."""
        return self._count("failed")

    def count_too_old(self) -> int:
        """A frame was dropped for its age. Returns how often that happened."""
        return self._count("too_old")

    def count_out_of_order(self) -> int:
        """A frame came after a newer one had been processed. Returns how often that happened."""
        return self._count("out_of_order")

    def count_stamp_jump(self) -> int:
        """Stamps jumped back. Returns how often that happened."""
        return self._count("stamp_jumps")

    def count_depth(self, paired: bool) -> None:
        """A frame went on with its depth image, or without one although depth is asked for."""
        self._count("paired" if paired else "unpaired")

    def count_processed(
        self, stage_ms: dict[str, float], latency_s: float | None, people: int, odd_stamp: bool = False
    ) -> None:
        """A frame was processed and published."""
        now_s = self._now_s()
        with self._lock:
            self._counts["processed"] += 1
            self._counts["odd_stamps"] += odd_stamp
            self._latency_s, self._people = latency_s, people
            self._outcomes.append(_Processed(now_s, latency_s, dict(stage_ms)))
            while self._outcomes[0].at_s < now_s - WINDOW_S:
                self._outcomes.popleft()

    def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        with self._lock:
            now_s = self._now_s()
            from_s = now_s - WINDOW_S
            arrivals = [at_s for at_s in self._arrivals if at_s >= from_s]
            outcomes = [outcome for outcome in self._outcomes if outcome.at_s >= from_s]
            counts, rejected, unusable = dict(self._counts), Counter(self._rejected), Counter(self._unusable)
            since_s = now_s - (now_s if self._first_received_s is None else self._first_received_s)
            last_received_s, latency_s, people = self._last_received_s, self._latency_s, self._people
        ages_s = [outcome.latency_s for outcome in outcomes if outcome.latency_s is not None]
        p50_s, p95_s = np.percentile(ages_s, [50, 95]).tolist() if ages_s else (None, None)
        return Snapshot(
            **counts,
            rejected=rejected,
            unusable=unusable,
            people=people,
            last_received_s=last_received_s,
            latency_s=latency_s,
            input_rate_hz=_rate_hz(len(arrivals), since_s),
            output_rate_hz=_rate_hz(len(outcomes), since_s),
            age_p50_s=p50_s,
            age_p95_s=p95_s,
            stage_ms=_mean_ms(outcomes),
        )

    def _count_cause(self, causes: Counter[str], cause: str) -> int:
        with self._lock:
            if cause not in causes and len(causes) >= MAX_CAUSES:
                cause = "other causes"
            causes[cause] += 1
            return causes[cause]

    def _count(self, what: str) -> int:
        with self._lock:
            self._counts[what] += 1
            return self._counts[what]


def _rate_hz(count: int, since_s: float) -> float:
    """Events per second, of so many in the window; `since_s` after the first event ever."""
    return count / min(max(since_s, 1.0), WINDOW_S)


def _mean_ms(outcomes: list[_Processed]) -> dict[str, float]:
    stages = dict.fromkeys(stage for outcome in outcomes for stage in outcome.stage_ms)
    means = {}
    for stage in stages:
        values = [outcome.stage_ms[stage] for outcome in outcomes if stage in outcome.stage_ms]
        means[stage] = sum(values) / len(values)
    return means
