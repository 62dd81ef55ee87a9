"""Where the people of a frame are in space: by the depth image where there is one, else by the size of their bodies."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from kdc_core.body_distance import BodyOptions, estimate_distances
from kdc_core.camera import CameraModel
from kdc_core.lifting import KeypointDepths, LiftingOptions, read_depths
from kdc_core.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS
from kdc_core.types import People

# A depth sensor's own error, as a part of the distance.
_SENSOR_ERROR = 0.01
_HIPS = (KEYPOINT_INDEX["left_hip"], KEYPOINT_INDEX["right_hip"])
_SHOULDERS = (KEYPOINT_INDEX["left_shoulder"], KEYPOINT_INDEX["right_shoulder"])
# Of a body closer to the line of sight than this, left and right cannot be told.
_LEAST_BREADTH_M = 0.05


class PositionSource(IntEnum):
    """Where a person's place comes from; the values are those of kdc/PersonPose."""

    NONE = 0
    DEPTH = 1
    ESTIMATED = 2


@dataclass(frozen=True, eq=False)
class Positions:
    """Places of N persons in metres in the camera's optical frame (x right, y down, z forward); NaN = unknown.

    keypoints_m: float64 (N, K, 3), the body's surface as the camera sees it at each joint; from depth only.
    roots_m:     float64 (N, 3), the middle of the hips, else of the shoulders, else of what is seen.
    stds_m:      float64 (N,), standard deviation of the root's distance from the camera.
    sources:     uint8 (N,), PositionSource of the root.
    """

    keypoints_m: np.ndarray
    roots_m: np.ndarray
    stds_m: np.ndarray
    sources: np.ndarray

    @classmethod
    def unknown(cls, count: int) -> Positions:
        """Nothing known of so many people."""
        return cls(
            np.full((count, NUM_KEYPOINTS, 3), np.nan),
            np.full((count, 3), np.nan),
            np.full(count, np.nan),
            np.zeros(count, np.uint8),
        )

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class PositionOptions:
    """How depth is read, what is assumed of bodies, and whether distances are estimated without depth at all."""

    lifting: LiftingOptions = field(default_factory=LiftingOptions)
    body: BodyOptions = field(default_factory=BodyOptions)
    estimate: bool = True


def locate_people(
    people: People,
    camera: CameraModel,
    image_hw: tuple[int, int],
    depth: np.ndarray | None = None,
    options: PositionOptions | None = None,
) -> Positions:
    """Places of the people of one image.

    image_hw: (height, width) of the image. depth: (h, w) float32 metres or uint16 millimetres, registered to the image
              (see `read_depths`); None = none. Whoever is not measured by it is estimated, where the options say so.
    """
    options = options or PositionOptions()
    positions = Positions.unknown(len(people))
    if len(people) == 0:
        return positions
    anchors, joints = _anchors(people, image_hw)
    if depth is not None:
        depths = read_depths(people, depth, image_hw, options.lifting)
        positions.keypoints_m[:] = camera.to_plane(people.keypoints_xy, depths.depth_m)
        root_depth, std = _root_depths(depths, joints)
        roots = camera.to_plane(anchors, root_depth)
        _fill(positions, PositionSource.DEPTH, roots, std * _per_depth(roots))
    unmeasured = np.flatnonzero(positions.sources == PositionSource.NONE)
    if options.estimate and len(unmeasured):
        distances = estimate_distances(_chosen(people, unmeasured), camera, image_hw, options.body)
        roots, stds = np.full((len(people), 3), np.nan), np.full(len(people), np.nan)
        roots[unmeasured] = camera.rays(anchors[unmeasured]) * distances.range_m[:, None]
        stds[unmeasured] = distances.std_m
        _fill(positions, PositionSource.ESTIMATED, roots, stds)
    return positions


def _chosen(people: People, which: np.ndarray) -> People:
    """Some of the people, without masks. which: int (M,)."""
    return People(
        people.keypoints_xy[which], people.keypoint_scores[which], people.scores[which], people.boxes_xyxy[which]
    )


def body_rotation(root_m: np.ndarray, keypoints_m: np.ndarray) -> np.ndarray:
    """The body's axes in the optical frame, float64 (3, 3), its columns x forward, y left, z up (REP-103).

    Up is up in the picture: the camera is taken to be level. Forward is by the shoulders and hips where both sides
    are known in space; without, the person is taken to face the camera.

    root_m: float (3,). keypoints_m: float (K, 3), NaN where unknown.
    """
    up = np.array([0.0, -1.0, 0.0])
    across = [keypoints_m[left] - keypoints_m[right] for left, right in (_SHOULDERS, _HIPS)]
    known = [vector for vector in across if np.isfinite(vector).all()]
    left = np.sum(known, axis=0) if known else np.zeros(3)
    left = left - (left @ up) * up
    if np.linalg.norm(left) < _LEAST_BREADTH_M:
        forward = -root_m + (root_m @ up) * up
        if not np.linalg.norm(forward) > 0:
            forward = np.array([0.0, 0.0, -1.0])
        left = np.cross(up, forward)
    left = left / np.linalg.norm(left)
    return np.stack([np.cross(left, up), left, up], axis=1)


def _anchors(people: People, image_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The pixel of each person's root, float64 (N, 2), and which joints it is the middle of, bool (N, K)."""
    xy = people.keypoints_xy.astype(np.float64)
    size = np.array([image_hw[1] - 0.5, image_hw[0] - 0.5])
    with np.errstate(invalid="ignore"):
        found = (people.keypoint_scores > 0) & ((xy >= -0.5) & (xy <= size)).all(axis=-1)
    joints = found.copy()
    for pair in (_SHOULDERS, _HIPS):
        both = found[:, pair].all(axis=1)
        joints[both] = False
        for keypoint in pair:
            joints[both, keypoint] = True
    count = joints.sum(axis=1)[:, None]
    total = np.where(joints[..., None], xy, 0).sum(axis=1)
    centres = np.clip((people.boxes_xyxy[:, :2].astype(np.float64) + people.boxes_xyxy[:, 2:]) / 2, -0.5, size)
    return np.where(count > 0, total / np.maximum(count, 1), centres), joints


def _root_depths(depths: KeypointDepths, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth (z) and its standard deviation for each root: its own joints' mean, else the person's, two (N,)."""
    own = joints & np.isfinite(depths.depth_m)
    count = own.sum(axis=1)
    some = np.maximum(count, 1)
    mean = np.where(own, depths.depth_m, 0).sum(axis=1) / some
    variance = np.where(own, depths.spread_m**2, 0).sum(axis=1) / some
    depth = np.where(count > 0, mean, depths.person_m)
    spread = np.where(count > 0, np.sqrt(variance), depths.person_spread_m)
    return depth, np.hypot(spread, _SENSOR_ERROR * depth)


def _per_depth(points_m: np.ndarray) -> np.ndarray:
    """Distance from the camera for each metre of depth, (N,)."""
    return np.linalg.norm(points_m, axis=-1) / points_m[..., 2]


def _fill(positions: Positions, source: PositionSource, roots_m: np.ndarray, stds_m: np.ndarray) -> None:
    """Enter the places that are known for those who have none yet."""
    new = (positions.sources == PositionSource.NONE) & np.isfinite(roots_m).all(axis=1) & np.isfinite(stds_m)
    positions.roots_m[new], positions.stds_m[new] = roots_m[new], stds_m[new]
    positions.sources[new] = source
