"""The report's section on a run's scores against annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from kdc_replay.charts import Series, histogram, line_chart
from kdc_replay.run_reader import Run
from kdc_replay.time_axis import TimeAxis

_TRACK_METRICS = (
    ("hota", "HOTA"),
    ("deta", "DetA"),
    ("assa", "AssA"),
    ("idf1", "IDF1"),
    ("mota", "MOTA"),
    ("id_switches", "id switches"),
    ("fragmentations", "fragmentations"),
    ("true_tracks", "people"),
    ("found_tracks", "ids"),
)
_SIZES = ("AP", "AP50", "AP75", "APM", "APL")


def accuracy_section(run: Run, axis: TimeAxis) -> dict[str, Any] | None:
    """What the template shows; None where no frame was scored."""
    metrics = run.metrics
    if not metrics or not metrics["frames_annotated"]:
        return None
    rows = {row["index"]: row for row in metrics["per_frame"]}

    def over_time(name: str) -> np.ndarray:
        values = [rows.get(frame.index, {}).get(name) for frame in run.frames]
        return np.array([np.nan if v is None else v for v in values], float)

    missed, false = (sum(row[name] for row in rows.values()) for name in ("missed", "false_people"))
    persons = sum(row["persons"] for row in rows.values())
    tracking = metrics["tracking"]
    return {
        "scope": f"{metrics['frames_annotated']} of {metrics['frames']} frames are annotated, with {persons} persons: "
        f"{missed} missed, {false} found where nobody is. Person pixels: IoU {ratio(metrics['person_iou'])}.",
        "coco_head": [*_SIZES, "AR"],
        "coco_rows": [
            ["keypoints", *(ratio(metrics["keypoints"][n]) for n in _SIZES), ratio(metrics["keypoints"]["AR"])],
            ["masks", *(ratio(metrics["segm"][n]) for n in _SIZES), ratio(metrics["segm"]["AR100"])],
        ],
        "track_head": ["", *(label for _, label in _TRACK_METRICS)],
        "track_rows": [["tracking", *(ratio(tracking[name]) for name, _ in _TRACK_METRICS)]] if tracking else [],
        "similarity": "masks" if metrics["tracking_similarity"] == "mask" else "boxes",
        "curves": [
            (name, Markup(_curve(metrics["curves"][kind], measure)))
            for kind, name, measure in (("keypoints", "keypoints", "OKS"), ("segm", "masks", "IoU"))
            if metrics["curves"][kind]
        ],
        "over_time": Markup(
            line_chart(
                [Series("mean OKS", axis.x, over_time("oks")), Series("mean mask IoU", axis.x, over_time("mask_iou"))],
                axis.label,
                "mean, missed = 0",
                (0.0, 1.0),
                axis.range,
            )
        ),
        "scores": Markup(
            histogram(
                {"somebody is there": metrics["found_scores"], "nobody is there": metrics["false_scores"]},
                "score",
                (0.0, 1.0),
            )
        ),
    }


def _curve(curve: Mapping[str, list[float]], measure: str) -> str:
    recall = np.linspace(0, 1, len(curve["mean"]))
    names = {"0.50": f"{measure} 0.50", "0.75": f"{measure} 0.75", "mean": "mean of 0.50:0.05:0.95"}
    series = [Series(names[key], recall, np.array(curve[key])) for key in ("0.50", "0.75", "mean")]
    return line_chart(series, "recall", "precision", (0.0, 1.02), (0.0, 1.0), height=220)


def ratio(value: float | int | None) -> str:
    """A metric for people; COCO's -1 and None mean that there was nothing to measure."""
    if value is None or value == -1:
        return "none"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
