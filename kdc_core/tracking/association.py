"""Which detection is which track: one similarity out of joints, overlap and motion, gates, and the assignment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from kdc_core.tracking.detections import Detections
from kdc_core.tracking.options import TrackerOptions
from kdc_core.tracking.similarity import (
    box_centres_xy,
    box_iou,
    mask_iou,
    match_joints,
)
from kdc_core.tracking.tracks import TrackTable

# Similarities are assigned by this power: one good pair is worth more than two middling ones.
WORTH_POWER = 2.0
FULL_JOINT_WEIGHT = 3.0  # shared joint confidence from which joints are fully believed
MIN_JOINT_WEIGHT = 1.0  # shared joint confidence below which boxes and masks decide what may be a pair
MIN_RIGID_WEIGHT = 0.5  # the same, weighted by rigidity, for measuring a shift
SAME_POSE_OKS = 0.85  # two detections this alike, by COCO's constants alone, are one person seen twice
SAME_BOX_IOU = 0.7  # the same, where there are no joints to compare
DOUBTFUL_POSE = 0.4  # `JointMatch.pose` that a doubtful detection needs ...
DOUBTFUL_OVERLAP = 0.3  # ... unless its mask or box overlaps this much
HALF_BODY = 2.0  # sizes; how far the centre of a box may be from where that of the whole body is
PLACE_SLACK = 0.1  # sizes; how sharply the agreement with the predicted place falls off (one sigma)


@dataclass(frozen=True)
class Pairs:
    """T tracks against N detections, (T, N): similarity in 0..1, and which pairs may be at all.

    allowed: by the gates. certain: by stricter ones, for detections that are not much to go by.
    """

    worth: np.ndarray
    allowed: np.ndarray
    certain: np.ndarray


def compare(table: TrackTable, detections: Detections, options: TrackerOptions) -> Pairs:
    """Similarity and gates of predicted tracks and the detections of a frame.

    similarity = (w_pose c P + w_overlap IoU + w_motion M) / (w_pose c + w_overlap + w_motion)
    P: the pose's OKS times the agreement on which joints are seen; c: how far the joints are to be believed, 0..1.
    M: closeness to the predicted place. In expectation over a place of variance p, E exp(-d^2 / 2v) is
    v / (v + p) * exp(-d^2 / 2(v + p)): a vague prediction is near everything but close to nothing, so a track that
    has been hidden for a while does not outbid the track that was seen a moment ago.

    A pair needs a share of the similarity that can be expected of a true one, which falls with v / (v + p): whoever
    was in full view a moment ago is rather missed in this frame than taken for the stranger half seen behind.
    """
    boxes, sizes, variance = table.boxes(), table.sizes_px(), table.place_variance()
    slack2 = (PLACE_SLACK * sizes) ** 2
    spread = slack2 + variance
    reach = options.max_mahalanobis * np.sqrt(spread)
    by_box = box_centres_xy(detections.boxes)[None] - box_centres_xy(boxes)[:, None]
    # The joints may be nearer than the boxes' centres, for a box may show half a body: hence the margin.
    t, n = np.nonzero((by_box**2).sum(2) <= (reach + HALF_BODY * sizes)[:, None] ** 2)
    pairs = Pairs(*(np.zeros(by_box.shape[:2], dtype) for dtype in (float, bool, bool)))
    if len(t) == 0:
        return pairs

    joints = match_joints(
        table.joints_xy()[t], table.joint_scores[t], sizes[t], variance[t],
        detections.xy[n], detections.joint_scores[n], options.joint_slack,
    )  # fmt: skip
    overlap = _overlap(table, boxes, detections, options)[t, n]
    shift = np.where((joints.rigid < MIN_RIGID_WEIGHT)[:, None], by_box[t, n], joints.shift_xy)
    distance2 = (shift**2).sum(1)
    certainty = (slack2 / spread)[t]
    place = certainty * np.exp(-0.5 * distance2 / spread[t])

    believed = options.pose_weight * np.minimum(joints.shared / FULL_JOINT_WEIGHT, 1.0)
    similarity = believed * joints.pose * joints.agreement
    similarity += options.overlap_weight * overlap + options.motion_weight * place
    similarity /= np.maximum(believed + options.overlap_weight + options.motion_weight, 1e-9)

    by_joints = joints.shared >= MIN_JOINT_WEIGHT
    enough = overlap >= options.min_overlap
    reachable = (distance2 <= reach[t] ** 2) & np.where(by_joints, joints.near >= options.min_oks, enough)
    alike = (joints.pose >= DOUBTFUL_POSE) | (overlap >= DOUBTFUL_OVERLAP)
    certain = np.where(by_joints, alike, enough)
    least = options.min_similarity * certainty
    pairs.worth[t, n] = similarity**WORTH_POWER
    pairs.allowed[t, n] = reachable & (similarity >= least)
    pairs.certain[t, n] = reachable & certain & (similarity >= options.min_similarity_doubtful * certainty)
    return pairs


def _overlap(
    table: TrackTable, boxes: np.ndarray, detections: Detections, options: TrackerOptions
) -> np.ndarray:
    """IoU (T, N) of the tracks' predicted boxes (T, 4) and the detections', mixed with their masks' where known."""
    overlap = box_iou(boxes, detections.boxes)
    if detections.labels is None or detections.grids is None or not table.has_mask.any():
        return overlap
    by_mask = mask_iou(table.grids, boxes, detections.labels, detections.grids, detections.boxes)
    share = options.mask_share * table.has_mask[:, None] * detections.grids.any(1)
    return overlap + share * (by_mask - overlap)


