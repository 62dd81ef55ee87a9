"""What is known about a picture before anybody looks at it, and how an answer compares with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc_core.skeleton import OKS_SIGMAS
from kdc_core.types import People

# A person of whom less can be seen is neither counted when missed nor held against the answer when found.
LEAST_VISIBLE = 0.5
FOUND_IOU = 0.5
_IGNORED_OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class Truth:
    """The people of one picture as they really are.

    people:  their visible pixels, boxes around these, and joints; a joint's score is 1 where it can be seen,
             else 0.
    names:   who they are.
    visible: float (N,) in 0..1, the share of each person that can be seen: in the picture and not hidden.
    """

    people: People
    names: tuple[str, ...]
    visible: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.people) == len(self.names) == len(self.visible):
            raise ValueError("each person needs a name and a visible share")

    @property
    def counted(self) -> np.ndarray:
        """bool (N,): who can be seen well enough to be asked for."""
        return self.visible >= LEAST_VISIBLE


@dataclass(frozen=True)
class PersonMatch:
    """How well one counted person was found.

    box_iou, mask_iou:  overlap with the answer's person, 0 when there is none.
    oks:                COCO's object keypoint similarity over the visible joints; NaN without any.
    joint_errors_ratio: distance of each visible joint that the answer has, over the square root of the
                        person's area.
    index:              which of the answer's people it is; None when there is none.
    """

    name: str
    box_iou: float = 0.0
    mask_iou: float = 0.0
    oks: float = 0.0
    joint_errors_ratio: tuple[float, ...] = ()
    index: int | None = None

    @property
    def found(self) -> bool:
        """Whether box and mask are both where the person is."""
        return min(self.box_iou, self.mask_iou) >= FOUND_IOU


@dataclass(frozen=True)
class FrameMatch:
    """One answer against the truth: every counted person, and how many people were reported that are none."""

    persons: tuple[PersonMatch, ...]
    false_persons: int


def compare(truth: Truth, answer: People) -> FrameMatch:
    """Match an answer (with masks) to the truth, the best overlaps first, each person once."""
    masks, boxes = mask_ious(truth.people, answer), box_ious(truth.people.boxes_xyxy, answer.boxes_xyxy)
    partner = _assign(masks + boxes)
    persons = []
    for i in np.flatnonzero(truth.counted).tolist():
        j = partner.get(i)
        persons.append(
            PersonMatch(truth.names[i])
            if j is None
            else _match(truth, i, answer, j, float(boxes[i, j]), float(masks[i, j]))
        )
    taken = {j for i, j in partner.items() if max(masks[i, j], boxes[i, j]) >= FOUND_IOU}
    false = [j for j in range(len(answer)) if j not in taken and not _on_ignored(truth, answer, j)]
    return FrameMatch(tuple(persons), len(false))


def mask_ious(first: People, second: People) -> np.ndarray:
    """IoU (intersection over union) of all pairs of masks, float (N, M). Raises ValueError."""
    if first.mask_labels is None or second.mask_labels is None:
        raise ValueError("both sides need masks")
    if first.mask_labels.shape != second.mask_labels.shape:
        raise ValueError(f"masks of {second.mask_labels.shape} for an image of {first.mask_labels.shape}")
    n, m = len(first), len(second)
    pairs = first.mask_labels.astype(np.int64) * (m + 1) + second.mask_labels
    counts = np.bincount(pairs.ravel(), minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)
    union = counts.sum(1)[1:, None] + counts.sum(0)[None, 1:] - counts[1:, 1:]
    return counts[1:, 1:] / np.maximum(union, 1)


def box_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of all pairs of boxes, (N, 4) and (M, 4) as x_min, y_min, x_max, y_max -> float (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def _assign(overlap: np.ndarray) -> dict[int, int]:
    """Pairs (row -> column) by falling overlap, each once; none without overlap."""
    overlap = overlap.copy()
    pairs: dict[int, int] = {}
    while overlap.size and overlap.max() > 0:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs[int(i)] = int(j)
        overlap[i, :] = overlap[:, j] = 0
    return pairs


def _match(truth: Truth, i: int, answer: People, j: int, box_iou: float, mask_iou: float) -> PersonMatch:
    people = truth.people
    visible = people.keypoint_scores[i] > 0
    reported = visible & (answer.keypoint_scores[j] > 0)
    # COCO's area of a person is the mask's.
    area = max(float(people.mask(i).sum()), 1.0)
    distance = np.linalg.norm(people.keypoints_xy[i] - answer.keypoints_xy[j], axis=1)
    similarity = np.where(reported, np.exp(-(distance**2) / (2 * area * (2 * OKS_SIGMAS) ** 2)), 0.0)
    return PersonMatch(
        name=truth.names[i],
        box_iou=box_iou,
        mask_iou=mask_iou,
        oks=float(similarity[visible].mean()) if visible.any() else float("nan"),
        joint_errors_ratio=tuple((distance[reported] / np.sqrt(area)).tolist()),
        index=j,
    )


def _on_ignored(truth: Truth, answer: People, j: int) -> bool:
    """Whether a reported person lies mostly on somebody who is not counted."""
    mask = answer.mask(j)
    ignored = np.concatenate([[False], ~truth.counted])[truth.people.mask_labels[mask]]  # type: ignore[index]
    return bool(mask.any()) and float(ignored.mean()) >= _IGNORED_OVERLAP
