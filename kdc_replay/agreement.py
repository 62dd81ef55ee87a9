"""Two answers about the same frame: who is in both, and how far apart they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from kdc_core.coco_scores import oks_matrix
from kdc_replay.run_reader import RunFrame

_SAME_SIMILARITY = 0.5


@dataclass(frozen=True)
class Pair:
    """A person in both answers, by the indices there.

    oks:         of the second's pose, the first's taken as truth; 0 without keypoints. keypoint_px: largest distance
                 of a joint that both have, None without such. mask_iou: None where either has no mask.
    similarity:  the OKS; where neither has any keypoint the IoU of the masks, of the boxes without masks.
    """

    first: int
    second: int
    oks: float
    keypoint_px: float | None
    mask_iou: float | None
    similarity: float


@dataclass(frozen=True)
class Agreement:
    """The people of both answers, and those of only one, by index."""

    pairs: tuple[Pair, ...]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]

    @property
    def keypoint_px(self) -> float | None:
        """Largest over all pairs."""
        return max((p.keypoint_px for p in self.pairs if p.keypoint_px is not None), default=None)

    @property
    def mask_iou(self) -> float | None:
        """Lowest of all pairs."""
        return min((p.mask_iou for p in self.pairs if p.mask_iou is not None), default=None)

    @property
    def similarity(self) -> float:
        """Mean over everybody in either answer, 0 for who is in one only; 1 where nobody is in either."""
        count = len(self.pairs) + len(self.only_first) + len(self.only_second)
        return sum(p.similarity for p in self.pairs) / count if count else 1.0


def agree(first: RunFrame, second: RunFrame) -> Agreement:
    """Compare two answers; people are the same where OKS or the IoU of the boxes is at least 0.5."""
    low, high = first.boxes_xyxy[:, :2], first.boxes_xyxy[:, 2:]
    areas = (high - low + 1).prod(1).astype(np.float64)
    oks = oks_matrix(first.keypoints.astype(np.float64), areas, second.keypoints[..., :2])
    box_iou = _box_iou(first.boxes_xyxy, second.boxes_xyxy)
    similarity = np.maximum(oks, box_iou)
    possible = np.where(similarity >= _SAME_SIMILARITY, similarity, 0.0)
    rows, columns = linear_sum_assignment(possible, maximize=True)
    pairs = tuple(
        _pair(first, i, second, j, float(oks[i, j]), float(box_iou[i, j]))
        for i, j in zip(rows.tolist(), columns.tolist())
        if possible[i, j] > 0
    )
    of_first, of_second = ({getattr(p, side) for p in pairs} for side in ("first", "second"))
    return Agreement(
        pairs,
        tuple(i for i in range(len(first)) if i not in of_first),
        tuple(j for j in range(len(second)) if j not in of_second),
    )


def _pair(first: RunFrame, i: int, second: RunFrame, j: int, oks: float, box_iou: float) -> Pair:
    mask_iou = _mask_iou(first, i, second, j)
    similarity = oks
    if not (first.keypoints[i, :, 2] > 0).any() and not (second.keypoints[j, :, 2] > 0).any():
        similarity = box_iou if mask_iou is None else mask_iou
    return Pair(i, j, oks, _keypoint_px(first, i, second, j), mask_iou, similarity)


def renaming(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The one-to-one renaming of first ids into second ones that fits most pairs of ids (0 = none is left out)."""
    known = np.array([pair for pair in pairs if min(pair) > 0], np.int64).reshape(-1, 2)
    names = [np.unique(known[:, side]) for side in (0, 1)]
    together = np.zeros((len(names[0]), len(names[1])))
    np.add.at(together, tuple(np.searchsorted(names[side], known[:, side]) for side in (0, 1)), 1)
    rows, columns = linear_sum_assignment(together, maximize=True)
    return {int(names[0][r]): int(names[1][c]) for r, c in zip(rows, columns) if together[r, c] > 0}


def _box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    side = np.minimum(one[:, None, 2:], other[None, :, 2:]) - np.maximum(one[:, None, :2], other[None, :, :2]) + 1
    common = np.maximum(side, 0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (one, other)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def _keypoint_px(first: RunFrame, i: int, second: RunFrame, j: int) -> float | None:
    one, other = first.keypoints[i], second.keypoints[j]
    both = (one[:, 2] > 0) & (other[:, 2] > 0)
    if not both.any():
        return None
    return float(np.linalg.norm(one[both, :2] - other[both, :2], axis=1).max())


def _mask_iou(first: RunFrame, i: int, second: RunFrame, j: int) -> float | None:
    one, other = first.masks[i], second.masks[j]
    if one is None or other is None:
        return None
    if coco_mask.area(one) == 0 and coco_mask.area(other) == 0:
        return 1.0
    return float(coco_mask.iou([one], [other], [0])[0, 0])