def assign(similarity: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The allowed pairs whose similarities add up to most: row indices (M,) and column indices (M,)."""
    if not allowed.any():
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    worth = np.where(allowed, similarity, 0.0)  # a refused pair is worth as much as none
    rows, columns = linear_sum_assignment(worth, maximize=True)
    good = allowed[rows, columns]
    return rows[good], columns[good]


def repeated_detections(detections: Detections) -> np.ndarray:
    """For each detection the index of a better-scored one of the same person, or -1: int (N,).

    Whoever decodes the network removes these; what slips through must not be given to a hidden track near by.
    """
    better = np.full(len(detections.scores), -1, np.intp)
    overlap = box_iou(detections.boxes, detections.boxes)
    i, j = np.nonzero(np.triu(overlap > 0.3, 1))
    if len(i) == 0:
        return better
    # The better-scored one of each pair first (the earlier one where they are equal), the best pairs first.
    swap = detections.scores[j] > detections.scores[i]
    i, j = np.where(swap, j, i), np.where(swap, i, j)
    found = match_joints(
        detections.xy[i], detections.joint_scores[i], detections.sizes[i], np.zeros(len(i)),
        detections.xy[j], detections.joint_scores[j], 0.0,
    )  # fmt: skip
    same = np.flatnonzero((found.near >= SAME_POSE_OKS) & (found.shared >= MIN_JOINT_WEIGHT))
    for pair in same[np.argsort(-detections.scores[i[same]], kind="stable")]:
        if better[i[pair]] < 0 and better[j[pair]] < 0:
            better[j[pair]] = i[pair]
    return better


def seen_twice(
    table: TrackTable, rows: np.ndarray, detections: Detections, persons: np.ndarray, options: TrackerOptions
) -> np.ndarray:
    """For each of the detections `persons` (M,): the row among `rows` of which it is a second sight, or -1.

    `rows` are tracks that another detection of this frame has updated already. Their joints include those that the
    other detection lacks, so that the torn-off legs of a person are recognised as hers.
    """
    twin = np.full(len(persons), -1, np.intp)
    if len(rows) == 0 or len(persons) == 0:
        return twin
    seen = table.take(rows)
    t, n = (index.ravel() for index in np.indices((len(rows), len(persons))))
    joints = match_joints(
        seen.joints_xy()[t], seen.joint_scores[t], seen.sizes_px()[t], np.zeros(len(t)),
        detections.xy[persons][n], detections.joint_scores[persons][n], options.joint_slack,
    )  # fmt: skip
    by_joints = (joints.shared >= MIN_JOINT_WEIGHT).reshape(len(rows), len(persons))
    near = joints.near.reshape(by_joints.shape)
    iou = box_iou(seen.boxes(), detections.boxes[persons])
    likeness = np.where(by_joints, near, iou)
    limit = np.where(by_joints, options.duplicate_oks, SAME_BOX_IOU)
    best = np.where(likeness >= limit, likeness, -1.0)
    row = best.argmax(0)
    return np.where(best.max(0) >= 0, rows[row], -1)


def reentry_pairs(
    table: TrackTable, rows: np.ndarray, detections: Detections, persons: np.ndarray, options: TrackerOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the missing tracks `rows` come back as which of the detections `persons`: two index arrays (M,).

    A missing person may have gone on as predicted, stopped, or turned round: she is looked for around the way from
    the last place seen to the place predicted now, within `reentry_radius` sizes.
    """
    if len(rows) == 0 or len(persons) == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    start = table.left_xy[rows]
    way = box_centres_xy(table.boxes()[rows]) - start
    to = box_centres_xy(detections.boxes[persons])[None] - start[:, None]
    along = np.einsum("tnd,td->tn", to, way) / np.maximum((way**2).sum(1), 1e-9)[:, None]
    off = to - np.clip(along, 0, 1)[..., None] * way[:, None]
    sizes = table.sizes_px()[rows]
    distance = np.linalg.norm(off, axis=2) / sizes[:, None]
    ratio = detections.sizes[persons][None] / sizes[:, None]
    limit = options.max_size_ratio
    allowed = (distance <= options.reentry_radius) & (ratio <= limit) & (ratio >= 1 / limit)
    found_rows, found_persons = assign(1 - distance / max(options.reentry_radius, 1e-9) + 1e-6, allowed)
    return rows[found_rows], persons[found_persons]
