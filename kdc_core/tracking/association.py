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
from kdc_core.tracking.types import TrackState

FULL_JOINT_WEIGHT = 3.0  # shared joint confidence from which joints are fully believed
MIN_JOINT_WEIGHT = 1.0  # shared joint confidence below which boxes and masks decide what is a second sight
MIN_RIGID_WEIGHT = 0.5  # the same, weighted by rigidity, for measuring a shift
SAME_POSE_OKS = 0.85  # two detections this alike, by COCO's constants alone, are one person seen twice
SAME_BOX_IOU = 0.7  # the same, where there are no joints to compare
HALF_BODY = 2.0  # sizes; how far the centre of a box may be from where that of the whole body is
PLACE_SLACK = 0.06  # sizes; how far a person is from an exact prediction (one sigma)
# Where the evidence of each kind is even between "this person" and "another one near by": between two frames, and for
# somebody not seen for long, whose limbs have moved on and whose predicted box is vague. FADE_S leads from the one to
# the other.
EVEN_POSE = (0.40, 0.27)
EVEN_OVERLAP = (0.50, 0.15)
EVEN_SURPRISE = 1.0
EVEN_LOOKS = 0.945
LOOKS_WIDTH = 0.05  # of the colours' cosine, from even to the most that colours can say
LOOKS_REACH = 2.0  # times the usual reach where the colours say all they can
FADE_S = 0.15
SHARPNESS_POWER = 0.2  # of the area in which a person may be; 0 = a vague prediction bids like an exact one
TENTATIVE_COST = 1.0  # evidence; a track that may be nobody does not outbid one that is somebody
CONTEST = -3.0  # evidence; pairs above this compete in the assignment, though they may be refused after it


@dataclass(frozen=True)
class Pairs:
    """T tracks against N detections.

    evidence:  (T, N), log-odds that they are the same person; -inf = out of reach.
    sharpness: (T,), 1 for an exact prediction, falling with the area in which the person may be. Of two tracks for
               which the evidence of a detection is alike, the one with the sharper prediction has more to say.
    """

    evidence: np.ndarray
    sharpness: np.ndarray


def compare(table: TrackTable, detections: Detections, now_s: float, options: TrackerOptions) -> Pairs:
    """Evidence that predicted tracks and the detections of a frame are the same people.

    evidence = g_pose c (P - P_even) + g_overlap (IoU - IoU_even) + g_motion (1 - log(1 + d^2 / 2v)) + g_looks A
    P: OKS of the pose alone, times the agreement on which joints are seen; c: how far joints are to be believed, 0..1.
    d: distance to the predicted place, v: its variance. The third term is a Student-t likelihood: people turn and
    stop, so a Gaussian would punish large distances far too hard. A: likeness of the colours, -1..1, 0 where unknown.
    """
    boxes, sizes = table.boxes(), table.sizes_px()
    slack2 = (PLACE_SLACK * sizes) ** 2
    spread = slack2 + table.place_variance()
    sharpness = (slack2 / spread) ** SHARPNESS_POWER
    reach = options.max_mahalanobis * np.sqrt(spread)
    by_box = box_centres_xy(detections.boxes)[None] - box_centres_xy(boxes)[:, None]
    evidence = np.full(by_box.shape[:2], -np.inf)
    # The joints may be nearer than the boxes' centres, for a box may show half a body: hence the margin.
    t, n = np.nonzero((by_box**2).sum(2) <= (reach + HALF_BODY * sizes)[:, None] ** 2)
    if len(t) == 0:
        return Pairs(evidence, sharpness)

    joints = match_joints(
        table.joints_xy()[t], table.joint_scores[t], sizes[t], np.zeros(len(t)),
        detections.xy[n], detections.joint_scores[n], options.joint_slack,
    )  # fmt: skip
    overlap = _overlap(table, boxes, detections, options)[t, n]
    shift = np.where((joints.rigid < MIN_RIGID_WEIGHT)[:, None], by_box[t, n], joints.shift_xy)
    distance2 = (shift**2).sum(1)
    fresh = np.exp(-(now_s - table.seen_s) / FADE_S)[t]
    believed = np.minimum(joints.shared / FULL_JOINT_WEIGHT, 1.0)
    ratio = detections.sizes[n] / sizes[t]
    looks = looks_alike(table.looks[t], detections.looks[n], options)
    # Joints borrowed from somebody in front throw a track off its way: the same colours are looked for further off.
    trusted = reach[t] * (1 + (LOOKS_REACH - 1) * np.maximum(looks, 0))
    possible = (distance2 <= trusted**2) & (ratio <= options.max_size_ratio)

    pose = believed * (joints.pose * joints.agreement - _even(EVEN_POSE, fresh))
    same = options.pose_gain * pose
    same += options.overlap_gain * (overlap - _even(EVEN_OVERLAP, fresh))
    same += options.motion_gain * (EVEN_SURPRISE - np.log1p(0.5 * distance2 / spread[t]))
    same += options.appearance_gain * looks
    same -= TENTATIVE_COST * (table.states == TrackState.TENTATIVE)[t]
    evidence[t, n] = np.where(possible, same, -np.inf)
    return Pairs(evidence, sharpness)


