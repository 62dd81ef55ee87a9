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
_SOURCES = np.array([a for a, _ in DIRECTED_EDGES])
_TARGETS = np.array([b for _, b in DIRECTED_EDGES])
_TARGET_OF: tuple[int, ...] = tuple(_TARGETS.tolist())
_KINDS, _EDGES = np.arange(NUM_KEYPOINTS)[:, None], np.arange(2 * NUM_EDGES)[:, None]
# Edges sorted by the keypoint they leave from, and where each keypoint's begin.
_BY_SOURCE = np.argsort(_SOURCES, kind="stable")
_FIRST_OF_SOURCE = np.searchsorted(_SOURCES[_BY_SOURCE], np.arange(NUM_KEYPOINTS))
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
        self._nearest_miss: list[list[float]] = self._mutual.min(2).tolist()
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
        best, other = self._nearest[edge][candidate], _TARGET_OF[edge]
        if self.is_free[other][best]:
            return best
        miss = self._mutual[edge, candidate] + self._taken[other]
        best = int(miss.argmin())
        return best if miss[best] <= limit else -1

    def pointing_at(self, edge: int, x: float, y: float, limit: float) -> int:
        """The free candidate at the edge's other end whose own far end is nearest to a place; -1 beyond `limit`."""
        back = _REVERSE[edge]
        across, down = self._far_x[back] - x, self._far_y[back] - y
        miss = across * across + down * down + self._taken[_TARGET_OF[edge]]
        best = int(miss.argmin())
        return best if miss[best] <= limit else -1


def _strongest(candidates: Candidates, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (K, m, 3) and far ends (E, m, 3) of the m strongest of each type; none of the threshold is left out."""
    score = candidates.points[..., 2]
    count = int((score >= threshold).sum(1).max(initial=0))
    chosen = np.argsort(-score, axis=1, kind="stable")[:, : max(count, 1)]
    return candidates.points[_KINDS, chosen], candidates.far_ends[_EDGES, chosen[_SOURCES]]


def group(candidates: Candidates, options: GroupingOptions | None = None) -> Poses:
    """Group candidates into people, best first."""
    options = options or GroupingOptions()
    table = _Table(candidates, options)
    seeds = np.argwhere(table.score >= options.seed_threshold)
    seeds = seeds[np.argsort(-table.score[seeds[:, 0], seeds[:, 1]], kind="stable")]
    found = _Found(options)
    for kind, index in seeds.tolist():
        if table.is_free[kind][index] and not found.explains(kind, *table.points[kind][index][:2]):
            found.add(*_walk(table, kind, index, options))
    return _rank(found, options)


class _Found:
    """The poses found so far: xy, a place for each keypoint in network pixels; scores; scales in pixels."""

    def __init__(self, options: GroupingOptions) -> None:
        self.xy: list[list[tuple[float, float]]] = []
        self.scores: list[list[float]] = []
        self.scales: list[float] = []
        # By keypoint type: x, y of the poses that have it, and how near to it counts as the same, squared.
        self._places: list[list[tuple[float, float, float]]] = [[] for _ in range(NUM_KEYPOINTS)]
        self._tolerance, self._slack_px = 0.5 * options.tolerance, 0.5 * options.slack_px

    def add(self, xy: list[tuple[float, float]], score: list[float], scale: float) -> None:
        """One more pose."""
        self.xy.append(xy)
        self.scores.append(score)
        self.scales.append(scale)
        for kind, (x, y) in enumerate(xy):
            if score[kind] > 0:
                near = (self._tolerance * _TWO_SIGMAS_OF[kind] * scale + self._slack_px) ** 2
                self._places[kind].append((x, y, near))

    def explains(self, kind: int, x: float, y: float) -> bool:
        """Whether a pose has this joint already, within half the walk's tolerance."""
        for known_x, known_y, near in self._places[kind]:
            across, down = known_x - x, known_y - y
            if across * across + down * down <= near:
                return True
        return False


def _walk(
    table: _Table, kind: int, index: int, options: GroupingOptions
) -> tuple[list[tuple[float, float]], list[float], float]:
    """Collect one person from a seed. Returns x and y of each keypoint, their scores, and the scale in pixels."""
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
    return xy, score, max(scale, 4.0)


def _rank(found: _Found, options: GroupingOptions) -> Poses:
    """Drop poses that repeat a better one (OKS), and score the rest by the keypoints nobody better has claimed."""
    keypoints = np.array(found.xy, np.float32).reshape(-1, NUM_KEYPOINTS, 2)
    confidences = np.array(found.scores, np.float32).reshape(-1, NUM_KEYPOINTS)
    sums = confidences.sum(1)
    order = np.argsort(-sums, kind="stable")
    keypoints, confidences, sums = keypoints[order], confidences[order], sums[order]
    similarity = _similarity(keypoints, np.maximum(np.array(found.scales, np.float32)[order], 1.0))
    shared = (similarity * confidences[:, None]).sum(2)
    place = np.arange(len(order))
    better = place[:, None] > place
    repeats = better & (shared > options.nms_oks * np.maximum(sums, 1e-6)[:, None])
    kept = np.ones(len(order), bool)
    for i in np.flatnonzero(repeats.any(1)):
        kept[i] = not (repeats[i] & kept).any()
    claimed = ((similarity >= 0.5) & (better & kept)[..., None]).any(1)
    scores = np.where(claimed, 0.0, confidences).sum(1) / NUM_KEYPOINTS
    chosen = np.flatnonzero(kept)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    return Poses(keypoints[chosen], confidences[chosen], scores[chosen].astype(np.float32))


def _similarity(keypoints: np.ndarray, size: np.ndarray) -> np.ndarray:
    """OKS of each keypoint of pose i with pose j's, by j's size, float32 (N, N, K)."""
    exponent = (keypoints[:, None, :, 0] - keypoints[None, :, :, 0]) ** 2
    exponent += (keypoints[:, None, :, 1] - keypoints[None, :, :, 1]) ** 2
    exponent *= (-0.5 / (size[:, None] * _TWO_SIGMAS) ** 2)[None]
    return np.exp(exponent, out=exponent)
