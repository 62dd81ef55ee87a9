"""Mask fields + poses -> instance masks (SPEC section 5.4; KDC Eq. 6-8)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.decode.grouping import Poses
from kdc_core.geometry import Letterbox
from kdc_core.skeleton import NUM_KEYPOINTS

# The bank form has no sigma of its own: 0.2123 of the person's size gives PosePlusSeg's cut at phi = 0.5.
_BANK_SIGMA = 0.2123
# Cells less likely than this cannot matter, not even through interpolation at a mask's edge.
_BACKGROUND = 0.05


@dataclass(frozen=True)
class MaskOptions:
    """How cells become masks.

    person_threshold:    least probability of a person.
    keypoint_confidence: keypoints below this score do not help to place the centroid (unless all are below).
    iterations:          times the centroid is moved to the mean of the cells it has won.
    smoothing_cells:     sigma of the instance-wise Gaussian (IGO, KDC Eq. 8) in cells; below 0.3 none.
    """

    person_threshold: float = 0.4
    keypoint_confidence: float = 0.1
    iterations: int = 1
    smoothing_cells: float = 0.5


@dataclass(frozen=True, eq=False)
class MaskFields:
    """SegNet's outputs, float32: person (h, w) probability, embedding (C, h, w) and sigma (h, w) in network pixels."""

    person: np.ndarray
    embedding: np.ndarray
    sigma: np.ndarray
    stride: int


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


def keypoint_weights(poses: Poses, shape_hw: tuple[int, int], stride: int, confidence: float) -> np.ndarray:
    """Weight of each keypoint in its person's centroid, float32 (N, K), rows of sum 1.

    Keypoints outside the field, and those below the confidence where there are better ones, weigh nothing.
    """
    limit = np.array([shape_hw[1], shape_hw[0]]) * stride - 0.5
    inside = ((poses.keypoints_xy >= -0.5) & (poses.keypoints_xy < limit)).all(2)
    scores = poses.keypoint_scores * inside
    confident = np.where(scores >= confidence, scores, 0.0)
    weights = np.where(confident.any(1, keepdims=True), confident, scores)
    # A person without any keypoint in view gets equal weights rather than a division by zero.
    weights = np.where(weights.any(1, keepdims=True), weights, 1.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def dynamic_centroids(fields: MaskFields, poses: Poses, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """C_j (N, 2) and sigma_j (N,) in network pixels from the embeddings at the poses' keypoints (2-channel forms)."""
    shape_hw = fields.person.shape
    weights = keypoint_weights(poses, shape_hw, fields.stride, confidence)
    cell = np.floor((poses.keypoints_xy + 0.5) / fields.stride).astype(np.intp)
    col = np.clip(cell[..., 0], 0, shape_hw[1] - 1)
    row = np.clip(cell[..., 1], 0, shape_hw[0] - 1)
    centre = (np.stack([col, row], axis=-1) + 0.5) * fields.stride - 0.5
    embedding = fields.embedding[:, row, col].transpose(1, 2, 0) + centre
    sigma = np.exp((np.log(np.maximum(fields.sigma[row, col], 1e-3)) * weights).sum(1))
    return np.einsum("nkc,nk->nc", embedding, weights).astype(np.float32), sigma.astype(np.float32)


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
    # The picture's part of the network's input, in cells: a mask in the grey beside a narrow picture is nobody's.
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
    _extend_over_border(patch, top, left, rows, cols)
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


def _extend_over_border(patch: np.ndarray, top: int, left: int, height: int, width: int) -> None:
    """Repeat the picture's outermost cells beyond its border, so that smoothing does not eat people cut off by it."""
    if top < 0:
        patch[:-top] = patch[-top]
    if left < 0:
        patch[:, :-left] = patch[:, -left : 1 - left]
    if (beyond := top + patch.shape[0] - height) > 0:
        patch[-beyond:] = patch[-beyond - 1]
    if (beyond := left + patch.shape[1] - width) > 0:
        patch[:, -beyond:] = patch[:, -beyond - 1 : -beyond]
