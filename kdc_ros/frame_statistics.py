"""Counts of what became of the frames: one place for the log now and for diagnostics later."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

# A sender of ever new nonsense must not fill the memory.
MAX_CAUSES = 50


@dataclass(frozen=True)
class Snapshot:
    """The counts at one moment.

    received, processed: frames that arrived, and that went through the network to the topics.
    superseded:          frames that a newer one replaced while the network was busy.
    rejected:            malformed frames, by cause.
    failed:              frames on which the pipeline itself failed.
    last_received_s:     time.monotonic() of the last arrival; None before the first.
    stage_ms:            the last processed frame's time in each stage, ms.
    latency_s:           from the last processed frame's stamp to its publication; None where the stamp was 0.
    """

    received: int = 0
    processed: int = 0
    superseded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    last_received_s: float | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)
    latency_s: float | None = None


class FrameStatistics:
    """Counters that the executor's thread and the inference thread write, and that anybody reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._processed = 0
        self._superseded = 0
        self._rejected: Counter[str] = Counter()
        self._failed = 0
        self._last_received_s: float | None = None
        self._stage_ms: dict[str, float] = {}
        self._latency_s: float | None = None

    def count_received(self, superseded: bool) -> None:
        """A frame arrived; `superseded` when it replaced one that was still waiting."""
        with self._lock:
            self._received += 1
            self._superseded += superseded
            self._last_received_s = time.monotonic()

    def count_rejected(self, cause: str) -> int:
        """A malformed frame was dropped. Returns how often that cause was seen."""
        with self._lock:
            if cause not in self._rejected and len(self._rejected) >= MAX_CAUSES:
                cause = "other causes"
            self._rejected[cause] += 1
            return self._rejected[cause]

    def count_failed(self) -> int:
        """The pipeline failed on a frame. Returns how often that happened."""
        with self._lock:
            self._failed += 1
            return self._failed

    def count_processed(self, stage_ms: dict[str, float], latency_s: float | None) -> None:
        """A frame was processed and published."""
        with self._lock:
            self._processed += 1
            self._stage_ms = dict(stage_ms)
            self._latency_s = latency_s

    def snapshot(self) -> Snapshot:
        """All counts as they are now."""
        with self._lock:
            return Snapshot(
                received=self._received,
                processed=self._processed,
                superseded=self._superseded,
                rejected=Counter(self._rejected),
                failed=self._failed,
                last_received_s=self._last_received_s,
                stage_ms=dict(self._stage_ms),
                latency_s=self._latency_s,
            )
