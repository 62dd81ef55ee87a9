"""The report's section on the same bag played to the live node."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from kdc_replay.charts import Series, histogram, line_chart
from kdc_replay.run_reader import Run
from kdc_replay.time_axis import TimeAxis


def node_section(run: Run, axis: TimeAxis) -> dict[str, Any] | None:
    """What the template shows; None where the bag was not played to the node."""
    node = run.node
    if node is None:
        return None
    latency, comparison = node["latency_ms"], node["comparison"]
    rate = node["rate"] if isinstance(node["rate"], str) else f"{node['rate']:g}x"
    return {
        "summary": [
            (rate, "rate"),
            (str(node["frames_published"]), "frames published"),
            (str(node["frames_answered"]), "answered"),
            (str(node["frames_dropped"]), "dropped"),
            (_ms(latency["p50"]), "latency, median"),
            (_ms(latency["p95"]), "95 %"),
            (_ms(latency["max"]), "longest"),
        ],
        "notes": node["notes"],
        "latency": Markup(histogram({"answers": node["latencies_ms"]}, "ms")),
        "over_time": Markup(_over_time(run, node, axis)),
        "comparison": [
            ("frames compared", comparison["frames"]),
            ("frames with the same people", comparison["frames_same_people"]),
            ("people in both", comparison["people_matched"]),
            ("people only offline", comparison["only_offline"]),
            ("people only from the node", comparison["only_node"]),
            ("largest keypoint difference", _px(comparison["keypoint_max_px"])),
            ("median keypoint difference", _px(comparison["keypoint_median_px"])),
            ("lowest mask IoU", _ratio(comparison["mask_iou_min"])),
            ("mean mask IoU", _ratio(comparison["mask_iou_mean"])),
            ("ids that differ beyond renaming", comparison["id_mismatches"]),
        ],
        "differing_head": ["frame", "people offline", "from the node", "keypoints by", "mask IoU"],
        "differing": [
            [row["index"], row["offline"], row["node"], _px(row["keypoint_max_px"]), _ratio(row["mask_iou_min"])]
            for row in comparison["most_different"]
        ],
    }


def _over_time(run: Run, node: dict[str, Any], axis: TimeAxis) -> str:
    """Latency of each answer, and a second line along the bottom for the frames without one."""
    latency = dict(zip(node["answered_indices"], node["latencies_ms"]))
    dropped = set(node["dropped_indices"])
    series = [
        Series("answered, ms", axis.x, np.array([latency.get(f.index, np.nan) for f in run.frames])),
        Series("dropped", axis.x, np.array([0.0 if f.index in dropped else np.nan for f in run.frames])),
    ]
    return line_chart(series, axis.label, "ms", x_range=axis.range, height=170)


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.0f} ms"


def _px(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} px"


def _ratio(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
