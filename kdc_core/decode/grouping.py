"""Candidates -> poses: a walk along the kinematic tree from the surest candidate on (SPEC section 5.2)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from kdc_core.decode.candidates import Candidates
from kdc_core.skeleton import DIRECTED_EDGES, NUM_EDGES, NUM_KEYPOINTS, OKS_SIGMAS

# Length of each tree edge over the square root of the person's area: 75th percentile over 2,000 people of
# people/train with ten keypoints or more (a bone that points at the camera looks shorter than it is).
EDGE_LENGTHS = np.array(
    [0.09, 0.09, 0.43, 0.43, 0.15, 0.15, 0.79, 0.79, 0.59, 0.59, 0.58, 0.58, 0.45, 0.45, 0.37, 0.37],
    np.float32,
)
_DIRECTED_LENGTHS = np.concatenate([EDGE_LENGTHS, EDGE_LENGTHS])
# Edges within the face are too short to tell a person's size.
_TELLS_SIZE = _DIRECTED_LENGTHS > 0.2
_EDGES_FROM = tuple(
    tuple((e, b) for e, (a, b) in enumerate(DIRECTED_EDGES) if a == k) for k in range(NUM_KEYPOINTS)
)
_REVERSE = tuple((e + NUM_EDGES) % (2 * NUM_EDGES) for e in range(2 * NUM_EDGES))
_SOURCES = [a for a, _ in DIRECTED_EDGES]
_TARGETS = [b for _, b in DIRECTED_EDGES]
# Edges sorted by the keypoint they leave from, and where each keypoint's begin.
_BY_SOURCE = [e for edges in _EDGES_FROM for e, _ in edges]
_FIRST_OF_SOURCE = [_BY_SOURCE.index(edges[0][0]) for edges in _EDGES_FROM]
_TWO_SIGMAS = 2 * OKS_SIGMAS
_TWO_SIGMAS_OF: tuple[float, ...] = tuple(_TWO_SIGMAS.tolist())


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
    """The candidates, and for every directed edge how far its ends miss each other, both ways.

    What the walk asks again and again is kept as Python lists: a single number out of a numpy array costs ten times
    as much.
    """

    def __init__(self, candidates: Candidates, options: GroupingOptions) -> None:
        points, self._far_ends = _strongest(candidates, options.candidate_threshold)
        self.x, self.y = points[..., 0].copy(), points[..., 1].copy()
        self.score = points[..., 2].copy()
        self._far_x, self._far_y = self._far_ends[..., 0].copy(), self._far_ends[..., 1].copy()
        # Infinite once somebody has the candidate, or where it is too weak to look at.
        self._taken = np.where(self.score >= options.candidate_threshold, np.float32(0), np.float32(np.inf))
        # miss[e, i, j]: squared distance in pixels from candidate i's far end to candidate j of the edge's other type.
        miss = (self._far_x[:, :, None] - self.x[_TARGETS][:, None]) ** 2
        miss += (self._far_y[:, :, None] - self.y[_TARGETS][:, None]) ** 2
        # Both directions agree: a's far end is near b and b's far end is near a.
        self._mutual = np.empty_like(miss)
        forth, back = self._mutual[:NUM_EDGES], self._mutual[NUM_EDGES:]
        np.add(miss[:NUM_EDGES], miss[NUM_EDGES:].transpose(0, 2, 1), out=forth)
        forth *= 0.5
        back[:] = forth.transpose(0, 2, 1)
        self._mutual += self._taken[_TARGETS][:, None]
        nearest = self._mutual.argmin(2)
        self._nearest: list[list[int]] = nearest.tolist()
        self._nearest_miss: list[list[float]] = np.take_along_axis(self._mutual, nearest[..., None], 2)[..., 0].tolist()
        self.is_free: list[list[bool]] = (self._taken == 0).tolist()
        self.points: list[list[list[float]]] = points.tolist()
        self._size: list[list[float]] = self._sizes().tolist()

    def _sizes(self) -> np.ndarray:
        """A person's size in pixels by each candidate's longest likely bone, (K, M); 0 where none tells it."""
        length = np.hypot(self._far_x - self.x[_SOURCES], self._far_y - self.y[_SOURCES])
        length /= _DIRECTED_LENGTHS[:, None]
        length[(self._far_ends[..., 2] <= 0.1) | ~_TELLS_SIZE[:, None]] = 0.0
        return np.maximum.reduceat(length[_BY_SOURCE], _FIRST_OF_SOURCE, axis=0)

    def claim(self, kind: int, candidate: int) -> float:
        """Take a candidate out of the game. Returns the person's size by its longest likely bone in pixels, or 0."""
        self.is_free[kind][candidate] = False
        self._taken[kind, candidate] = np.inf
        return self._size[kind][candidate]

    def far_end(self, edge: int, candidate: int) -> list[float]:
        """Where the edge's other end should be, and the heatmap's score there: x, y, score."""
        far_end: list[float] = self._far_ends[edge, candidate].tolist()
        return far_end

    def partner(self, edge: int, candidate: int, limit: float) -> int:
        """The free candidate at the edge's other end that agrees best, within `limit` (squared); -1 without any."""
        if self._nearest_miss[edge][candidate] > limit:
            return -1
        best, other = self._nearest[edge][candidate], _TARGETS[edge]
        if self.is_free[other][best]:
            return best
        miss = self._mutual[edge, candidate] + self._taken[other]
        best = int(miss.argmin())
        return best if miss[best] <= limit else -1

    def pointing_at(self, edge: int, x: float, y: float, limit: float) -> int:
        """The free candidate at the edge's other end whose own far end is nearest to a place; -1 beyond `limit`."""
        back = _REVERSE[edge]
        across, down = self._far_x[back] - x, self._far_y[back] - y
        miss = across * across + down * down + self._taken[_TARGETS[edge]]
        best = int(miss.argmin())
        return best if miss[best] <= limit else -1


