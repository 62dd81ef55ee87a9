"""The decoder written down plainly: every step for every candidate, cell and person. The fast one must equal it."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.decode.candidates import Candidates
from kdc_core.decode.grouping import EDGE_LENGTHS, GroupingOptions, Poses
from kdc_core.decode.masks import MaskFields, MaskOptions, dynamic_centroids, extend_over_border, keypoint_weights
from kdc_core.geometry import Letterbox
from kdc_core.skeleton import DIRECTED_EDGES, NUM_EDGES, NUM_KEYPOINTS, OKS_SIGMAS

_BANK_SIGMA = 0.2123
_BACKGROUND = 0.05
_DIRECTED_LENGTHS = np.concatenate([EDGE_LENGTHS, EDGE_LENGTHS])
_TELLS_SIZE = _DIRECTED_LENGTHS > 0.2
_EDGES_FROM = tuple(
    tuple((e, b) for e, (a, b) in enumerate(DIRECTED_EDGES) if a == k) for k in range(NUM_KEYPOINTS)
)
_REVERSE = tuple((e + NUM_EDGES) % (2 * NUM_EDGES) for e in range(2 * NUM_EDGES))
_TWO_SIGMAS = 2 * OKS_SIGMAS



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


@dataclass(frozen=True, eq=False)
class _Cells:
    """The P cells that may belong to somebody: row, col intp (P,); person float32 (P,); embedding (C/2, 2, P)."""

    row: np.ndarray
    col: np.ndarray
    person: np.ndarray
    embedding: np.ndarray

    @classmethod
    def active(cls, fields: MaskFields) -> _Cells:
        """Cells above the background, their embedding as absolute network pixels e(x) = x + v(x)."""
        row, col = np.nonzero(fields.person > _BACKGROUND)
        centre = (np.stack([col, row]).astype(np.float32) + 0.5) * fields.stride - 0.5
        offset = fields.embedding[:, row, col].reshape(len(fields.embedding) // 2, 2, len(row))
        return cls(row, col, fields.person[row, col], offset + centre)


def decode_masks(
    fields: MaskFields, poses: Poses, letterbox: Letterbox, options: MaskOptions | None = None
) -> np.ndarray:
    """Instance masks of N poses as a label map, uint16 (H, W) in source pixels; every pixel has one person at most.

    phi_j(x) = exp(-|e(x) - C_j|^2 / 2 sigma_j^2) with C_j and sigma_j the confidence-weighted means of embedding and
    sigma at the person's confident keypoints: the dynamic centroid. A pixel is person j's where phi_j is the largest,
    phi_j > 0.5 and it is a person at all.
    """
    options = options or MaskOptions()
    labels = np.zeros(letterbox.source_hw, np.uint16)
    cells = _Cells.active(fields)
    if len(poses.scores) == 0 or len(cells.row) == 0:
        return labels
    bank = len(cells.embedding) == NUM_KEYPOINTS
    phi = _bank_phi(fields, cells, poses, options) if bank else _embedding_phi(fields, cells, poses, options)
    soft = _compete(phi, _centred(cells.person, options.person_threshold))
    best = np.full(letterbox.source_hw, 0.5, np.float32)
    for n in range(len(poses.scores)):
        _paint(labels, best, cells, soft[n], n + 1, letterbox, fields.stride, options.smoothing_cells)
    return labels


def _embedding_phi(fields: MaskFields, cells: _Cells, poses: Poses, options: MaskOptions) -> np.ndarray:
    """phi_j at every active cell, float32 (N, P)."""
    centres, sigmas = dynamic_centroids(fields, poses, options.keypoint_confidence)
    embedding = cells.embedding[0]
    scale = (-0.5 / sigmas**2)[:, None]

    def phi_around(centre: np.ndarray) -> np.ndarray:
        squared = (embedding[0] - centre[:, :1]) ** 2 + (embedding[1] - centre[:, 1:]) ** 2
        return np.exp(squared * scale)

    phi = phi_around(centres)
    for _ in range(options.iterations):
        won = np.where((phi > 0.5) & (phi >= phi.max(0)), phi, 0.0) * cells.person
        mass = won.sum(1, keepdims=True)
        centres = np.where(mass >= 1.0, (won @ embedding.T) / np.maximum(mass, 1.0), centres)
        phi = phi_around(centres)
    return phi.astype(np.float32)


def _bank_phi(fields: MaskFields, cells: _Cells, poses: Poses, options: MaskOptions) -> np.ndarray:
    """DM_c-bank: phi of the weighted mean distance between where a cell says the keypoints are and where they are."""
    weights = keypoint_weights(poses, fields.person.shape, fields.stride, options.keypoint_confidence)
    phi = np.empty((len(weights), len(cells.row)), np.float32)
    for n, weight in enumerate(weights):
        used = np.nonzero(weight)[0]
        points = poses.keypoints_xy[n, poses.keypoint_scores[n] > 0]
        extent = np.ptp(points, axis=0) if len(points) else np.zeros(2)
        size = max(float(np.sqrt(extent[0] * extent[1])), 4.0 * fields.stride)
        miss = np.linalg.norm(cells.embedding[used] - poses.keypoints_xy[n, used][:, :, None], axis=1)
        phi[n] = np.exp(-0.5 * (weight[used] @ miss / (size * _BANK_SIGMA)) ** 2)
    return phi


def _compete(phi: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Soft masks (N, P): phi in a person's own territory, below one half where a rival is surer or nobody is."""
    rival = phi.max(0)
    own = np.where(phi >= rival, phi, np.minimum(phi, 0.5 * phi / np.maximum(rival, 1e-6)))
    return np.minimum(own, person)


