"""Ground truth -> training targets (SPEC section 4), and targets -> what a perfect network would give.

The keypoint targets are sparse: a keypoint's disk covers a few dozen cells of a field of many thousand, so
they are kept as lists of (channel, row, column, value). All coordinates are network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from kdc_core.fields import Fields
from kdc_core.geometry import cell_centres_xy
from kdc_core.skeleton import (
    DIRECTED_EDGES,
    KEYPOINT_INDEX,
    NUM_DIRECTED_EDGES,
    NUM_KEYPOINTS,
    OKS_SIGMAS,
    PERSON_AREA_SHARE,
)

# Directed edges leaving each keypoint type.
EDGES_FROM: tuple[tuple[int, ...], ...] = tuple(
    tuple(e for e, (a, _) in enumerate(DIRECTED_EDGES) if a == k) for k in range(NUM_KEYPOINTS)
)
_FAR_END = np.array([b for _, b in DIRECTED_EDGES])


@dataclass(frozen=True)
class DiskRadius:
    """R of the keypoint disks in network pixels: `least_px`, or what the joint's tolerance allows up to `most_px`.

    A joint's tolerance is OKS's kappa, 2 sigma_k * person size: `kappas` of them are the radius. The papers' fixed R
    asks for a large person's hip what annotators cannot tell, and for a small one's eye much less than scores count.
    With `most_px` = `least_px` it is the papers' fixed R.
    """

    least_px: float
    most_px: float
    kappas: float = 1.25

    def of(self, sizes_px: np.ndarray) -> np.ndarray:
        """Radii float32 (N, K) for persons of these sizes (N,)."""
        return np.clip(self.kappas * 2 * sizes_px[:, None] * OKS_SIGMAS, self.least_px, self.most_px).astype(np.float32)


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The people of one network input (N persons, H' x W' network pixels), before encoding.

    keypoints_xy:   float32 (N, K, 2).
    labelled:       bool (N, K), COCO's v > 0.
    instance:       uint16 (H', W'), 0 = background, n + 1 = pixel of person n's mask.
    has_mask:       bool (N,): whether person n's mask is known.
    keypoint_ignore:  bool (H', W'): no heatmap loss here (crowds; persons whose keypoints nobody labelled).
    mask_ignore:      bool (H', W'): no person loss here (crowds; persons without masks).
    annotated_types:  bool (K,): the keypoint types that the data set annotates at all (CrowdPose knows no eyes).
    """

    keypoints_xy: np.ndarray
    labelled: np.ndarray
    instance: np.ndarray
    has_mask: np.ndarray
    keypoint_ignore: np.ndarray
    mask_ignore: np.ndarray
    annotated_types: np.ndarray = field(default_factory=lambda: np.ones(NUM_KEYPOINTS, bool))


@dataclass(frozen=True, eq=False)
class Targets:
    """What the losses compare with (h x w cells, P disk cells, Q edge cells).

    disk_index:     int32 (P, 3): keypoint type, row, column of each cell inside a disk D_R.
    disk_offset:    float32 (P, 2): q - x, from the cell's centre to the keypoint that owns it (KDC Eq. 4).
    disk_radius_px: float32 (P,): the disk's R.
    edge_index:     int32 (Q, 3): directed edge, row, column.
    edge_offset:    float32 (Q, 2): q_b - x, from the cell's centre to the edge's far end.
    edge_radius_px: float32 (Q,): R of the far end's disk, where the edge should land.
    heatmap_valid:  bool (h, w): cells whose heatmap loss counts; those of disks always do for their type.
    person:         float32 (h, w): share of the cell covered by people, 0..1.
    person_valid:   bool (h, w).
    instance:       int32 (h, w): n + 1 at cells of person n's mask, 0 elsewhere.
    centroids_xy:   float32 (N, 2): static MaskCentroid (SM_c); NaN where neither shoulder nor mask is known.
    keypoints_xy, labelled: as in the ground truth, for the bank form.
    annotated_types: bool (K,): the heatmaps of the others say nothing.
    """

    disk_index: np.ndarray
    disk_offset: np.ndarray
    disk_radius_px: np.ndarray
    edge_index: np.ndarray
    edge_offset: np.ndarray
    edge_radius_px: np.ndarray
    heatmap_valid: np.ndarray
    person: np.ndarray
    person_valid: np.ndarray
    instance: np.ndarray
    centroids_xy: np.ndarray
    keypoints_xy: np.ndarray
    labelled: np.ndarray
    annotated_types: np.ndarray = field(default_factory=lambda: np.ones(NUM_KEYPOINTS, bool))


