"""Whether two runtimes, or two precisions, see the same people: the accuracy gate of export and of engines.

Compared are decoded people, since that is what users get: a runtime may differ in a thousand field values and in
nobody's pose, or in one peak and lose a person.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from kdc_core.backends.base import Backend
from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_core.skeleton import OKS_SIGMAS
from kdc_core.types import FrameResult, People

Predict = Callable[[np.ndarray], FrameResult]

# Below this score a keypoint is a guess, and a guess may jump.
KEYPOINT_SCORE = 0.1
# Two people are the same if either their poses or their masks agree this much.
SAME_OKS = 0.5
SAME_IOU = 0.5
# People whose score lies this near to the threshold may come and go.
SCORE_MARGIN = 0.03


@dataclass(frozen=True)
class ParityLimits:
    """What still counts as the same.

    oks, iou:  least mean over the people found by both, 0..1.
    missed, extra: largest share of the reference's people, 0..1.
    ap_drop:   how much keypoint AP or mask AP may fall, 0..1 (where annotations are given).
    """

    oks: float = 0.99
    iou: float = 0.99
    missed: float = 0.01
    extra: float = 0.01
    ap_drop: float = 0.01

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not 0.0 <= getattr(self, field.name) <= 1.0:
                raise ValueError(f"the limit {field.name} must be within 0..1, got {getattr(self, field.name)}")


# What each precision is held to: rounding may move nobody, 8 bits may blur a doubtful joint.
LIMITS: dict[str, ParityLimits] = {
    "fp32": ParityLimits(),
    "fp16": ParityLimits(oks=0.98, iou=0.97, missed=0.02, extra=0.02),
    "int8": ParityLimits(oks=0.85, iou=0.85, missed=0.10, extra=0.10),
}


@dataclass(frozen=True)
class Parity:
    """How one side's people differ from the reference's.

    images: compared.  people: the reference's, without those too near the threshold to count.
    oks, iou: means over the people found by both (nan without any).  missed, extra: people of one side alone.
    ap: differences of "keypoints.AP" and "segm.AP" (other minus reference), where annotations were given.
    """

    images: int
    people: int
    oks: float
    iou: float
    missed: int
    extra: int
    ap: dict[str, float] = dataclasses.field(default_factory=dict)

    def failures(self, limits: ParityLimits) -> list[str]:
        """Which limits are broken, in words; nobody to compare is a failure too."""
        if self.people == 0:
            return ["nobody was found in the pictures: there is nothing to compare; give pictures of people"]
        found = []
        for name in ("oks", "iou"):
            value, limit = getattr(self, name), getattr(limits, name)
            if not value >= limit and self.missed < self.people:
                found.append(f"mean {name.upper()} {value:.4f} is below {limit:g}")
        for name in ("missed", "extra"):
            count, limit = getattr(self, name), getattr(limits, name)
            if count > limit * self.people:
                found.append(f"{count} people {name} of {self.people}, {100 * limit:g} % may be")
        for name, change in self.ap.items():
            if change < -limits.ap_drop:
                found.append(f"{name} falls by {-change:.4f}, {limits.ap_drop:g} may be lost")
        return found

    def record(self, limits: ParityLimits, **context: Any) -> dict[str, Any]:
        """The measurement with its limits and verdict, for JSON."""
        failures = self.failures(limits)
        numbers = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in dataclasses.asdict(self).items()}
        limit = dataclasses.asdict(limits)
        return {"passed": not failures, "failures": failures, **context, **numbers, "limits": limit}


class ParityCount:
    """Adds up comparisons of images."""

    def __init__(self, person_threshold: float = PipelineOptions.person_threshold) -> None:
        self._sure = person_threshold + SCORE_MARGIN
        self._images = self._people = self._missed = self._extra = 0
        self._oks: list[float] = []
        self._iou: list[float] = []

    def add(self, reference: People, other: People) -> None:
        """Compare one image's people; both sides with a threshold SCORE_MARGIN below the one in question."""
        oks, iou = pose_similarity(reference, other), mask_iou(reference, other)
        alike = np.maximum(oks, iou)
        rows, columns = linear_sum_assignment(-alike)
        pairs = [(i, j) for i, j in zip(rows, columns) if oks[i, j] >= SAME_OKS or iou[i, j] >= SAME_IOU]
        sure = reference.scores >= self._sure
        self._images += 1
        self._people += int(sure.sum())
        self._missed += int(sure.sum()) - sum(bool(sure[i]) for i, _ in pairs)
        matched = np.zeros(len(other), bool)
        matched[[j for _, j in pairs]] = True
        self._extra += int(((other.scores >= self._sure) & ~matched).sum())
        for i, j in pairs:
            if sure[i]:
                self._oks.append(float(oks[i, j]))
                if reference.mask(i).any() or other.mask(j).any():
                    self._iou.append(float(iou[i, j]))

    def result(self, ap: dict[str, float] | None = None) -> Parity:
        """The sum of all images."""
        oks = float(np.mean(self._oks)) if self._oks else float("nan")
        # No masks on either side is agreement.
        iou = float(np.mean(self._iou)) if self._iou else (1.0 if self._oks else float("nan"))
        return Parity(self._images, self._people, oks, iou, self._missed, self._extra, ap or {})


