"""Multi-object tracking scores of one sequence by TrackEval, the reference implementation of HOTA.

HOTA, DetA, AssA: Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021.
IDF1: Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016.
MOTA, id switches, fragmentations: Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The
CLEAR MOT Metrics", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

import numpy as np

MATCH_THRESHOLD = 0.5  # similarity from which CLEAR and IDF1 take a pair as the same object; HOTA goes through all
INSTALL_HINT = "pip install tabulate && pip install --no-deps trackeval"


@dataclass(frozen=True, eq=False)
class FrameObjects:
    """The objects of one frame: N of them, in any order.

    ids:        int64 (N,), each at most once; any numbers, the same through the sequence for the same object.
    boxes_xyxy: float32 (N, 4), x0 y0 x1 y1 in pixels.
    masks:      None, or a label map, integer (H, W): 0 = nobody, i + 1 = object i; or bool (N, H, W), or a list of N
                bool (H, W), for masks that may overlap.

    Raises ValueError where shapes or kinds do not fit, an id comes twice, or a box is not finite.
    """

    ids: np.ndarray
    boxes_xyxy: np.ndarray
    masks: np.ndarray | Sequence[np.ndarray] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.ids.ndim != 1 or not np.issubdtype(self.ids.dtype, np.integer):
            raise ValueError(f"ids must be integers (N,), got {self.ids.dtype} {self.ids.shape}")
        if len(np.unique(self.ids)) != n:
            raise ValueError(f"an id may come once in a frame, got {self.ids.tolist()}")
        if self.boxes_xyxy.shape != (n, 4) or not np.isfinite(self.boxes_xyxy).all():
            raise ValueError(f"boxes_xyxy must be finite, of shape ({n}, 4); its shape is {self.boxes_xyxy.shape}")
        if self.masks is None or _is_label_map(self.masks):
            return
        if len(self.masks) != n or any(mask.ndim != 2 or mask.dtype != np.bool_ for mask in self.masks):
            raise ValueError(f"masks must be an integer label map (H, W) or {n} bool masks (H, W)")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TrackScores:
    """Scores of one sequence; ratios up to 1, NaN where they have no meaning.

    hota, deta, assa: means over TrackEval's 19 similarity thresholds, 0.05 to 0.95.
    idf1, idp, idr:   F1, precision and recall of the best one-to-one assignment of ids over the whole sequence.
    mota:             1 - (misses + false positives + id switches) / true objects; below 0 for very bad trackers.
    id_switches:      how often a true object is matched by another id than when it was matched last.
    fragmentations:   how often a true object is matched again after a break.
    matches, misses, false_positives: of objects, over all frames.
    true_tracks, found_tracks: number of different ids. frames: length of the sequence.
    """

    hota: float
    deta: float
    assa: float
    idf1: float
    idp: float
    idr: float
    mota: float
    id_switches: int
    fragmentations: int
    matches: int
    misses: int
    false_positives: int
    true_tracks: int
    found_tracks: int
    frames: int

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON: None stands for NaN."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def score_tracks(
    truth: Sequence[FrameObjects], found: Sequence[FrameObjects], similarity: Literal["box", "mask"] = "box"
) -> TrackScores:
    """Scores of the objects `found` against the `truth`, frame by frame; IoU of boxes or of masks is the similarity.

    Raises ValueError where the two differ in length or masks are missing or differ in size; ImportError where
    TrackEval is not installed.
    """
    if len(truth) != len(found):
        raise ValueError(f"truth has {len(truth)} frames, found has {len(found)}")
    measures = {"box": _box_similarity, "mask": mask_similarity}
    if similarity not in measures:
        raise ValueError(f"similarity must be 'box' or 'mask', got {similarity!r}")
    measure = measures[similarity]
    return score_ids(
        [frame.ids for frame in truth],
        [frame.ids for frame in found],
        [measure(a, b) for a, b in zip(truth, found)],
    )


def score_ids(
    truth_ids: Sequence[np.ndarray], found_ids: Sequence[np.ndarray], similarities: Sequence[np.ndarray]
) -> TrackScores:
    """The same from similarities in 0..1 that are known already: for each frame ids (M,), ids (N,) and (M, N)."""
    metrics = _trackeval_metrics()
    truth_names, truth_numbers = _renumbered(truth_ids)
    found_names, found_numbers = _renumbered(found_ids)
    truths, founds = sum(map(len, truth_ids)), sum(map(len, found_ids))
    data = {
        "gt_ids": truth_numbers,
        "tracker_ids": found_numbers,
        "similarity_scores": [np.asarray(s, float) for s in similarities],
        "num_gt_ids": len(truth_names),
        "num_tracker_ids": len(found_names),
        "num_gt_dets": truths,
        "num_tracker_dets": founds,
        "num_timesteps": len(truth_ids),
    }
    # TrackEval reports 0 for a ratio of nothing to nothing, which reads like a failure.
    anything, any_truth = (1.0 if truths or founds else math.nan), (1.0 if truths else math.nan)
    hota, clear, identity = (metric.eval_sequence(data) for metric in metrics)
    return TrackScores(
        hota=anything * float(np.mean(hota["HOTA"])),
        deta=anything * float(np.mean(hota["DetA"])),
        assa=anything * float(np.mean(hota["AssA"])),
        idf1=anything * float(identity["IDF1"]),
        idp=(1.0 if founds else math.nan) * float(identity["IDP"]),
        idr=any_truth * float(identity["IDR"]),
        mota=any_truth * float(clear["MOTA"]),
        id_switches=int(clear["IDSW"]),
        fragmentations=int(clear["Frag"]),
        matches=int(clear["CLR_TP"]),
        misses=int(clear["CLR_FN"]),
        false_positives=int(clear["CLR_FP"]),
        true_tracks=len(truth_names),
        found_tracks=len(found_names),
        frames=len(truth_ids),
    )


def _trackeval_metrics() -> tuple[Any, Any, Any]:
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as error:
        raise ImportError(f"tracking scores need TrackEval: {INSTALL_HINT}") from error
    quiet = {"PRINT_CONFIG": False, "THRESHOLD": MATCH_THRESHOLD}
    return HOTA(), CLEAR(dict(quiet)), Identity(dict(quiet))


def _renumbered(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The different ids (n,), and the ids of each frame as indices into them, as TrackEval wants them."""
    names = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]))
    return names, [np.searchsorted(names, frame) for frame in ids]


