"""Fields -> keypoint candidates, each with the whole person it belongs to (SPEC section 5.1).

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
REFINEMENTS = 2  # gathers around a peak
LANDINGS = 3  # KeyCentroids followed at the far end of an edge, the last when all of the tree is walked
SMOOTHING_KERNEL = 5  # cells
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Candidates:
    """The M strongest candidates of each keypoint type, and the person around each (network pixels).

    people: float32 (K, M, K, 3): x, y, score in 0..1 of every keypoint of the person that candidate m of type k is part
            of, as the walk along the kinematic tree from that candidate finds it. people[k, m, k] is the candidate
            itself; its score is 0 in unused places.
    """

    people: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """The candidates alone, float32 (K, M, 3)."""
        kinds = np.arange(NUM_KEYPOINTS)
        return self.people[kinds, :, kinds]


@dataclass(frozen=True, eq=False)
class WalkStep:
    """One edge from the roots of all walks, in all the walks that are that far from their root; n nodes.

    parent: int (n,), place of the edge's near end in the step before;  edge: int (n,), the directed edge;
    joint:  int (n,), the far end's keypoint type.
    """

    parent: np.ndarray
    edge: np.ndarray
    joint: np.ndarray


def _walk_steps() -> tuple[tuple[WalkStep, ...], np.ndarray]:
    """The walks from every keypoint type through the whole tree, step by step, and how to sort what they find.

    Step 0 is the K roots themselves. The K * K nodes of all steps in sequence, taken in the returned order, are sorted
    by root, then by keypoint type.
    """
    steps: list[WalkStep] = []
    roots = joints = np.arange(NUM_KEYPOINTS)
    came_from = np.full(NUM_KEYPOINTS, -1)
    nodes = [roots * NUM_KEYPOINTS + joints]
    while True:
        onward = [
            (at, e, b)
            for at, joint in enumerate(joints)
            for e, (a, b) in enumerate(DIRECTED_EDGES)
            if a == joint and b != came_from[at]
        ]
        if not onward:
            return tuple(steps), np.argsort(np.concatenate(nodes))
        parent, edge, joint = np.array(onward).T
        steps.append(WalkStep(parent, edge, joint))
        roots, came_from, joints = roots[parent], joints[parent], joint
        nodes.append(roots * NUM_KEYPOINTS + joints)


WALK, WALK_ORDER = _walk_steps()


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
    fields: Fields, radius_px: float, count: int, sigmas: np.ndarray | None = None, landings: int = LANDINGS
) -> Candidates:
    """Peaks of the smoothed heatmaps, refined by KeyCentroid votes, and from each of them the walk along the tree.

    A disk's cells are all likely; the keypoint is where KeyCentroid says that no way is left to go. Peaks are
    therefore sought in heatmap * exp(-|k|^2 / (2 (R/2)^2)) (KDC section 3.2: heatmap and KeyCentroid together). A
    keypoint's score is the smoothed heatmap times the probability of a person there: both heads must agree.

    The walk follows the displacement at each joint to the next one, and there the KeyCentroids, a few times, to the
    middle of the next one's disk: wherever one person's fields are smooth it ends at that person's keypoint, from
    whichever cell it comes.
    """
    kernels = smoothing_kernels(smoothing_sigmas() if sigmas is None else sigmas)
    smooth = np.stack(
        [
            cv2.sepFilter2D(h * fields.person, cv2.CV_32F, k, k, borderType=cv2.BORDER_CONSTANT)
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
    used = np.take_along_axis(ranked, cells, 1) > 0
    displacement = fields.displacement.reshape(len(DIRECTED_EDGES), 2, -1)
    places = _walk(grid, xy, offset, displacement, landings)
    return Candidates(_people(grid, places, probability, used))


def _walk(grid: _Grid, xy: np.ndarray, offset: np.ndarray, displacement: np.ndarray, landings: int) -> np.ndarray:
    """From every candidate, xy (K, M, 2) in pixels, through the tree: (K, K, M, 2) by root, then keypoint type.

    In cells, as the graph does it: a cell's centre is a whole number.
    """
    places = [(xy + 0.5) / grid.stride - 0.5]
    for step in WALK:
        far = _land(grid, places[-1][step.parent], step.edge, displacement)
        for _ in range(landings - 1):
            far = _land(grid, far, step.joint, offset)
        places.append(far)
    # The last landing for all at once; a candidate's own place is refined already.
    far = _land(grid, np.concatenate(places[1:]), np.concatenate([step.joint for step in WALK]), offset)
    return np.concatenate([places[0], far])[WALK_ORDER].reshape(NUM_KEYPOINTS, NUM_KEYPOINTS, -1, 2)


def _people(grid: _Grid, found: np.ndarray, probability: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Places (K, K, M, 2) in cells with their scores: (K, M, K, 3) in pixels. Score 0 unless `used` (K, M)."""
    cell = grid.nearest(found)
    score = probability[np.arange(NUM_KEYPOINTS)[:, None], grid.index(cell)]
    score = score * np.all(np.abs(found - cell) <= 0.5, axis=-1) * used[:, None]
    people = np.concatenate([(found + 0.5) * grid.stride - 0.5, score[..., None]], axis=3)
    # (root, joint, candidate) -> (root, candidate, joint)
    return people.transpose(0, 2, 1, 3).astype(np.float32)


class _Grid:
    """Cells of a field by their flat index."""

    def __init__(self, height: int, width: int, stride: int) -> None:
        self.height, self.width, self.stride = height, width, stride

    def cell(self, xy: np.ndarray) -> np.ndarray:
        """Flat index of the cell that holds each point (the nearest one outside the field)."""
        return self.index(np.clip(np.floor((xy + 0.5) / self.stride), 0, (self.width - 1, self.height - 1)))

    def index(self, cell: np.ndarray) -> np.ndarray:
        """Flat index of cells given by whole column and row, (..., 2) -> int64 (...)."""
        return (cell[..., 1] * self.width + cell[..., 0]).astype(np.int64)

    def nearest(self, places: np.ndarray) -> np.ndarray:
        """Column and row of the cell nearest to each place given in cells (..., 2), as whole float32 numbers."""
        limit = np.array([self.width - 1, self.height - 1], np.float32)
        return np.minimum(np.maximum(np.rint(places), 0), limit)

    def centre(self, cell: np.ndarray) -> np.ndarray:
        """Centres of cells, (..., 2)."""
        xy = np.stack([cell % self.width, cell // self.width], axis=-1)
        return ((xy + 0.5) * self.stride - 0.5).astype(np.float32)


def _gather_xy(field: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """field (C, 2, h*w) at cells (C, M) -> (C, M, 2)."""
    return np.take_along_axis(field, cell[:, None, :], 2).transpose(0, 2, 1)


def _land(grid: _Grid, places: np.ndarray, channel: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Where the cells that hold n times M places (n, M, 2) send them, by one channel each (n,) of field (C, 2, h*w).

    Places are in cells, the field in network pixels.
    """
    cell = grid.nearest(places)
    return cell + field[channel[:, None], :, grid.index(cell)] / np.float32(grid.stride)


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