def pose_similarity(reference: People, other: People) -> np.ndarray:
    """OKS of every pair, float64 (N, M), over the reference's keypoints that are more than a guess.

    The scale is the reference's box. 0 where the reference has no such keypoint.
    """
    if not len(reference) or not len(other):
        return np.zeros((len(reference), len(other)))
    sides = np.maximum(reference.boxes_xyxy[:, 2:] - reference.boxes_xyxy[:, :2], 1.0).astype(np.float64)
    kappa2 = (2.0 * OKS_SIGMAS.astype(np.float64)) ** 2
    distance2 = np.square(reference.keypoints_xy[:, None].astype(np.float64) - other.keypoints_xy[None]).sum(-1)
    similar = np.exp(-distance2 / (2.0 * sides.prod(1)[:, None, None] * kappa2))
    # A keypoint that the other side has not found is no keypoint there.
    similar = np.where(other.keypoint_scores[None] > 0, similar, 0.0)
    counted = reference.keypoint_scores >= KEYPOINT_SCORE
    return np.einsum("nmk,nk->nm", similar, counted) / np.maximum(counted.sum(1), 1)[:, None]


def mask_iou(reference: People, other: People) -> np.ndarray:
    """Intersection over union of the masks of every pair, float64 (N, M); 0 where both are empty.

    Raises ValueError without masks, or for images of different size.
    """
    if reference.mask_labels is None or other.mask_labels is None:
        raise ValueError("people are compared with their masks: ask the pipeline for them")
    if reference.mask_labels.shape != other.mask_labels.shape:
        raise ValueError("the two sides saw images of different size")
    n, m = len(reference), len(other)
    code = reference.mask_labels.ravel().astype(np.int64) * (m + 1) + other.mask_labels.ravel()
    counts = np.bincount(code, minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)
    together = counts[1:, 1:].astype(np.float64)
    union = counts[1:].sum(1)[:, None] + counts[:, 1:].sum(0)[None] - together
    return together / np.maximum(union, 1.0)


def comparable_pipeline(backend: Backend, long_side: int | None = None) -> Pipeline:
    """A pipeline whose results `ParityCount` takes: with masks, and people down to SCORE_MARGIN below the threshold.

    People without a pose are left out: there is no OKS of them.
    """
    options = PipelineOptions(person_threshold=PipelineOptions.person_threshold - SCORE_MARGIN, mask_only=False)
    return Pipeline(backend, options, long_side)


def compare(reference: Predict, other: Predict, images: Iterable[np.ndarray]) -> Parity:
    """Run both sides (see `comparable_pipeline`) on images, uint8 RGB (H, W, 3), and compare their people."""
    count = ParityCount()
    for image in images:
        count.add(reference(image).people, other(image).people)
    return count.result()
