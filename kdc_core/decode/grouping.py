"""Candidates -> poses: a walk along the kinematic tree from the surest candidate on (SPEC section 5.2)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from kdc_core.decode.candidates import Candidates
from kdc_core.skeleton import DIRECTED_EDGES, NUM_EDGES, NUM_KEYPOINTS, OKS_SIGMAS

# Length of each tree edge over the square root of the person's area: 75th percentile over 2,000 people of
# people/train with ten keypoints or more (a bone that points at the camera looks shorter than it is).
_EDGE_LENGTHS = np.array(
    [0.09, 0.09, 0.43, 0.43, 0.15, 0.15, 0.79, 0.79, 0.59, 0.59, 0.58, 0.58, 0.45, 0.45, 0.37, 0.37],
    np.float32,
)
_DIRECTED_LENGTHS = np.concatenate([_EDGE_LENGTHS, _EDGE_LENGTHS])
# Edges within the face are too short to tell a person's size.
_TELLS_SIZE = _DIRECTED_LENGTHS > 0.2
_EDGES_FROM = tuple(
    tuple((e, b) for e, (a, b) in enumerate(DIRECTED_EDGES) if a == k) for k in range(NUM_KEYPOINTS)
)
_REVERSE = tuple((e + NUM_EDGES) % (2 * NUM_EDGES) for e in range(2 * NUM_EDGES))
_TWO_SIGMAS = 2 * OKS_SIGMAS


@dataclass(frozen=True)
class GroupingOptions:
    """How candidates become people.

    seed_threshold:      a candidate below this score starts no person.
    candidate_threshold: a candidate below this score is not looked at.
    tolerance:           a joint may lie this many OKS kappas (2 sigma * scale) from where its edge says.
    slack_px:            plus this many network pixels, for very small people.
    nms_oks:             of two poses more alike than this the lower one goes.
    """

    seed_threshold: float = 0.12
    candidate_threshold: float = 0.02
    tolerance: float = 2.0
    slack_px: float = 6.0
    nms_oks: float = 0.6


@dataclass(frozen=True, eq=False)
class Poses:
    """N poses in network pixels.

    keypoints_xy: float32 (N, K, 2);  keypoint_scores: float32 (N, K), 0 = not found;  scores: float32 (N,).
    """

    keypoints_xy: np.ndarray
    keypoint_scores: np.ndarray
    scores: np.ndarray


class _Table:
    """The candidates, and for every directed edge how far its ends miss each other, both ways, squared pixels."""

    def __init__(self, candidates: Candidates, options: GroupingOptions) -> None:
        points = candidates.points
        self.xy = points[..., :2]
        self.score = points[..., 2]
        self.free = self.score >= options.candidate_threshold
        self.far_xy = candidates.far_ends[..., :2]
        self.far_score = candidates.far_ends[..., 2]
        sources = [a for a, _ in DIRECTED_EDGES]
        targets = [b for _, b in DIRECTED_EDGES]
        # miss[e, i, j]: squared distance from candidate i's far end to candidate j of the edge's other type.
        difference = self.far_xy[:, :, None] - self.xy[targets][:, None]
        self.miss = np.einsum("eijc,eijc->eij", difference, difference)
        # Both directions agree: a's far end is near b and b's far end is near a.
        self.mutual = 0.5 * (self.miss + self.miss[list(_REVERSE)].transpose(0, 2, 1))
        length = np.linalg.norm(self.far_xy - self.xy[sources], axis=2)
        self.size = np.where(_TELLS_SIZE[:, None], length / _DIRECTED_LENGTHS[:, None], 0.0)


def group(candidates: Candidates, options: GroupingOptions | None = None) -> Poses:
    """Group candidates into people, best first."""
    options = options or GroupingOptions()
    table = _Table(candidates, options)
    seeds = np.argwhere(table.score >= options.seed_threshold)
    seeds = seeds[np.argsort(-table.score[seeds[:, 0], seeds[:, 1]], kind="stable")]
    poses: list[tuple[np.ndarray, np.ndarray]] = []
    scales: list[float] = []
    for kind, index in seeds:
        if not table.free[kind, index] or _belongs_to(table.xy[kind, index], kind, poses, scales, options):
            continue
        xy, score, scale = _walk(table, int(kind), int(index), options)
        poses.append((xy, score))
        scales.append(scale)
    return _rank(poses, scales, options)


def _walk(table: _Table, kind: int, index: int, options: GroupingOptions) -> tuple[np.ndarray, np.ndarray, float]:
    """Collect one person from a seed. Returns keypoints (K, 2), scores (K,) and scale in pixels."""
    xy = np.zeros((NUM_KEYPOINTS, 2), np.float32)
    score = np.zeros(NUM_KEYPOINTS, np.float32)
    reached = np.zeros(NUM_KEYPOINTS, bool)
    scale = 0.0
    # (minus the score, type, candidate index or -1 for a joint placed without one, x and y)
    queue: list[tuple[float, int, int, float, float]] = []

    def take(joint: int, candidate: int, place: np.ndarray, confidence: float) -> None:
        nonlocal scale
        xy[joint], score[joint], reached[joint] = place, confidence, True
        if candidate >= 0:
            table.free[joint, candidate] = False
            for e, _ in _EDGES_FROM[joint]:
                scale = max(scale, float(table.size[e, candidate]) if table.far_score[e, candidate] > 0.1 else 0.0)
        heapq.heappush(queue, (-confidence, joint, candidate, float(place[0]), float(place[1])))

    take(kind, index, table.xy[kind, index], float(table.score[kind, index]))
    while queue:
        _, a, candidate, x, y = heapq.heappop(queue)
        for edge, b in _EDGES_FROM[a]:
            if reached[b]:
                continue
            limit = (options.tolerance * _TWO_SIGMAS[b] * scale + options.slack_px) ** 2
            if candidate >= 0:
                cost = table.mutual[edge, candidate]
            else:
                back = table.far_xy[_REVERSE[edge]] - (x, y)
                cost = np.einsum("jc,jc->j", back, back)
            cost = np.where(table.free[b], cost, np.inf)
            best = int(cost.argmin())
            if cost[best] <= limit:
                take(b, best, table.xy[b, best], float(table.score[b, best]))
            elif candidate >= 0:
                take(b, -1, table.far_xy[edge, candidate], float(table.far_score[edge, candidate]))
            elif not reached[b]:
                xy[b] = x, y  # no evidence at all: score 0, the nearest known joint as the place
    return xy, score, max(scale, 4.0)


def _belongs_to(
    place: np.ndarray,
    kind: int,
    poses: list[tuple[np.ndarray, np.ndarray]],
    scales: list[float],
    options: GroupingOptions,
) -> bool:
    """Whether a person found before has this joint already, within half the walk's tolerance."""
    if not poses:
        return False
    places = np.array([xy[kind] for xy, _ in poses])
    known = np.array([score[kind] for _, score in poses]) > 0
    limit = 0.5 * options.tolerance * _TWO_SIGMAS[kind] * np.array(scales) + 0.5 * options.slack_px
    return bool((known & (((places - place) ** 2).sum(1) <= limit**2)).any())