def _centred(person: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities rescaled so that the threshold lies at one half."""
    if threshold == 0.5:
        return person
    below, above = 0.5 * person / threshold, 0.5 + 0.5 * (person - threshold) / (1 - threshold)
    return np.where(person < threshold, below, above).astype(np.float32)


def _paint(
    labels: np.ndarray,
    best: np.ndarray,
    cells: _Cells,
    soft: np.ndarray,
    label: int,
    letterbox: Letterbox,
    stride: int,
    smoothing_cells: float,
) -> None:
    """Enlarge one person's soft mask into the source picture; take the pixels where it is the largest, above 0.5."""
    # A mask in the grey beside a narrow picture is nobody's.
    rows, cols = (-(-side // stride) for side in letterbox.scaled_hw)
    inside = (soft > 0.5) & (cells.row < rows) & (cells.col < cols)
    if not inside.any():
        return
    margin = 2
    top, left = cells.row[inside].min() - margin, cells.col[inside].min() - margin
    bottom, right = cells.row[inside].max() + margin + 1, cells.col[inside].max() + margin + 1
    near = (cells.row >= top) & (cells.row < bottom) & (cells.col >= left) & (cells.col < right)
    patch = np.zeros((bottom - top, right - left), np.float32)
    patch[cells.row[near] - top, cells.col[near] - left] = soft[near]
    extend_over_border(patch, top, left, rows, cols)
    if smoothing_cells >= 0.3:
        patch = cv2.GaussianBlur(patch, (5, 5), smoothing_cells, borderType=cv2.BORDER_REPLICATE)
    # Source pixel x lies at (x + 0.5) f - 0.5 in cells, f cells for each source pixel.
    fx, fy = letterbox.scale_xy / stride
    height, width = labels.shape
    x0, x1 = (int(np.clip(round((edge + 0.5) / fx), 0, width)) for edge in (left, right))
    y0, y1 = (int(np.clip(round((edge + 0.5) / fy), 0, height)) for edge in (top, bottom))
    if x0 >= x1 or y0 >= y1:
        return
    to_cells = np.array([[fx, 0, (x0 + 0.5) * fx - 0.5 - left], [0, fy, (y0 + 0.5) * fy - 0.5 - top]])
    enlarged = cv2.warpAffine(
        patch,
        to_cells,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    window = np.s_[y0:y1, x0:x1]
    wins = enlarged > best[window]
    labels[window][wins] = label
    best[window][wins] = enlarged[wins]
