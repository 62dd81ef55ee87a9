"""One frame against its annotations: who was found and how well, who was missed, who is not there at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.optimize import linear_sum_assignment

from kdc_core.coco_scores import oks_matrix
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_replay.run_reader import RunFrame

FOUND_SIMILARITY = 0.5
# Whoever lies this much inside a crowd or an ignore region is neither right nor wrong.
_IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class PersonScore:
    """How one annotated person was found.

    truth_id:  the annotation's track_id, None without.
    person:    index of the person found there, None where there is nobody.
    oks:       None without labelled keypoints; mask_iou: None without a mask. Both 0 for a person missed.
    """

    truth_id: int | None
    person: int | None
    oks: float | None
    mask_iou: float | None


@dataclass(frozen=True)
class FrameScore:
    """One annotated frame: its annotated persons, and the indices of the people found where nobody is."""

    index: int
    persons: tuple[PersonScore, ...]
    false_people: tuple[int, ...]

    @property
    def missed(self) -> int:
        """How many annotated persons nobody was found for."""
        return sum(p.person is None for p in self.persons)

    @property
    def oks(self) -> float | None:
        """Mean over the persons with labelled keypoints, 0 for the missed ones; None without such persons."""
        return _mean([p.oks for p in self.persons])

    @property
    def mask_iou(self) -> float | None:
        """Mean over the persons with masks, 0 for the missed ones; None without such persons."""
        return _mean([p.mask_iou for p in self.persons])


def score_frame(frame: RunFrame, annotations: list[dict[str, Any]]) -> FrameScore:
    """Match a frame's people with its annotations (completed, see `complete_annotation`).

    One to one, by the larger of OKS and mask IoU (box IoU without a mask); a pair needs 0.5 of it. The total is
    the largest possible, so that the order of the people does not matter.
    """
    asked = [a for a in annotations if not a["iscrowd"]]
    oks = _oks(asked, frame)
    overlap = overlap_matrix(asked, frame)
    similarity = np.maximum(oks, overlap)
    # What cannot be a pair must not take part in the sum that is made as large as possible.
    rows, columns = linear_sum_assignment(
        np.where(similarity >= FOUND_SIMILARITY, similarity, 0.0), maximize=True
    )
    match = {r: c for r, c in zip(rows.tolist(), columns.tolist()) if similarity[r, c] >= FOUND_SIMILARITY}
    persons = []
    for i, annotation in enumerate(asked):
        person = match.get(i)
        persons.append(
            PersonScore(
                truth_id=annotation.get("track_id"),
                person=person,
                oks=_value(oks, i, person) if annotation["num_keypoints"] else None,
                mask_iou=_value(overlap, i, person) if annotation["has_mask"] else None,
            )
        )
    free = [i for i in range(len(frame)) if i not in match.values()]
    return FrameScore(frame.index, tuple(persons), tuple(not_ignored(frame, free, annotations)))


def _oks(annotations: list[dict[str, Any]], frame: RunFrame) -> np.ndarray:
    keypoints = np.array([a["keypoints"] for a in annotations], np.float64)
    areas = np.array([a["area"] for a in annotations], np.float64)
    return oks_matrix(keypoints.reshape(-1, NUM_KEYPOINTS, 3), areas, frame.keypoints[..., :2])


def overlap_matrix(annotations: list[dict[str, Any]], frame: RunFrame) -> np.ndarray:
    """IoU of M annotations with N people found, by their masks, by their boxes where either has none; (M, N)."""
    overlap = np.zeros((len(annotations), len(frame)))
    if not annotations or not len(frame):
        return overlap
    boxes = _boxes_xywh(frame)
    masked = [i for i, mask in enumerate(frame.masks) if mask is not None]
    found = [frame.masks[i] for i in masked]
    for i, annotation in enumerate(annotations):
        overlap[i] = coco_mask.iou(boxes, [annotation["bbox"]], [0])[:, 0]
        if annotation["has_mask"] and masked:
            truth = annotation_rle(annotation["segmentation"], frame.image_hw)
            overlap[i, masked] = coco_mask.iou(found, [truth], [0])[:, 0]
    return overlap


def _boxes_xywh(frame: RunFrame) -> list[list[float]]:
    """From pixel centres to the edges of the outermost pixels."""
    low, high = frame.boxes_xyxy[:, :2], frame.boxes_xyxy[:, 2:]
    boxes: list[list[float]] = np.column_stack([low, high - low + 1]).astype(np.float64).tolist()
    return boxes


def annotation_rle(segmentation: Any, image_hw: tuple[int, int]) -> dict[str, Any]:
    """A segmentation in any of COCO's forms -> compressed RLE."""
    coco = COCO()
    coco.imgs = {0: {"height": image_hw[0], "width": image_hw[1]}}
    rle: dict[str, Any] = coco.annToRLE({"image_id": 0, "segmentation": segmentation})
    return rle


def not_ignored(frame: RunFrame, people: list[int], annotations: list[dict[str, Any]]) -> list[int]:
    """Those people who do not lie in a crowd or an ignore region."""
    regions = [a["bbox"] for a in annotations if a["iscrowd"]]
    if not regions or not people:
        return people
    every_box = _boxes_xywh(frame)
    boxes = [every_box[i] for i in people]
    # With iscrowd, COCO's IoU is the share of the found box that lies in the region.
    inside = np.asarray(coco_mask.iou(boxes, regions, [1] * len(regions))).max(1)
    return [i for i, share in zip(people, inside.tolist()) if share < _IGNORED_SHARE]


def _value(matrix: np.ndarray, row: int, column: int | None) -> float:
    return 0.0 if column is None else float(matrix[row, column])


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
