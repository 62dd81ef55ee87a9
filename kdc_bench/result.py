"""What a suite of measurements returns, and what it is asked with."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdc_bench.timing import Summary

PEOPLE = (0, 1, 5, 20, 50)


class BenchError(Exception):
    """A measurement that cannot be made here; the message says what is missing."""


@dataclass(frozen=True)
class BenchSettings:
    """What to measure with.

    model:      the network's file.
    threads:    of the inference runtime and of OpenCV; 0 = the runtime's choice.
    rounds:     how often each thing is timed.
    sizes_hw:   (height, width) of the network inputs in pixels, multiples of 32, for `peers`.
    long_side:  of the network's input in pixels, None = the model's own.
    source_hw:  (height, width) of made camera pictures in pixels.
    people:     sizes of the made crowds.
    images:     folder of photographs; None = those that come with scikit-image and matplotlib.
    graphs:     folder where the peers' exported graphs are kept.
    cpu_time:   measure the CPU time of the one thread, not the wall time; needs threads = 1.
    """

    model: Path
    threads: int = 0
    rounds: int = 30
    sizes_hw: tuple[tuple[int, int], ...] = ((320, 320), (416, 416), (640, 640), (480, 640))
    long_side: int | None = None
    source_hw: tuple[int, int] = (480, 640)
    people: tuple[int, ...] = PEOPLE
    images: Path | None = None
    graphs: Path = Path("out/peers")
    cpu_time: bool = False

    def __post_init__(self) -> None:
        if self.cpu_time and self.threads != 1:
            raise BenchError("CPU time says nothing about several threads: add --threads 1")

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds, of the wall or of this thread's CPU time."""
        return time.thread_time if self.cpu_time else time.perf_counter


@dataclass(frozen=True)
class Row:
    """One case. stages: times in ms by stage; figures: single numbers, their unit in the name."""

    case: dict[str, Any]
    stages: dict[str, Summary] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        stages = {stage: dataclasses.asdict(summary) for stage, summary in self.stages.items()}
        return {"case": self.case, "stages_ms": stages, "figures": self.figures}


@dataclass(frozen=True)
class SuiteResult:
    """One suite's table. notes: what a reader must know to understand it; versions: of packages only it uses."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        rows = [row.as_json() for row in self.rows]
        return {"title": self.title, "notes": self.notes, "versions": self.versions, "rows": rows}


Suite = Callable[[BenchSettings], SuiteResult]
