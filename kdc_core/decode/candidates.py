"""Fields -> keypoint candidates and the far ends of their edges (SPEC section 5.1).

This is the reference in numpy. The exported graph does the same arithmetic on the device
(`kdc_model.candidate_graph`), so that only these few kilobytes and the mask fields leave it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.fields import Fields
from kdc_core.skeleton import DIRECTED_EDGES, HIGH_VARIANCE_KEYPOINTS, NUM_KEYPOINTS

WINDOW = 3  # cells on a side of the window whose votes are averaged
REFINEMENTS = 2  # gathers around a peak, and at a far end
SMOOTHING_KERNEL = 5  # cells
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Candidates:
    """The M strongest candidates of each keypoint type (network pixels; unused places have score 0).

    points:   float32 (K, M, 3): x, y, score in 0..1.
    far_ends: float32 (E, M, 3): for directed edge (a, b) and candidate m of type a, where b should be: x, y, and the
              heatmap's score of b there.
    """

    points: np.ndarray
    far_ends: np.ndarray


def smoothing_sigmas(high_variance: float = 0.4, low_variance: float = 0.8) -> np.ndarray:
    """Sigma of the point-wise Gaussian (PGO, KDC Eq. 2) for each keypoint type in cells, float32 (K,)."""
    sigmas = np.full(NUM_KEYPOINTS, low_variance, np.float32)
    sigmas[list(HIGH_VARIANCE_KEYPOINTS)] = high_variance
    return sigmas


def smoothing_kernels(sigmas: np.ndarray) -> np.ndarray:
    """One-dimensional Gaussian kernels, float32 (K, SMOOTHING_KERNEL); below 0.3 cells the identity."""
    x = np.arange(SMOOTHING_KERNEL) - SMOOTHING_KERNEL // 2
    kernels = np.exp(-(x[None] ** 2) / (2 * np.maximum(sigmas, 0.1)[:, None] ** 2))
    kernels[sigmas < 0.3] = x == 0
    return (kernels / kernels.sum(1, keepdims=True)).astype(np.float32)


def find_candidates(
    fields: Fields, radius_px: float, count: int, sigmas: np.ndarray | None = None
) -> Candidates:
    """Peaks of the smoothed heatmaps, refined by KeyCentroid votes, with the far ends of their edges.

    A disk's cells are all likely; the keypoint is where KeyCentroid says that no way is left to go. Peaks are
    therefore sought in heatmap * exp(-|k|^2 / (2 (R/2)^2)) (KDC section 3.2: heatmap and KeyCentroid together).
    """
    kernels = smoothing_kernels(smoothing_sigmas() if sigmas is None else sigmas)
    smooth = np.stack(
        [
            cv2.sepFilter2D(h, cv2.CV_32F, k, k, borderType=cv2.BORDER_CONSTANT)
            for h, k in zip(fields.heatmap, kernels)
        ]
    )
    closeness = np.exp(-(fields.offset**2).sum(1) / (2 * (radius_px / 2) ** 2))
    strength = smooth * closeness
    peak = np.stack([cv2.dilate(s, np.ones((3, 3), np.uint8)) for s in strength]) == strength
    ranked = np.where(peak, strength, 0.0).reshape(NUM_KEYPOINTS, -1)
    count = min(count, ranked.shape[1])
    cells = np.argpartition(-ranked, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(ranked, cells, 1), axis=1, kind="stable")
    cells = np.take_along_axis(cells, order, 1)
    grid = _Grid(smooth.shape[1], smooth.shape[2], fields.stride)
    xy = grid.centre(cells)
    probability = smooth.reshape(NUM_KEYPOINTS, -1)
    offset = fields.offset.reshape(NUM_KEYPOINTS, 2, -1)
    for _ in range(REFINEMENTS):
        xy = _vote(grid, xy, probability, offset)
    score = np.take_along_axis(probability, cells, 1)
    score = np.where(np.take_along_axis(ranked, cells, 1) > 0, score, 0.0)
    points = np.concatenate([xy, score[..., None]], axis=2).astype(np.float32)
    sources = np.array([a for a, _ in DIRECTED_EDGES])
    targets = np.array([b for _, b in DIRECTED_EDGES])
    displacement = fields.displacement.reshape(len(DIRECTED_EDGES), 2, -1)
    far = _vote(grid, xy[sources], probability[sources], displacement)
    for _ in range(REFINEMENTS):
        cell = grid.cell(far)
        pull = np.take_along_axis(probability[targets], cell, 1)[..., None]
        goal = grid.centre(cell) + _gather_xy(offset[targets], cell)
        far = far + pull * (goal - far)
    far_score = np.take_along_axis(probability[targets], grid.cell(far), 1)
    far_score = far_score * grid.inside(far)
    far_ends = np.concatenate([far, far_score[..., None]], axis=2).astype(np.float32)
    return Candidates(points, far_ends)


class _Grid:
    """Cells of a field by their flat index."""

    def __init__(self, height: int, width: int, stride: int) -> None:
        self.height, self.width, self.stride = height, width, stride

    def cell(self, xy: np.ndarray) -> np.ndarray:
        """Flat index of the cell that holds each point (the nearest one outside the field)."""
        col = np.clip(np.floor((xy[..., 0] + 0.5) / self.stride), 0, self.width - 1)
        row = np.clip(np.floor((xy[..., 1] + 0.5) / self.stride), 0, self.height - 1)
        return (row * self.width + col).astype(np.int64)

    def centre(self, cell: np.ndarray) -> np.ndarray:
        """Centres of cells, (..., 2)."""
        xy = np.stack([cell % self.width, cell // self.width], axis=-1)
        return ((xy + 0.5) * self.stride - 0.5).astype(np.float32)

    def inside(self, xy: np.ndarray) -> np.ndarray:
        """Whether points lie on the field."""
        limit = np.array([self.width, self.height]) * self.stride - 0.5
        return np.all((xy >= -0.5) & (xy < limit), axis=-1)


def _gather_xy(field: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """field (C, 2, h*w) at cells (C, M) -> (C, M, 2)."""
    return np.take_along_axis(field, cell[:, None, :], 2).transpose(0, 2, 1)


def _vote(grid: _Grid, xy: np.ndarray, probability: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Where the cells around each point say the keypoint is: their votes' mean, weighted by probability."""
    total = np.zeros_like(xy)
    weight = np.full((*xy.shape[:2], 1), _TINY, np.float32)
    half = WINDOW // 2
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            cell = grid.cell(xy + np.array([dx, dy], np.float32) * grid.stride)
            p = np.take_along_axis(probability, cell, 1)[..., None]
            total += p * (grid.centre(cell) + _gather_xy(offset, cell) - xy)
            weight += p
    return xy + total / weight