def _strongest(candidates: Candidates, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (K, m, 3) and far ends (E, m, 3) of the m strongest of each type; none of the threshold is left out."""
    score = candidates.points[..., 2]
    count = int((score >= threshold).sum(1).max(initial=0))
    chosen = np.argsort(-score, axis=1, kind="stable")[:, : max(count, 1), None]
    points = np.take_along_axis(candidates.points, chosen, 1)
    return points, np.take_along_axis(candidates.far_ends, chosen[_SOURCES], 1)


def group(candidates: Candidates, options: GroupingOptions | None = None) -> Poses:
    """Group candidates into people, best first."""
    options = options or GroupingOptions()
    table = _Table(candidates, options)
    seeds = np.argwhere(table.score >= options.seed_threshold)
    seeds = seeds[np.argsort(-table.score[seeds[:, 0], seeds[:, 1]], kind="stable")]
    found = _Found(len(seeds), options)
    for kind, index in seeds.tolist():
        if table.is_free[kind][index] and not found.explains(kind, table.points[kind][index]):
            found.add(*_walk(table, kind, index, options))
    return _rank(found.xy, found.confidence, found.scales, options)


class _Found:
    """The poses found so far: xy (N, K, 2) network pixels, confidence (N, K), scales (N,)."""

    def __init__(self, capacity: int, options: GroupingOptions) -> None:
        self._xy = np.zeros((2, NUM_KEYPOINTS, capacity), np.float32)
        self._score = np.zeros((NUM_KEYPOINTS, capacity), np.float32)
        self._scale = np.zeros(capacity, np.float32)
        # How near to a pose's keypoint a candidate counts as explained, squared; negative for a keypoint not found.
        self._reach = np.zeros((NUM_KEYPOINTS, capacity), np.float32)
        self._tolerance = 0.5 * options.tolerance * _TWO_SIGMAS
        self._slack_px = 0.5 * options.slack_px
        self._count = 0

    def add(self, xy: np.ndarray, score: np.ndarray, scale: float) -> None:
        """One more pose: keypoints (K, 2), scores (K,) and scale in pixels."""
        n = self._count
        self._xy[:, :, n], self._score[:, n], self._scale[n] = xy.T, score, scale
        self._reach[:, n] = np.where(score > 0, (self._tolerance * scale + self._slack_px) ** 2, -1.0)
        self._count += 1

    def explains(self, kind: int, place: list[float]) -> bool:
        """Whether a pose has this joint already, within half the walk's tolerance."""
        across = self._xy[0, kind, : self._count] - place[0]
        down = self._xy[1, kind, : self._count] - place[1]
        return bool((across * across + down * down <= self._reach[kind, : self._count]).any())

    @property
    def xy(self) -> np.ndarray:
        return self._xy[:, :, : self._count].transpose(2, 1, 0)

    @property
    def confidence(self) -> np.ndarray:
        return np.ascontiguousarray(self._score[:, : self._count].T)

    @property
    def scales(self) -> np.ndarray:
        return self._scale[: self._count]


def _walk(table: _Table, kind: int, index: int, options: GroupingOptions) -> tuple[np.ndarray, np.ndarray, float]:
    """Collect one person from a seed. Returns keypoints (K, 2), scores (K,) and scale in pixels."""
    xy = [(0.0, 0.0)] * NUM_KEYPOINTS
    score = [0.0] * NUM_KEYPOINTS
    reached = [False] * NUM_KEYPOINTS
    tolerance, slack = options.tolerance, options.slack_px
    # (minus the score, type, candidate index or -1 for a joint placed without one, x and y)
    queue: list[tuple[float, int, int, float, float]] = []

    def take(joint: int, candidate: int, x: float, y: float, confidence: float) -> None:
        xy[joint], score[joint], reached[joint] = (x, y), confidence, True
        heapq.heappush(queue, (-confidence, joint, candidate, x, y))

    take(kind, index, *table.points[kind][index])
    scale = table.claim(kind, index)
    while queue:
        _, a, candidate, x, y = heapq.heappop(queue)
        for edge, b in _EDGES_FROM[a]:
            if reached[b]:
                continue
            limit = (tolerance * _TWO_SIGMAS_OF[b] * scale + slack) ** 2
            if candidate >= 0:
                best = table.partner(edge, candidate, limit)
            else:
                best = table.pointing_at(edge, x, y, limit)
            if best >= 0:
                take(b, best, *table.points[b][best])
                scale = max(scale, table.claim(b, best))
            elif candidate >= 0:
                take(b, -1, *table.far_end(edge, candidate))
            else:
                xy[b] = x, y  # no evidence at all: score 0, the nearest known joint as the place
    return np.array(xy, np.float32), np.array(score, np.float32), max(scale, 4.0)


def _rank(keypoints: np.ndarray, confidences: np.ndarray, scales: np.ndarray, options: GroupingOptions) -> Poses:
    """Drop poses that repeat a better one (OKS), and score the rest by the keypoints nobody better has claimed."""
    order = np.argsort(-confidences.sum(1), kind="stable")
    keypoints, confidences = keypoints[order], confidences[order]
    size = np.maximum(scales[order], 1.0)
    similarity = _similarity(keypoints, size)
    shared = np.einsum("ijk,ik->ij", similarity, confidences)
    repeats = np.tril(shared > options.nms_oks * np.maximum(confidences.sum(1), 1e-6)[:, None], -1)
    kept = np.ones(len(order), bool)
    for i in np.flatnonzero(repeats.any(1)):
        kept[i] = not (repeats[i] & kept).any()
    better = np.tril(np.ones_like(repeats), -1) & kept
    own = ~((similarity >= 0.5) & better[..., None]).any(1)
    scores = (confidences * own).sum(1) / NUM_KEYPOINTS
    chosen = np.flatnonzero(kept)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    return Poses(keypoints[chosen], confidences[chosen], scores[chosen].astype(np.float32))


def _similarity(keypoints: np.ndarray, size: np.ndarray) -> np.ndarray:
    """OKS of each keypoint of pose i with pose j's, by j's size, float32 (N, N, K)."""
    exponent = (keypoints[:, None, :, 0] - keypoints[None, :, :, 0]) ** 2
    exponent += (keypoints[:, None, :, 1] - keypoints[None, :, :, 1]) ** 2
    exponent *= (-0.5 / (size[:, None] * _TWO_SIGMAS) ** 2)[None]
    return np.exp(exponent, out=exponent)
