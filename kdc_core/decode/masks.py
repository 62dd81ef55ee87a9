"""Mask fields + poses -> instance masks (SPEC section 5.4; KDC Eq. 6-8)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.decode.grouping import Poses
from kdc_core.geometry import Letterbox, cell_centres_xy
from kdc_core.skeleton import NUM_KEYPOINTS

# The bank form has no sigma of its own: 0.2123 of the person's size gives PosePlusSeg's cut at phi = 0.5.
_BANK_SIGMA = 0.2123


@dataclass(frozen=True)
class MaskOptions:
    """How cells become masks.

    person_threshold:    least probability of a person.
    keypoint_confidence: keypoints below this score do not help to place the centroid (unless all are below).
    iterations:          times the centroid is moved to the mean of the cells it has won.
    smoothing_cells:     sigma of the instance-wise Gaussian (IGO, KDC Eq. 8); below 0.3 none.
    reach:               a person's cells are sought this far beyond the keypoints' box, in sizes of that box.
    """

    person_threshold: float = 0.5
    keypoint_confidence: float = 0.3
    iterations: int = 1
    smoothing_cells: float = 0.5
    reach: float = 0.6


@dataclass(frozen=True, eq=False)
class MaskFields:
    """SegNet's outputs, float32: person (h, w) probability, embedding (C, h, w) and sigma (h, w) in network pixels."""

    person: np.ndarray
    embedding: np.ndarray
    sigma: np.ndarray
    stride: int


@dataclass(frozen=True)
class _Region:
    """A rectangle of cells."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


def decode_masks(fields: MaskFields, poses: Poses, letterbox: Letterbox, options: MaskOptions | None = None) -> np.ndarray:
    """Instance masks of N poses as a label map, uint16 (H, W) in source pixels; every pixel has one person at most.

    phi_j(x) = exp(-|e(x) - C_j|^2 / 2 sigma_j^2) with C_j and sigma_j the confidence-weighted means of embedding and
    sigma at the person's confident keypoints: the dynamic centroid. A pixel is person j's where phi_j is the largest,
    phi_j > 0.5 and it is a person at all.
    """
    options = options or MaskOptions()
    height, width = letterbox.source_hw
    labels = np.zeros((height, width), np.uint16)
    if len(poses.scores) == 0:
        return labels
    shape_hw = fields.person.shape
    centres = cell_centres_xy(*shape_hw, fields.stride)
    bank = fields.embedding.shape[0] == 2 * NUM_KEYPOINTS
    absolute = fields.embedding.reshape(-1, 2, *shape_hw) + centres
    regions, memberships = [], []
    best = np.full(shape_hw, 0.0, np.float32)
    for n in range(len(poses.scores)):
        region = _region(poses, n, shape_hw, fields.stride, options)
        distance = _bank_distance if bank else _embedding_distance
        phi = np.exp(-0.5 * distance(fields, absolute, poses, n, region, options))
        regions.append(region)
        memberships.append(phi)
        np.maximum(best[region.window], phi, out=best[region.window])
    # Compete at field resolution, then refine each person's edge in the source.
    best_pixel = np.full((height, width), 0.5, np.float32)
    for n, (region, phi) in enumerate(zip(regions, memberships)):
        rival = best[region.window]
        # In a person's own territory this is phi; where somebody else is surer it sinks below one half.
        own = np.where(phi >= rival, phi, np.minimum(phi, 0.5 * phi / np.maximum(rival, 1e-6)))
        soft = np.minimum(own, _centred(fields.person[region.window], options.person_threshold))
        if options.smoothing_cells >= 0.3:
            soft = cv2.GaussianBlur(soft, (5, 5), options.smoothing_cells, borderType=cv2.BORDER_REPLICATE)
        _paint(labels, best_pixel, soft, region, n + 1, letterbox, fields.stride)
    return labels


def _centred(person: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities rescaled so that the threshold lies at one half."""
    if threshold == 0.5:
        return person
    return np.where(
        person < threshold, 0.5 * person / threshold, 0.5 + 0.5 * (person - threshold) / (1 - threshold)
    ).astype(np.float32)