def _even(between: tuple[float, float], fresh: np.ndarray) -> np.ndarray:
    return between[1] + (between[0] - between[1]) * fresh


def looks_alike(a: np.ndarray, b: np.ndarray, options: TrackerOptions) -> np.ndarray:
    """How much the colours (P, D) and (P, D) speak for the same person, -1..1; 0 where those of one are unknown, or
    nobody asks for them."""
    if options.appearance_gain == 0:
        return np.zeros(len(a))
    known = a.any(1) & b.any(1)
    return np.where(known, np.clip((np.einsum("pd,pd->p", a, b) - EVEN_LOOKS) / LOOKS_WIDTH, -1, 1), 0.0)


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


def assign(
    evidence: np.ndarray, least: float, sharpness: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs whose evidences add up to most, of those the ones of at least `least`: row and column indices (M,).

    sharpness (T,) scales a row's bids, and the benefit of the doubt that a negative `least` gives. Whatever is refused
    for its own evidence has competed all the same: a detection that belongs to a person who cannot be believed in yet
    is not given to the second best.
    """
    scale = np.ones((len(evidence), 1)) if sharpness is None else sharpness[:, None]
    worth = np.where(evidence > CONTEST, evidence - CONTEST, 0.0) * scale
    if not worth.any():
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    enough = evidence >= (least * scale if least < 0 else least)
    good = enough[rows, columns] & (worth[rows, columns] > 0)
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
    # Of equally good ones the earlier one: it may itself repeat somebody, which must be known before it is repeated.
    for pair in same[np.lexsort((i[same], -detections.scores[i[same]]))]:
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
    t, n = (index.ravel() for index in np.indices((len(rows), len(persons))))
    joints = match_joints(
        table.joints_xy(rows)[t], table.joint_scores[rows][t], table.sizes_px(rows)[t], np.zeros(len(t)),
        detections.xy[persons][n], detections.joint_scores[persons][n], options.joint_slack,
    )  # fmt: skip
    by_joints = (joints.shared >= MIN_JOINT_WEIGHT).reshape(len(rows), len(persons))
    near = joints.near.reshape(by_joints.shape)
    iou = box_iou(table.boxes(rows), detections.boxes[persons])
    likeness = np.where(by_joints, near, iou)
    limit = np.where(by_joints, options.duplicate_oks, SAME_BOX_IOU)
    best = np.where(likeness >= limit, likeness, -1.0)
    row = best.argmax(0)
    return np.where(best.max(0) >= 0, rows[row], -1)


def reentry_pairs(
    table: TrackTable,
    rows: np.ndarray,
    detections: Detections,
    persons: np.ndarray,
    now_s: float,
    options: TrackerOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the missing tracks `rows` come back as which of the detections `persons`: two index arrays (M,).

    A missing person may have gone on as predicted, stopped, or turned round: she is looked for around the way from
    the last place seen to the place predicted now, within `reentry_radius` sizes, and no further off than somebody
    of `initial_velocity` gets in the time. So whoever is overlooked in one frame is not taken for somebody else.
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
    allowed = (ratio <= limit) & (ratio >= 1 / limit)
    t, n = (index.ravel() for index in np.indices(allowed.shape))
    looks = looks_alike(table.looks[rows][t], detections.looks[persons][n], options).reshape(allowed.shape)
    allowed &= looks > -1  # somebody in other clothes does not come back as her
    far = np.minimum(options.reentry_radius, options.initial_velocity * (now_s - table.seen_s[rows]))
    worth = 1 - distance / np.maximum(far, 1e-9)[:, None]
    # Of several who may have come back, whoever was on her way here and looks like it; this refuses nobody.
    ahead = np.linalg.norm(to - way[:, None], axis=2) / sizes[:, None]
    worth = np.where(worth >= 0, 2 + worth + 1 / (1 + ahead) + looks, -np.inf)
    found_rows, found_persons = assign(np.where(allowed, worth, -np.inf), 0.0)
    return rows[found_rows], persons[found_persons]
