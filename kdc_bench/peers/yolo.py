"""What stands around the YOLO graphs: letterbox before, non-maximum suppression and mask assembly behind.

Written after the outputs' public description, with OpenCV's own suppression; nothing of Ultralytics' code is used. It
does less than theirs (no result objects, masks inside each person's box only), in the peers' favour.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.encode import GroundTruth
from kdc_core.geometry import Letterbox

CONFIDENCE, IOU = 0.25, 0.7  # Ultralytics' defaults for predicting
DUPLICATES = 10  # raw boxes above the confidence for each person, before suppression
_POSE_ROWS, _SEG_CLASSES, _COEFFICIENTS = 56, 80, 32
_STRIDES = (8, 16, 32)


@dataclass(frozen=True, eq=False)
class RawOutputs:
    """The graphs' answers: pose (1, 56, A), seg (1, 116, A), prototypes (1, 32, h, w); float32."""

    pose: np.ndarray
    seg: np.ndarray
    prototypes: np.ndarray


def preprocess(image: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> float32 (1, 3, H', W') in 0..1."""
    return cv2.dnn.blobFromImage(letterbox.apply(image), 1 / 255.0)


def decode_poses(pose: np.ndarray, letterbox: Letterbox) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) x, y, width, height and keypoints (N, 17, 3) in source pixels."""
    rows = _likely(pose, pose[0, 4])
    kept = _suppressed(rows[:, :4], rows[:, 4])
    keypoints = rows[kept, 5:].reshape(-1, 17, 3).copy()
    keypoints[..., :2] = letterbox.to_source(keypoints[..., :2])
    return _source_boxes(rows[kept, :4], letterbox), keypoints


def decode_masks(seg: np.ndarray, prototypes: np.ndarray, letterbox: Letterbox) -> list[np.ndarray]:
    """For each person a mask inside its box, bool (h, w) in source pixels."""
    classes = seg[0, 4 : 4 + _SEG_CLASSES]
    best = classes.max(0)
    # The person is class 0, and only the class that wins counts.
    rows = _likely(seg, np.where(classes[0] >= best, classes[0], 0.0))
    kept = _suppressed(rows[:, :4], rows[:, 4])
    coefficients = rows[kept, 4 + _SEG_CLASSES :]
    _, height, width = prototypes.shape[1:]
    logits = (coefficients @ prototypes[0].reshape(_COEFFICIENTS, -1)).reshape(-1, height, width)
    cell = letterbox.input_hw[0] / height
    masks = []
    for logit, box in zip(logits, rows[kept, :4]):
        left, top = np.floor(np.maximum((box[:2] - box[2:] / 2) / cell, 0)).astype(int)
        right, bottom = np.ceil((box[:2] + box[2:] / 2) / cell).astype(int)
        part = logit[top:bottom, left:right]
        if part.size == 0:
            continue
        size_wh = np.maximum(np.round(np.array(part.shape[::-1]) * cell / letterbox.scale_xy), 1).astype(int)
        masks.append(cv2.resize(part, size_wh.tolist(), interpolation=cv2.INTER_LINEAR) > 0)
    return masks


def _likely(output: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rows (A', C) of the anchors above the confidence."""
    return np.ascontiguousarray(output[0][:, np.flatnonzero(scores > CONFIDENCE)].T)


def _suppressed(boxes_cxcywh: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if len(scores) == 0:
        return np.zeros(0, np.intp)
    corners = boxes_cxcywh.copy()
    corners[:, :2] -= corners[:, 2:] / 2
    kept = cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), CONFIDENCE, IOU)
    return np.asarray(kept, np.intp).reshape(-1)


def _source_boxes(boxes_cxcywh: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    corner = letterbox.to_source(boxes_cxcywh[:, :2] - boxes_cxcywh[:, 2:] / 2)
    return np.concatenate([corner, boxes_cxcywh[:, 2:] / letterbox.scale_xy], axis=1)


def raw_outputs(truth: GroundTruth, seed: int = 0) -> RawOutputs:
    """What the two graphs would answer for these people: each seen by ten neighbouring anchors, the rest silent.

    The prototypes hold each person's mask in a channel (people share channels beyond 32).
    """
    rng = np.random.default_rng(seed)
    height, width = truth.instance.shape
    anchors = sum((height // s) * (width // s) for s in _STRIDES)
    pose = np.zeros((1, _POSE_ROWS, anchors), np.float32)
    seg = np.zeros((1, 4 + _SEG_CLASSES + _COEFFICIENTS, anchors), np.float32)
    pose[0, 4] = seg[0, 4] = rng.uniform(0, 0.05, anchors)
    grid_hw = (height // 4, width // 4)
    prototypes = np.full((1, _COEFFICIENTS, *grid_hw), -1.0, np.float32)
    cells = truth.instance[2::4, 2::4]
    places = rng.permutation(anchors)[: DUPLICATES * len(truth.keypoints_xy)].reshape(-1, DUPLICATES)
    for n, chosen in enumerate(places):
        rows, columns = np.nonzero(truth.instance == n + 1)
        low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
        box = np.concatenate([(low + high) / 2, high - low])[:, None]
        boxes = box + rng.normal(0.0, 0.02, (4, DUPLICATES)) * (high - low).max()
        scores = rng.uniform(0.3, 0.9, DUPLICATES)
        pose[0, :4, chosen], pose[0, 4, chosen] = boxes.T, scores
        joints = np.concatenate([truth.keypoints_xy[n], truth.labelled[n, :, None]], axis=1)
        pose[0, 5:, chosen] = joints.reshape(-1)
        seg[0, :4, chosen], seg[0, 4, chosen] = boxes.T, scores
        seg[0, 4 + _SEG_CLASSES + n % _COEFFICIENTS, chosen] = 1.0
        prototypes[0, n % _COEFFICIENTS][cells == n + 1] = 1.0
    return RawOutputs(pose, seg, prototypes)