def _region(poses: Poses, n: int, shape_hw: tuple[int, int], stride: int, options: MaskOptions) -> _Region:
    """The cells in which a person's mask may lie."""
    seen = poses.keypoint_scores[n] > min(0.1, 0.5 * float(poses.keypoint_scores[n].max()))
    points = poses.keypoints_xy[n, seen]
    low, high = points.min(0), points.max(0)
    # Heads stand out above the eyes, and a face alone has a body below it.
    margin = options.reach * max(float((high - low).max()), 8.0 * stride)
    left, top = np.floor((low - margin) / stride).astype(int)
    right, bottom = np.ceil((high + margin) / stride).astype(int) + 1
    height, width = shape_hw
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return _Region(left, top, max(min(right, width), left + 1), max(min(bottom, height), top + 1))


def _weights(poses: Poses, n: int, options: MaskOptions) -> np.ndarray:
    """Weight of each keypoint in the centroid, float32 (K,), sum 1."""
    scores = poses.keypoint_scores[n]
    confident = np.where(scores >= options.keypoint_confidence, scores, 0.0)
    weights = confident if confident.any() else scores
    return weights / weights.sum()


def _embedding_distance(
    fields: MaskFields, absolute: np.ndarray, poses: Poses, n: int, region: _Region, options: MaskOptions
) -> np.ndarray:
    """Squared distance of each cell's embedding from the person's centroid, in units of sigma^2."""
    height, width = fields.person.shape
    at = np.floor((poses.keypoints_xy[n] + 0.5) / fields.stride).astype(int)
    inside = ((at >= 0) & (at < (width, height))).all(1)
    col, row = np.clip(at, 0, (width - 1, height - 1)).T
    weights = _weights(poses, n, options) * inside
    if weights.sum() <= 0:
        weights = _weights(poses, n, options)
    weights = weights / weights.sum()
    centre = absolute[0][:, row, col] @ weights
    sigma = np.exp(np.log(np.maximum(fields.sigma[row, col], 1e-3)) @ weights)
    window = absolute[0][:, region.window[0], region.window[1]]
    person = fields.person[region.window]
    for _ in range(options.iterations):
        squared = ((window - centre[:, None, None]) ** 2).sum(0) / sigma**2
        won = np.exp(-0.5 * squared) * person * (squared < 2 * np.log(2.0))
        if won.sum() < 1.0:
            break
        centre = (window * won).sum((1, 2)) / won.sum()
    return (((window - centre[:, None, None]) ** 2).sum(0) / sigma**2).astype(np.float32)


def _bank_distance(
    fields: MaskFields, absolute: np.ndarray, poses: Poses, n: int, region: _Region, options: MaskOptions
) -> np.ndarray:
    """DM_c-bank: weighted mean over keypoints of the distance between where a cell says they are and where they are."""
    seen = poses.keypoint_scores[n] > 0
    extent = np.ptp(poses.keypoints_xy[n, seen], axis=0)
    size = max(float(np.sqrt(extent[0] * extent[1])), 4.0 * fields.stride)
    weights = _weights(poses, n, options)
    used = np.nonzero(weights > 0)[0]
    window = absolute[used][:, :, region.window[0], region.window[1]]
    miss = np.linalg.norm(window - poses.keypoints_xy[n, used][:, :, None, None], axis=1)
    distance = np.einsum("k,kyx->yx", weights[used], miss) / size
    return ((distance / _BANK_SIGMA) ** 2).astype(np.float32)


def _paint(
    labels: np.ndarray, best: np.ndarray, soft: np.ndarray, region: _Region, label: int, letterbox: Letterbox, stride: int
) -> None:
    """Enlarge a soft mask into the source picture and take the pixels where it is the largest and above one half."""
    rows, cols = np.nonzero(soft > 0.5)
    if len(rows) == 0:
        return
    height, width = labels.shape
    # Source pixel x lies at (x + 0.5) f - 0.5 in cells, f cells for each source pixel.
    fx, fy = letterbox.scale_xy / stride
    left = int(np.clip(np.floor((region.left + cols.min() - 0.5) / fx), 0, width - 1))
    top = int(np.clip(np.floor((region.top + rows.min() - 0.5) / fy), 0, height - 1))
    right = int(np.clip(np.ceil((region.left + cols.max() + 1.5) / fx) + 1, left + 1, width))
    bottom = int(np.clip(np.ceil((region.top + rows.max() + 1.5) / fy) + 1, top + 1, height))
    to_cells = np.array(
        [[fx, 0, (left + 0.5) * fx - 0.5 - region.left], [0, fy, (top + 0.5) * fy - 0.5 - region.top]]
    )
    enlarged = cv2.warpAffine(
        soft,
        to_cells,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    window = np.s_[top:bottom, left:right]
    wins = enlarged > best[window]
    labels[window][wins] = label
    best[window][wins] = enlarged[wins]