def _rank(poses: list[tuple[np.ndarray, np.ndarray]], scales: list[float], options: GroupingOptions) -> Poses:
    """Drop poses that repeat a better one (OKS), and score the rest by the keypoints nobody better has claimed."""
    keypoints = np.array([xy for xy, _ in poses], np.float32).reshape(-1, NUM_KEYPOINTS, 2)
    confidences = np.array([score for _, score in poses], np.float32).reshape(-1, NUM_KEYPOINTS)
    order = np.argsort(-confidences.sum(1), kind="stable")
    kept: list[int] = []
    scores: list[float] = []
    for i in order:
        own = np.ones(NUM_KEYPOINTS, bool)
        repeats = False
        for j in kept:
            squared = ((keypoints[i] - keypoints[j]) ** 2).sum(1)
            similarity = np.exp(-squared / (2 * (_TWO_SIGMAS * max(scales[j], 1.0)) ** 2))
            weight = confidences[i]
            if (similarity * weight).sum() > options.nms_oks * max(float(weight.sum()), 1e-6):
                repeats = True
                break
            own &= similarity < 0.5
        if not repeats:
            kept.append(int(i))
            scores.append(float((confidences[i] * own).sum()) / NUM_KEYPOINTS)
    rank = np.argsort(-np.array(scores), kind="stable") if scores else np.zeros(0, np.intp)
    chosen = np.array(kept, np.intp)[rank]
    return Poses(keypoints[chosen], confidences[chosen], np.array(scores, np.float32)[rank])
