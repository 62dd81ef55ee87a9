"""People whom only the mask fields show: seen from too far, too dark or too little of them for any keypoint.

What no pose explains still points somewhere: cells that are a person, and whose embeddings meet in one place, are
somebody.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# A picture full of cells that agree with nobody must not take long.
_MOST_SEEDS = 64
# Times a centre is moved to the mean of the cells that point at it.
_ITERATIONS = 2
_LN2 = float(np.log(2.0))
# phi is above 0.5 within so many sigmas.
_REACH = float(np.sqrt(2.0 * np.log(2.0)))
_MOST_SQUARES = 256  # along each axis


@dataclass(frozen=True, eq=False)
class Centroids:
    """M places that a person's cells point at: centres_xy float32 (M, 2), network pixels; scale float32 (M,), 1/px^2.

    A cell whose embedding is d px from a centre belongs to it with phi = exp(-scale d^2); scale = 1 / 2 sigma^2.
    """

    centres_xy: np.ndarray
    scale: np.ndarray

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, chosen: list[int]) -> Centroids:
        return Centroids(self.centres_xy[chosen], self.scale[chosen])

    def __add__(self, others: Centroids) -> Centroids:
        return Centroids(
            np.concatenate([self.centres_xy, others.centres_xy]), np.concatenate([self.scale, others.scale])
        )

    def phi(self, number: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """phi of one centre for embeddings at x and y, both (P,), float32."""
        across, down = x - self.centres_xy[number, 0], y - self.centres_xy[number, 1]
        return np.exp(-self.scale[number] * (across * across + down * down))


def find_mask_only(
    x: np.ndarray, y: np.ndarray, person: np.ndarray, sigma: np.ndarray, known: Centroids, least: int, apart: float
) -> tuple[Centroids, np.ndarray]:
    """Groups of cells that point at one place: their centroids, and each cell's group, intp (P,), or -1.

    The P cells are a person's, but nobody's whose pose is known: embeddings x, y and sigma in network pixels, float32
    (P,), and the probability of a person. The likeliest cell of those left is the next seed; mean embedding and mean
    log sigma of the cells that it shares a place with are their centroid. Fewer than `least` cells are nobody, nor are
    those whose centroid lies where `known` people's phi is above `apart`: parts of them that their mask leaves out.
    """
    group = np.full(len(x), -1, np.intp)
    log_sigma = np.log(np.maximum(sigma, 1e-3))
    centres: list[tuple[float, float]] = []
    scales: list[float] = []
    left = np.flatnonzero(_crowded(x, y, sigma, least))
    for _ in range(_MOST_SEEDS):
        if len(left) < least:
            break
        ex, ey, weight = x[left], y[left], person[left]
        seed = int(weight.argmax())
        cx, cy, scale = float(ex[seed]), float(ey[seed]), 0.5 * float(np.exp(-2.0 * log_sigma[left[seed]]))
        near = scale * ((ex - cx) ** 2 + (ey - cy) ** 2) < _LN2
        if 2 * np.count_nonzero(near) < least:  # no neighbourhood worth a second look
            left = left[~near]
            continue
        for _ in range(_ITERATIONS):
            total = float(weight[near].sum())
            cx, cy = float(weight[near] @ ex[near]) / total, float(weight[near] @ ey[near]) / total
            scale = 0.5 * float(np.exp(-2.0 * log_sigma[left[near]].mean()))
            near = scale * ((ex - cx) ** 2 + (ey - cy) ** 2) < _LN2
            near[seed] = True
        rival = np.exp(-known.scale * ((known.centres_xy - (cx, cy)) ** 2).sum(1)).max(initial=0.0)
        if np.count_nonzero(near) >= least and rival <= apart:
            group[left[near]] = len(centres)
            centres.append((cx, cy))
            scales.append(scale)
        left = left[~near]
    return Centroids(np.array(centres, np.float32).reshape(-1, 2), np.array(scales, np.float32)), group


def _crowded(x: np.ndarray, y: np.ndarray, sigma: np.ndarray, least: int) -> np.ndarray:
    """Which of P cells can be in a group of `least` at all, bool (P,): so many point into the squares around theirs.

    No group is wider than a square. The many loose cells at people's edges need not be tried one by one.
    """
    if len(x) < least:
        return np.zeros(len(x), bool)
    side = max(2.0 * _REACH * float(sigma.max()), 1e-3)
    column, row = (np.minimum((v - v.min()) / side, _MOST_SQUARES - 1).astype(np.intp) for v in (x, y))
    shape = (int(row.max()) + 1, int(column.max()) + 1)
    count = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float32)
    around = cv2.boxFilter(count, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(around[row, column] >= least)
