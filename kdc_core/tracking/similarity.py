"""How alike tracks and detections are: joints, boxes, masks. T tracks, N detections, K joints; matrices (T, N)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc_core.skeleton import OKS_SIGMAS
from kdc_core.tracking.motion import JOINT_RIGIDITY

GRID_WH = (12, 24)  # sample points of a mask inside its box
GRID_POINTS = GRID_WH[0] * GRID_WH[1]
# COCO's constants forgive what annotators disagree about; to tell two people apart half of that is enough.
POSE_SHARPNESS = 0.5
# How much a joint that one side knows and the other lacks counts against a pair.
MISSING_JOINT_COST = 0.5

_JOINT_VARIANCE = (2.0 * OKS_SIGMAS.astype(np.float64)) ** 2  # COCO: exp(-d^2 / (2 s^2 k^2)) with k = 2 sigma


@dataclass(frozen=True)
class JointMatch:
    """Joints of P pairs of a track and a detection; float64 (P,) but `shift_xy` (P, 2).

    near:      object keypoint similarity weighted by the joints' scores, wide enough for the track's vague place.
    pose:      the same after the common shift of all joints is taken out: is it this body, wherever it is?
    agreement: 1 where both sides know the same joints, less where one lacks what the other has: a person in full
               view does not lose half her joints from one frame to the next.
    shared:    shared confidence: sum over joints of the one's score times the other's.
    shift_xy:  px, from the track's joints to the detection's, mean weighted by scores and rigidity.
    rigid:     shared confidence weighted by rigidity: what stands behind `shift_xy`.
    """

    near: np.ndarray
    pose: np.ndarray
    agreement: np.ndarray
    shared: np.ndarray
    shift_xy: np.ndarray
    rigid: np.ndarray


def match_joints(
    track_xy: np.ndarray,
    track_scores: np.ndarray,
    sizes_px: np.ndarray,
    place_variance: np.ndarray,
    xy: np.ndarray,
    scores: np.ndarray,
    slack: float,
) -> JointMatch:
    """Compare joints (P, K, 2) of scores (P, K) with joints (P, K, 2) of scores (P, K), pair by pair.

    sizes_px (P,), of the tracks; place_variance (P,), px^2 along each axis; slack in sizes, added to COCO's
    constants because joints move about the body between two sightings.

    With w = score times score, d the distance, s the size and k COCO's constant of a joint, and p the variance:
    near = sum w exp(-d^2 / 2(s^2 (k^2 + slack^2) + p)) / sum w,
    pose = sum w exp(-|d - shift|^2 / 2 s^2 (k^2 / 4 + slack^2)) / sum w.
    The place's error is common to all joints, so it must not blur the pose.
    """
    area = sizes_px[:, None] ** 2
    way = xy - track_xy
    weight = track_scores * scores
    shared = weight.sum(1)
    total = np.maximum(shared, 1e-9)

    def similarity(way: np.ndarray, variance: np.ndarray) -> np.ndarray:
        closeness = np.exp(-0.5 * np.einsum("pkd,pkd->pk", way, way) / variance)
        return np.einsum("pk,pk->p", closeness, weight) / total

    rigid_weight = weight * JOINT_RIGIDITY
    rigid = rigid_weight.sum(1)
    shift = np.einsum("pk,pkd->pd", rigid_weight, way) / np.maximum(rigid, 1e-9)[:, None]
    unlike = np.abs(track_scores - scores).sum(1)
    return JointMatch(
        near=similarity(way, area * (_JOINT_VARIANCE + slack**2) + place_variance[:, None]),
        pose=similarity(way - shift[:, None], area * (_JOINT_VARIANCE * POSE_SHARPNESS**2 + slack**2)),
        agreement=total / (total + MISSING_JOINT_COST * unlike),
        shared=shared,
        shift_xy=shift,
        rigid=rigid,
    )


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (T, 4) and (N, 4), (T, N); 0 where both are empty."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    side = np.maximum(high - low, 0)
    common = side[..., 0] * side[..., 1]
    return common / np.maximum(box_areas(a)[:, None] + box_areas(b)[None] - common, 1e-9)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas (N,) of boxes (N, 4)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def box_centres_xy(boxes: np.ndarray) -> np.ndarray:
    """Centres (N, 2) of boxes (N, 4)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def grid_labels(labels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Labels of a map (H, W) at the GRID_WH points of each box (T, 4): int (T, GRID_POINTS), 0 beyond the map."""
    columns, rows = GRID_WH
    wh = boxes[:, 2:] - boxes[:, :2]
    # A pixel covers half a pixel to both sides of its integer centre, hence the rounding.
    x = np.rint(boxes[:, 0, None] + wh[:, 0, None] * ((np.arange(columns) + 0.5) / columns)).astype(np.intp)
    y = np.rint(boxes[:, 1, None] + wh[:, 1, None] * ((np.arange(rows) + 0.5) / rows)).astype(np.intp)
    height, width = labels.shape
    if height == 0 or width == 0:
        return np.zeros((len(boxes), GRID_POINTS), np.intp)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    found = labels[np.clip(y, 0, height - 1)[:, :, None], np.clip(x, 0, width - 1)[:, None, :]]
    return np.where(inside, found, 0).astype(np.intp).reshape(len(boxes), GRID_POINTS)


def mask_grids(labels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Masks of the N people of a label map, sampled in their boxes (N, 4): bool (N, GRID_POINTS)."""
    return grid_labels(labels, boxes) == np.arange(1, len(boxes) + 1)[:, None]


def mask_iou(
    track_grids: np.ndarray, track_boxes: np.ndarray, labels: np.ndarray, grids: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """Mask IoU (T, N) of tracks' masks carried along in their predicted boxes and the masks of a label map.

    track_grids bool (T, points) in track_boxes (T, 4); grids bool (N, points) in boxes (N, 4), from `mask_grids`.
    Only sample points are looked at, so that the cost does not depend on the image's size.
    """
    count = len(boxes)
    points = track_grids.shape[1]
    hit = np.where(track_grids, grid_labels(labels, track_boxes), 0)
    hit = np.where(hit <= count, hit, 0) + np.arange(len(track_boxes))[:, None] * (count + 1)
    counted = np.bincount(hit.ravel(), minlength=len(track_boxes) * (count + 1))
    track_cell, cell = box_areas(track_boxes) / points, box_areas(boxes) / points
    common = counted.reshape(len(track_boxes), count + 1)[:, 1:] * track_cell[:, None]
    union = (track_grids.sum(1) * track_cell)[:, None] + (grids.sum(1) * cell)[None] - common
    return np.clip(common / np.maximum(union, 1e-9), 0, 1)
