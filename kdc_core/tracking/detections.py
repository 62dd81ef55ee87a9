"""The people of one frame as the tracker computes with them: finite float64, with body sizes and mask samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc_core.appearance import SIZE
from kdc_core.skeleton import PERSON_AREA_SHARE
from kdc_core.tracking.similarity import mask_grids
from kdc_core.types import People

COORDINATE_LIMIT = 1e6  # px; whatever lies beyond is no place in an image


@dataclass(frozen=True)
class Detections:
    """N people, every value finite.

    xy: (N, K, 2) px, 0 where joint_scores (N, K) is 0. scores: (N,). boxes: (N, 4) px. sizes: (N,) px.
    labels: uint16 (H, W) or None; grids: bool (N, GRID_POINTS), the masks sampled in their boxes, or None.
    looks: (N, D) of length 1, the colours; rows of zeros where nothing is known of them.
    """

    xy: np.ndarray
    joint_scores: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray | None
    grids: np.ndarray | None
    looks: np.ndarray

    @classmethod
    def of(cls, people: People) -> Detections:
        """A joint at no finite place counts as missing; a missing one may hold anything. A box without finite
        corners becomes the rectangle of the joints, or a point at the origin: odd, but never a NaN further on."""
        xy = people.keypoints_xy.astype(np.float64)
        joint_scores = people.keypoint_scores.astype(np.float64)
        boxes = people.boxes_xyxy.astype(np.float64)
        known = _is_place(xy) & (joint_scores > 0)
        joint_scores = np.where(known, np.minimum(joint_scores, 1.0), 0.0)
        xy = np.where(known[..., None], xy, 0.0)
        for i in np.flatnonzero(~_is_place(boxes)):
            places = xy[i, known[i]]
            boxes[i] = (*places.min(0), *places.max(0)) if len(places) else 0.0
        np.maximum(boxes[:, 2:], boxes[:, :2], out=boxes[:, 2:])
        return cls(
            xy=xy,
            joint_scores=joint_scores,
            scores=np.clip(np.nan_to_num(people.scores.astype(np.float64)), 0, 1),
            boxes=boxes,
            sizes=body_sizes_px(boxes),
            labels=people.mask_labels,
            grids=None if people.mask_labels is None else mask_grids(people.mask_labels, boxes),
            looks=_looks(people),
        )


def _looks(people: People) -> np.ndarray:
    if people.appearance is None:
        return np.zeros((len(people), SIZE))
    looks = people.appearance.astype(np.float64)
    return looks / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1.0)


def _is_place(values: np.ndarray) -> np.ndarray:
    """Whether all coordinates along the last axis are finite and within COORDINATE_LIMIT (NaN compares false)."""
    return (np.abs(values) <= COORDINATE_LIMIT).all(-1)


def body_sizes_px(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Body sizes (N,) in pixels from boxes (N, 4): the square root of the person's area as OKS uses it, but not
    below a quarter of the longer side (a thin box is somebody half hidden or seen from the side), nor 2 px."""
    wh = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    by_area = np.sqrt(PERSON_AREA_SHARE * wh[:, 0] * wh[:, 1])
    return np.maximum(np.maximum(by_area, 0.25 * wh.max(1, initial=0)), 2.0)
