"""Multi-object tracking scores of made sequences: IDF1, id switches, MOTA here; all of them by TrackEval if there.

A `Record` is one tracker's answer on one sequence, in the form TrackEval's metrics take.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Record:
    """For each frame: truth ids (M,), found ids (N,) and their similarity (M, N) in 0..1."""

    truth_ids: list[np.ndarray]
    found_ids: list[np.ndarray]
    similarity: list[np.ndarray]


def by_source(sources: np.ndarray, ids: np.ndarray, published: np.ndarray) -> tuple[np.ndarray, ...]:
    """One frame of a Record that asks: does each DETECTED person have the right id? Exact, no overlap threshold.

    sources (N,): the truth behind each detection, negative = none; ids (N,); published (N,): the tracker stands by it.
    The truth is who was detected, so that the detector's misses weigh on nobody.
    """
    truth = np.unique(sources[sources >= 0])
    return truth, ids[published], (truth[:, None] == sources[published][None]).astype(float)


def by_box(
    truth_ids: np.ndarray, truth_boxes: np.ndarray, ids: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, ...]:
    """One frame of a Record that asks: is EVERYBODY in view, hidden and overlooked ones too, where the tracker says?
    Similarity is box IoU."""
    low = np.maximum(truth_boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(truth_boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.maximum(high - low, 0).prod(2)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (truth_boxes, boxes)]
    return truth_ids, ids, common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def record(frames: Iterable[tuple[np.ndarray, ...]]) -> Record:
    truth, found, similarity = (list(x) for x in zip(*frames))
    return Record(truth, found, similarity)


def scores(run: Record, threshold: float = 0.5) -> dict[str, float]:
    """IDF1 (Ristani et al. 2016), id switches and MOTA (CLEAR), as TrackEval defines them."""
    truth_names, found_names = (np.unique(np.concatenate(x)) for x in (run.truth_ids, run.found_ids))
    together = np.zeros((len(truth_names), len(found_names)))
    matches = misses = ghosts = switches = 0
    last: dict[int, int] = {}
    before: dict[int, int] = {}
    for truth, found, similarity in zip(run.truth_ids, run.found_ids, run.similarity):
        same = similarity >= threshold
        rows, columns = np.nonzero(same)
        np.add.at(
            together, (np.searchsorted(truth_names, truth[rows]), np.searchsorted(found_names, found[columns])), 1
        )
        # CLEAR keeps the pairs of the frame before where it can.
        kept = np.array([[before.get(t) == f for f in found] for t in truth], float).reshape(same.shape)
        rows, columns = linear_sum_assignment(np.where(same, 1000 * kept + similarity, 0), maximize=True)
        good = same[rows, columns]
        before = {int(truth[r]): int(found[c]) for r, c in zip(rows[good], columns[good])}
        switches += sum(last.get(t, f) != f for t, f in before.items())
        last.update(before)
        matches += len(before)
        misses += len(truth) - len(before)
        ghosts += len(found) - len(before)
    rows, columns = linear_sum_assignment(together, maximize=True)
    truths = matches + misses
    return {
        "IDF1": 2 * together[rows, columns].sum() / max(truths + matches + ghosts, 1),
        "IDSW": switches,
        "MOTA": (matches - ghosts - switches) / max(truths, 1),
    }


def trackeval_scores(run: Record) -> dict[str, float]:
    """The same and HOTA (mean over its thresholds) and AssA by TrackEval. Raises ImportError where it is absent."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    truth_names, found_names = (np.unique(np.concatenate(x)) for x in (run.truth_ids, run.found_ids))
    data = {
        "gt_ids": [np.searchsorted(truth_names, x) for x in run.truth_ids],
        "tracker_ids": [np.searchsorted(found_names, x) for x in run.found_ids],
        "similarity_scores": run.similarity,
        "num_gt_ids": len(truth_names),
        "num_tracker_ids": len(found_names),
        "num_gt_dets": sum(map(len, run.truth_ids)),
        "num_tracker_dets": sum(map(len, run.found_ids)),
        "num_timesteps": len(run.truth_ids),
    }
    clear, identity, hota = (
        metric.eval_sequence(data)
        for metric in (CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False}), HOTA())
    )
    return {
        "IDF1": float(identity["IDF1"]),
        "IDSW": float(clear["IDSW"]),
        "MOTA": float(clear["MOTA"]),
        "HOTA": float(np.mean(hota["HOTA"])),
        "AssA": float(np.mean(hota["AssA"])),
    }
