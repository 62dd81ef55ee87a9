"""The figures of two runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdc_replay.run_reader import Run


@dataclass(frozen=True)
class MetricChange:
    """A figure of both runs; None where a run has none.

    up_is_good: None where more is neither good nor bad. decimals: how many are shown.
    """

    name: str
    first: float | None
    second: float | None
    up_is_good: bool | None = None
    decimals: int = 3

    @property
    def change(self) -> float | None:
        """Second minus first."""
        return None if self.first is None or self.second is None else self.second - self.first

    @property
    def verdict(self) -> str:
        """better, worse, or nothing where the change is too small to be shown."""
        if self.change is None or self.up_is_good is None or not round(self.change, self.decimals):
            return ""
        return "better" if (self.change > 0) == self.up_is_good else "worse"


def score_changes(first: Run, second: Run) -> list[MetricChange]:
    """The scores of two runs that were scored against the same annotations."""

    def pair(name: str, path: tuple[str, ...]) -> MetricChange:
        return MetricChange(name, _value(first.metrics, path), _value(second.metrics, path), up_is_good=True)

    def events(name: str, field: str) -> MetricChange:
        path = ("tracking", field)
        return MetricChange(name, _value(first.metrics, path), _value(second.metrics, path), False, decimals=0)

    def total(name: str, field: str) -> MetricChange:
        sums = [float(sum(row[field] for row in run.metrics["per_frame"])) for run in (first, second) if run.metrics]
        return MetricChange(name, sums[0], sums[1], False, decimals=0)

    return [
        pair("keypoint AP", ("keypoints", "AP")),
        pair("keypoint AP50", ("keypoints", "AP50")),
        pair("mask AP", ("segm", "AP")),
        pair("mask AP50", ("segm", "AP50")),
        pair("person IoU", ("person_iou",)),
        pair("HOTA", ("tracking", "hota")),
        pair("DetA", ("tracking", "deta")),
        pair("AssA", ("tracking", "assa")),
        pair("IDF1", ("tracking", "idf1")),
        pair("MOTA", ("tracking", "mota")),
        events("id switches", "id_switches"),
        events("fragmentations", "fragmentations"),
        total("persons missed", "missed"),
        total("people found where nobody is", "false_people"),
    ]


def _value(metrics: Mapping[str, Any] | None, path: tuple[str, ...]) -> float | None:
    value: Any = metrics
    for name in path:
        value = None if value is None else value.get(name)
    # COCO's -1: there was nothing to measure.
    return None if value is None or value == -1 and path[0] != "tracking" else float(value)


def figure_changes(first: Run, second: Run) -> list[MetricChange]:
    """What every run has: people, scores, tracks, drops, time."""
    def people(run: Run) -> float | None:
        return float(np.mean([len(f) for f in run.frames])) if run.frames else None

    def score(run: Run) -> float | None:
        scores = [s for f in run.frames for s in f.scores.tolist()]
        return float(np.mean(scores)) if scores else None

    def tracks(run: Run) -> float:
        return float(len({i for f in run.frames for i in f.ids.tolist() if i}))

    def time_ms(run: Run) -> float | None:
        return float(np.median(np.sum(list(run.stage_ms.values()), axis=0))) if run.stage_ms else None

    def dropped(run: Run) -> float:
        return float(sum(run.dropped.values()))

    return [
        MetricChange("people a frame", people(first), people(second)),
        MetricChange("mean person score", score(first), score(second)),
        MetricChange("track ids", tracks(first), tracks(second), decimals=0),
        MetricChange("frames dropped", dropped(first), dropped(second), False, decimals=0),
        MetricChange("median ms a frame (where each ran)", time_ms(first), time_ms(second), decimals=1),
    ]
