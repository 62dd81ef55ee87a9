"""What the live node answered to a bag, beside the offline run: node_run.json and node_frames.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdc_replay.agreement import Agreement, agree, renaming
from kdc_replay.run_folder import whole, write_json
from kdc_replay.run_reader import NODE_FRAMES_NAME, NODE_RUN_NAME, RunFrame, read_frames

_MOST_LISTED = 10


@dataclass(frozen=True)
class NodeReplay:
    """A bag played to the node.

    rate:       how much faster than recorded; None = each frame when the one before was answered.
    published:  indices of the frames published.
    records:    lines of node_frames.jsonl (as frames.jsonl has them, and latency_ms), one for each answer.
    notes:      what is odd, one line each.
    """

    rate: float | None
    published: list[int]
    records: list[dict[str, Any]]
    notes: list[str]


def write_node_run(folder: Path, frames: Sequence[RunFrame], replay: NodeReplay) -> dict[str, Any]:
    """Write both files beside the offline run of these frames, and return node_run.json's content."""
    with whole(folder / NODE_FRAMES_NAME) as part:
        lines = (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n" for record in replay.records)
        part.write_text("".join(lines), encoding="utf-8")
    answers = read_frames(folder / NODE_FRAMES_NAME)
    latencies = [round(float(record["latency_ms"]), 2) for record in replay.records]
    summary = {
        "rate": "max" if replay.rate is None else replay.rate,
        "frames_published": len(replay.published),
        "frames_answered": len(answers),
        "frames_dropped": len(replay.published) - len(answers),
        "dropped_indices": sorted(set(replay.published) - {frame.index for frame in answers}),
        "latency_ms": _percentiles(latencies),
        "latencies_ms": latencies,
        "answered_indices": [frame.index for frame in answers],
        "notes": replay.notes,
        "comparison": compare_answers(frames, answers),
    }
    write_json(folder / NODE_RUN_NAME, summary)
    return summary


def compare_answers(offline: Sequence[RunFrame], answers: Sequence[RunFrame]) -> dict[str, Any]:
    """The node's answers beside the offline ones of the same frames.

    Ids are compared after the best renaming: a pair of people whose ids do not follow it is a mismatch.
    """
    of_index = {frame.index: frame for frame in offline}
    compared = [(of_index[answer.index], answer) for answer in answers if answer.index in of_index]
    agreements = [agree(one, other) for one, other in compared]
    pairs = [pair for agreement in agreements for pair in agreement.pairs]
    ids = [
        (int(one.ids[pair.first]), int(other.ids[pair.second]))
        for (one, other), agreement in zip(compared, agreements)
        for pair in agreement.pairs
    ]
    names = renaming(ids)
    distances = [p.keypoint_px for p in pairs if p.keypoint_px is not None]
    overlaps = [p.mask_iou for p in pairs if p.mask_iou is not None]
    return {
        "frames": len(compared),
        "frames_same_people": sum(not a.only_first and not a.only_second for a in agreements),
        "people_matched": len(pairs),
        "only_offline": sum(len(a.only_first) for a in agreements),
        "only_node": sum(len(a.only_second) for a in agreements),
        "keypoint_max_px": max(distances, default=None),
        "keypoint_median_px": float(np.median(distances)) if distances else None,
        "mask_iou_min": min(overlaps, default=None),
        "mask_iou_mean": float(np.mean(overlaps)) if overlaps else None,
        "id_mismatches": sum(names.get(one, 0) != other for one, other in ids if one),
        "most_different": _most_different([one for one, _ in compared], agreements),
    }


def _most_different(frames: list[RunFrame], agreements: list[Agreement]) -> list[dict[str, Any]]:
    """The frames whose answers differ, the worst first."""
    order = sorted(range(len(frames)), key=lambda k: (agreements[k].similarity, frames[k].index))
    rows: list[dict[str, Any]] = []
    for k in order:
        agreement = agreements[k]
        if agreement.similarity > 1 - 1e-9 or len(rows) == _MOST_LISTED:
            break
        rows.append(
            {
                "index": frames[k].index,
                "offline": len(agreement.pairs) + len(agreement.only_first),
                "node": len(agreement.pairs) + len(agreement.only_second),
                "keypoint_max_px": agreement.keypoint_px,
                "mask_iou_min": agreement.mask_iou,
            }
        )
    return rows


def _percentiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None, "max": None}
    p50, p95, highest = np.percentile(values, [50, 95, 100]).round(2).tolist()
    return {"p50": p50, "p95": p95, "max": highest}
