"""The decoder written down plainly: every step for every candidate, cell and person. The fast one must equal it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.decode.candidates import Candidates
from kdc_core.decode.grouping import GroupingOptions, Poses
from kdc_core.decode.masks import MaskFields, MaskOptions, dynamic_centroids, extend_over_border, keypoint_weights
from kdc_core.geometry import Letterbox
from kdc_core.skeleton import NUM_KEYPOINTS, OKS_SIGMAS

_BANK_SIGMA = 0.2123
_BACKGROUND = 0.05


def group(candidates: Candidates, options: GroupingOptions | None = None, least_score: float = 0.0) -> Poses:
    """Group candidates into people, best first."""
    options = options or GroupingOptions()
    seeds = [
        (float(candidates.people[k, m, k, 2]), k, m)
        for k in range(NUM_KEYPOINTS)
        for m in range(candidates.people.shape[1])
        if np.sqrt(np.square(candidates.people[k, m, :, 2]).mean()) >= least_score
    ]
    seeds = sorted((s for s in seeds if s[0] >= options.seed_threshold), key=lambda s: (-s[0], s[1], s[2]))
    chosen: list[np.ndarray] = []
    for _, kind, index in seeds:
        pose = candidates.people[kind, index]
        if not any(_near(other, pose, kind, options) for other in chosen):
            chosen.append(pose)
    chosen.sort(key=lambda pose: -float(np.square(pose[:, 2]).sum()))
    scores = []
    for i, pose in enumerate(chosen):
        own = [k for k in range(NUM_KEYPOINTS) if not any(_near(other, pose, k, options) for other in chosen[:i])]
        scores.append(float(np.sqrt(np.square(pose[own, 2]).sum() / NUM_KEYPOINTS)))
    rank = sorted(range(len(chosen)), key=lambda i: -scores[i])
    poses = np.array([chosen[i] for i in rank], np.float32).reshape(-1, NUM_KEYPOINTS, 3)
    return Poses(poses[..., :2], poses[..., 2], np.array([scores[i] for i in rank], np.float32))


def _near(better: np.ndarray, pose: np.ndarray, kind: int, options: GroupingOptions) -> bool:
    """Whether a pose's joint lies where the better pose has its own."""
    likely = better[better[:, 2] >= np.float32(0.1) * better[:, 2].max(), :2]
    width, height = likely.max(0) - likely.min(0)
    size = np.sqrt(max(width * height, np.float32(64.0)))
    reach = options.tolerance * 2 * OKS_SIGMAS[kind] * size + options.slack_px
    across, down = better[kind, :2] - pose[kind, :2]
    return bool(across * across + down * down <= reach**2)


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