def _box_similarity(a: FrameObjects, b: FrameObjects) -> np.ndarray:
    """IoU (M, N) of boxes."""
    one, other = a.boxes_xyxy.astype(float)[:, None], b.boxes_xyxy.astype(float)[None]
    side = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    common = np.maximum(side, 0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1) for boxes in (one, other)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def mask_similarity(a: FrameObjects, b: FrameObjects) -> np.ndarray:
    """IoU (M, N) of masks; an empty mask is like none.

    Raises ValueError where one side has objects without masks, or the pictures differ in size.
    """
    if len(a) == 0 or len(b) == 0:
        return np.zeros((len(a), len(b)))
    if a.masks is None or b.masks is None:
        raise ValueError("similarity 'mask' needs masks in every frame")
    if _size(a.masks) != _size(b.masks):
        raise ValueError(f"masks of different sizes: {_size(a.masks)} and {_size(b.masks)}")
    common = _common_pixels(a, b)
    areas = [_areas(side) for side in (a, b)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1)


def _common_pixels(a: FrameObjects, b: FrameObjects) -> np.ndarray:
    if _is_label_map(a.masks) and _is_label_map(b.masks):
        one, other = _known_labels(a), _known_labels(b)
        pairs = np.bincount(one * (len(b) + 1) + other, minlength=(len(a) + 1) * (len(b) + 1))
        return pairs.reshape(len(a) + 1, len(b) + 1)[1:, 1:].astype(float)
    one, other = (np.array([mask.ravel() for mask in _separate(side)], np.float32) for side in (a, b))
    return np.rint(one @ other.T).astype(float)


def _areas(side: FrameObjects) -> np.ndarray:
    if _is_label_map(side.masks):
        return np.bincount(_known_labels(side), minlength=len(side) + 1)[1:].astype(float)
    return np.array([np.count_nonzero(mask) for mask in _separate(side)], float)


def _known_labels(side: FrameObjects) -> np.ndarray:
    """The label map, flat, int64; a label of no object is taken as nobody's."""
    labels = np.asarray(side.masks).ravel().astype(np.int64)
    return np.where((labels > 0) & (labels <= len(side)), labels, 0)


def _separate(side: FrameObjects) -> Sequence[np.ndarray]:
    """N bool masks (H, W)."""
    assert side.masks is not None
    if _is_label_map(side.masks):
        return [np.equal(side.masks, i + 1) for i in range(len(side))]
    return list(side.masks)


def _size(masks: np.ndarray | Sequence[np.ndarray]) -> tuple[int, ...]:
    return np.shape(masks if _is_label_map(masks) else masks[0])


def _is_label_map(masks: object) -> TypeGuard[np.ndarray]:
    return isinstance(masks, np.ndarray) and masks.ndim == 2 and np.issubdtype(masks.dtype, np.integer)