def encode(truth: GroundTruth, stride: int, radius: float | DiskRadius) -> Targets:
    """Encode ground truth for a network of this stride and disk radius R (a number: network pixels, for all alike).

    Raises ValueError for a network input that is not a whole number of cells.
    """
    if any(side % stride for side in truth.instance.shape):
        raise ValueError(f"an input of {truth.instance.shape} pixels is no whole number of cells of {stride}")
    height, width = (side // stride for side in truth.instance.shape)
    centres = cell_centres_xy(height, width, stride)
    # Half a cell beyond the centre rounds down to the pixel just right of and below it.
    instance = truth.instance[stride // 2 :: stride, stride // 2 :: stride].astype(np.int32)
    if not isinstance(radius, DiskRadius):
        radius = DiskRadius(radius, radius)
    radii_px = radius.of(_sizes_px(truth, instance, stride))
    owner = _disk_owners(truth, centres, stride, radii_px)
    kind, row, col = np.nonzero(owner >= 0)
    person = owner[kind, row, col]
    centre_xy = centres[:, row, col].T
    disk_index = np.stack([kind, row, col], axis=1).astype(np.int32)
    disk_offset = truth.keypoints_xy[person, kind] - centre_xy
    edge_index, edge_offset, edge_radius_px = _edge_targets(truth, disk_index, person, centre_xy, radii_px)
    ignored = _cell_mean(truth.keypoint_ignore, stride) > 0.5
    return Targets(
        disk_index=disk_index,
        disk_offset=disk_offset.astype(np.float32),
        disk_radius_px=radii_px[person, kind],
        edge_index=edge_index,
        edge_offset=edge_offset,
        edge_radius_px=edge_radius_px,
        heatmap_valid=~ignored,
        person=_cell_mean(truth.instance > 0, stride),
        person_valid=_cell_mean(truth.mask_ignore, stride) < 0.25,
        instance=instance,
        centroids_xy=_static_centroids(truth),
        keypoints_xy=truth.keypoints_xy,
        labelled=truth.labelled,
        annotated_types=truth.annotated_types,
    )


def ideal_fields(targets: Targets, stride: int, bank: bool = False) -> Fields:
    """The fields that a network without error would return for these targets.

    The embedding is the static one (every pixel of a person points at its centroid), or with `bank` the
    offsets to the person's 17 keypoints. Offsets outside their disks are zero.
    """
    height, width = targets.person.shape
    heatmap = np.zeros((NUM_KEYPOINTS, height, width), np.float32)
    offset = np.zeros((NUM_KEYPOINTS, 2, height, width), np.float32)
    displacement = np.zeros((NUM_DIRECTED_EDGES, 2, height, width), np.float32)
    kind, row, col = targets.disk_index.T
    heatmap[kind, row, col] = 1.0
    offset[kind, :, row, col] = targets.disk_offset
    edge, row, col = targets.edge_index.T
    displacement[edge, :, row, col] = targets.edge_offset
    centres = cell_centres_xy(height, width, stride)
    channels = NUM_KEYPOINTS if bank else 1
    embedding = np.zeros((channels, 2, height, width), np.float32)
    sigma = np.full((height, width), float(stride), np.float32)
    for n in range(len(targets.keypoints_xy)):
        inside = targets.instance == n + 1
        goals = targets.keypoints_xy[n] if bank else targets.centroids_xy[n][None]
        embedding[:, :, inside] = goals[:, :, None] - centres[None, :, inside]
        sigma[inside] = max(stride, 0.15 * np.sqrt(inside.sum()) * stride)
    return Fields(
        heatmap=heatmap,
        offset=offset,
        displacement=displacement,
        person=targets.person,
        embedding=embedding.reshape(-1, height, width),
        sigma=sigma,
        stride=stride,
    )


def _sizes_px(truth: GroundTruth, instance: np.ndarray, stride: int) -> np.ndarray:
    """Size of each person as far as it is in view, float32 (N,): square root of the area of its labelled keypoints and
    mask together, as a share of their box."""
    low = np.where(truth.labelled[..., None], truth.keypoints_xy, np.inf).min(1, initial=np.inf)
    high = np.where(truth.labelled[..., None], truth.keypoints_xy, -np.inf).max(1, initial=-np.inf)
    row, col = np.nonzero(instance)
    person = instance[row, col] - 1
    np.minimum.at(low, person, np.stack([col, row], 1) * stride)
    np.maximum.at(high, person, np.stack([col + 1, row + 1], 1) * stride)
    extent = np.where(np.isfinite(low), high - low, 0.0)
    return np.sqrt(PERSON_AREA_SHARE * extent.prod(1)).astype(np.float32)


def _disk_owners(truth: GroundTruth, centres: np.ndarray, stride: int, radii_px: np.ndarray) -> np.ndarray:
    """Who owns each cell of each type's disks, int32 (K, h, w), -1 outside: the nearest keypoint wins.

    A keypoint whose disk holds no cell centre (a small R at a large stride) still owns the cell it lies in.
    """
    height, width = centres.shape[1:]
    owner = np.full((NUM_KEYPOINTS, height, width), -1, np.int32)
    nearest = np.full((NUM_KEYPOINTS, height, width), np.inf, np.float32)
    radii_px = np.maximum(radii_px, stride / np.sqrt(2.0) * (1.0 + 1e-6))  # a corner of four cells is just within reach
    for n, k in np.argwhere(truth.labelled):
        x, y = truth.keypoints_xy[n, k]
        radius_px = radii_px[n, k]
        low = np.floor((np.array([x, y]) - radius_px + 0.5) / stride).astype(int)
        high = np.ceil((np.array([x, y]) + radius_px + 0.5) / stride).astype(int)
        (left, top), (right, bottom) = np.maximum(low, 0), np.minimum(high, (width, height))
        if left >= right or top >= bottom:
            continue
        window = np.s_[top:bottom, left:right]
        squared = (centres[0][window] - x) ** 2 + (centres[1][window] - y) ** 2
        mine = (squared <= radius_px**2) & (squared < nearest[k][window])
        nearest[k][window][mine] = squared[mine]
        owner[k][window][mine] = n
    return owner


def _edge_targets(
    truth: GroundTruth, disk_index: np.ndarray, person: np.ndarray, centre_xy: np.ndarray, radii_px: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Displacements at the disk cells whose edge has both ends labelled: index, offset, R at the far end."""
    indices, offsets, radii = [np.zeros((0, 3), np.int32)], [np.zeros((0, 2))], [np.zeros(0)]
    for k in range(NUM_KEYPOINTS):
        cells = np.nonzero(disk_index[:, 0] == k)[0]
        if len(cells) == 0:
            continue
        for edge in EDGES_FROM[k]:
            far = _FAR_END[edge]
            used = cells[truth.labelled[person[cells], far]]
            index = disk_index[used].copy()
            index[:, 0] = edge
            indices.append(index)
            offsets.append(truth.keypoints_xy[person[used], far] - centre_xy[used])
            radii.append(radii_px[person[used], far])
    joined = np.concatenate
    return joined(indices), joined(offsets).astype(np.float32), joined(radii).astype(np.float32)


def _static_centroids(truth: GroundTruth) -> np.ndarray:
    """SM_c: right shoulder, else left shoulder, else the mask's mean; NaN without any of them."""
    right, left = KEYPOINT_INDEX["right_shoulder"], KEYPOINT_INDEX["left_shoulder"]
    centroids = np.full((len(truth.keypoints_xy), 2), np.nan, np.float32)
    for n, labelled in enumerate(truth.labelled):
        if labelled[right] or labelled[left]:
            centroids[n] = truth.keypoints_xy[n, right if labelled[right] else left]
            continue
        ys, xs = np.nonzero(truth.instance == n + 1)
        if len(xs):
            centroids[n] = xs.mean(), ys.mean()
    return centroids


def _cell_mean(pixels: np.ndarray, stride: int) -> np.ndarray:
    """Mean of a pixel map over each cell, float32 (h, w)."""
    height, width = (s // stride for s in pixels.shape)
    return cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
