"""How far a person is, from one calibrated camera alone: the lengths of the body against their size in the picture.

A segment of length L, seen under the angle a, is L / (2 tan(a/2)) away if it lies across the line of sight; turned
towards the camera or away from it, it looks shorter and is nearer than that. So each segment gives an upper bound
that is reached when it lies across. For every distance on a grid the segments' angles have a likelihood: the mean
over how the segment may be turned, with the spread of body shapes and of the keypoints. Their product is the answer,
widened by how much people differ in height, which no picture tells.

Lengths are shares of the body height: limbs and trunk from Winter, Biomechanics and Motor Control of Human Movement
(after Drillis and Contini, 1966); ears and eyes from ANSUR II (Gordon et al., 2014: bitragion breadth 0.142 m,
interpupillary distance 0.063 m). Winter's shoulder breadth (0.259) is that of the body's outline; the joints of
COCO's keypoints lie further in: ANSUR II's biacromial breadth of both sexes (0.39 m), less about 0.02 m. Adults are
1.66 m +- 0.09 m high (NCD-RisC, 2016, both sexes, world-wide); for children the answer is too far by the ratio of
the heights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc_core.camera import CameraModel
from kdc_core.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS, OKS_SIGMAS
from kdc_core.types import People


@dataclass(frozen=True)
class BodyOptions:
    """What is assumed of bodies and keypoints.

    height_m, height_std_m: mean and standard deviation of the body heights.
    keypoint_threshold:     weaker keypoints are not used.
    near_m, far_m:          the distances considered.
    worst_relative_std:     an answer less sure than this part of the distance is none.
    """

    height_m: float = 1.66
    height_std_m: float = 0.09
    keypoint_threshold: float = 0.2
    near_m: float = 0.3
    far_m: float = 60.0
    worst_relative_std: float = 0.6


@dataclass(frozen=True)
class Segment:
    """A part of the body between two points, each the middle of some keypoints.

    share:  its length as a part of the body height. deviation: how much that differs among people, relatively.
    across: how probable it is that the segment lies across the line of sight (within some 20 degrees); else its
            direction is any.
    """

    name: str
    start: tuple[int, ...]
    end: tuple[int, ...]
    share: float
    deviation: float
    across: float


def _segment(name: str, start: str, end: str, share: float, deviation: float, across: float) -> Segment:
    a, b = (tuple(KEYPOINT_INDEX[k] for k in names.split()) for names in (start, end))
    return Segment(name, a, b, share, deviation, across)


_TRUNK = _segment("trunk", "left_shoulder right_shoulder", "left_hip right_hip", 0.288, 0.07, 0.8)
SEGMENTS: tuple[Segment, ...] = (
    # From the face to the feet: long, so that the keypoints' errors hardly count.
    _segment("standing", "nose", "left_ankle right_ankle", 0.885, 0.02, 0.6),
    _TRUNK,
    _segment("shoulders", "left_shoulder", "right_shoulder", 0.222, 0.09, 0.35),
    _segment("ears", "left_ear", "right_ear", 0.0855, 0.07, 0.35),
    _segment("eyes", "left_eye", "right_eye", 0.038, 0.07, 0.35),
    *(
        _segment(f"{side}_{name}", f"{side}_{a}", f"{side}_{b}", share, 0.05, across)
        for side in ("left", "right")
        for name, a, b, share, across in (
            ("upper_arm", "shoulder", "elbow", 0.186, 0.45),
            ("forearm", "elbow", "wrist", 0.146, 0.2),
            ("thigh", "hip", "knee", 0.245, 0.5),
            ("shank", "knee", "ankle", 0.246, 0.6),
        )
    ),
)
# The measurements of one body hang together (a turned body foreshortens both sides; a misplaced hip spoils trunk and
# thigh), so that as many count for fewer.
_INDEPENDENCE = 0.5
_GRID = 64
_TURNS = 12
_ACROSS_RAD = np.deg2rad(20.0)
# A network's keypoints are rougher than an annotator's, of whom the OKS constants tell.
_KEYPOINT_FACTOR = 1.3


@dataclass(frozen=True, eq=False)
class BodyDistances:
    """Distances of N persons from the camera, along the line of sight: range_m and its std_m, float64 (N,).

    NaN where too little of the body was seen.
    """

    range_m: np.ndarray
    std_m: np.ndarray


def estimate_distances(
    people: People, camera: CameraModel, image_hw: tuple[int, int], options: BodyOptions | None = None
) -> BodyDistances:
    """The distance of everybody from the size of their bodies. image_hw: (height, width) of the image."""
    options = options or BodyOptions()
    angle, noise = _angles(people, camera, image_hw, options)
    grid = np.geomspace(options.near_m, options.far_m, _GRID)
    log_likelihood = _log_likelihood(angle, noise, grid, options)
    seen = np.isfinite(angle).any(axis=1)
    posterior = np.exp(_INDEPENDENCE * (log_likelihood - log_likelihood.max(axis=1, keepdims=True)))
    posterior /= posterior.sum(axis=1, keepdims=True)
    log_grid = np.log(grid)
    mean = posterior @ log_grid
    variance = np.maximum(posterior @ log_grid**2 - mean**2, 0) + (options.height_std_m / options.height_m) ** 2
    known = seen & (np.sqrt(variance) <= options.worst_relative_std)
    range_m = np.where(known, np.exp(mean), np.nan)
    return BodyDistances(range_m, range_m * np.sqrt(variance))


def _angles(
    people: People, camera: CameraModel, image_hw: tuple[int, int], options: BodyOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Size of each segment and its error, two float64 (N, S); NaN where an end was not seen.

    The size is 2 tan(angle / 2) of the angle under which it is seen: its length over its distance.
    """
    xy = people.keypoints_xy.astype(np.float64)
    height, width = image_hw
    with np.errstate(invalid="ignore"):
        inside = ((xy >= -0.5) & (xy <= (width - 0.5, height - 0.5))).all(axis=-1)
    good = inside & (people.keypoint_scores >= max(options.keypoint_threshold, 1e-6))
    xy = np.where(good[..., None], xy, 0.0)
    rays = []
    for weights in _END_WEIGHTS:
        places = weights @ xy
        places[(~good).astype(float) @ (weights > 0).T > 0] = np.nan  # an end of which a keypoint is missing
        rays.append(camera.rays(places))
    cosine = np.clip((rays[0] * rays[1]).sum(axis=-1), -1, 1)
    angle = 2 * np.sqrt((1 - cosine) / (1 + cosine + 1e-12))
    extent = np.maximum(people.boxes_xyxy[:, 2:] - people.boxes_xyxy[:, :2], 1).astype(np.float64)
    # COCO: an annotator's standard deviation, as a part of the square root of the person's area.
    noise_px = _SIGMAS * np.sqrt(0.6 * extent.prod(axis=1))[:, None] * _KEYPOINT_FACTOR
    noise_px = np.hypot(noise_px, 1.0)
    return angle, noise_px / np.sqrt(camera.fx * camera.fy)


def _log_likelihood(angle: np.ndarray, noise: np.ndarray, grid_m: np.ndarray, options: BodyOptions) -> np.ndarray:
    """Of each distance on the grid for each person, float64 (N, G)."""
    # How long each segment appears, by distance and turn: (S, G, T).
    size = _SHARES[:, None, None] * options.height_m / grid_m[:, None]
    expected_2 = ((size * _FORESHORTENING) ** 2).astype(np.float32)
    own_2 = expected_2 * (_DEVIATIONS[:, None, None] ** 2).astype(np.float32)
    noise_2 = (noise[:, :, None, None] ** 2).astype(np.float32)
    variance = own_2 + noise_2  # (N, S, G, T)
    # Errors across a segment make it longer, whatever their sign.
    error = angle[:, :, None, None].astype(np.float32) - np.sqrt(expected_2 + noise_2)
    density = np.exp(-0.5 * error**2 / variance) / np.sqrt(variance)
    probability = (density @ _TURN_WEIGHTS[:, :, None])[..., 0]  # (N, S, G)
    # No single segment rules a distance out.
    probability += 1e-4 * probability.max(axis=2, keepdims=True) + 1e-30
    seen = np.isfinite(angle)
    return np.where(seen[..., None], np.log(probability), 0.0).sum(axis=1, dtype=np.float64)


# A direction at the angle t from the plane across the line of sight shortens by cos t; of all directions in space,
# cos t dt of them lie at t.
_TILT = (np.arange(_TURNS) + 0.5) / _TURNS * np.pi / 2
_FORESHORTENING = np.cos(_TILT)
_ANY_WEIGHTS = np.cos(_TILT) / np.cos(_TILT).sum()
_ACROSS_WEIGHTS = np.exp(-0.5 * (_TILT / _ACROSS_RAD) ** 2)
_ACROSS_WEIGHTS = _ACROSS_WEIGHTS / _ACROSS_WEIGHTS.sum()
_SHARES = np.array([segment.share for segment in SEGMENTS])
_DEVIATIONS = np.array([segment.deviation for segment in SEGMENTS])
_ACROSS = np.array([segment.across for segment in SEGMENTS])[:, None]
# How probable each turn is for each segment, float32 (S, T).
_TURN_WEIGHTS = (_ACROSS * _ACROSS_WEIGHTS + (1 - _ACROSS) * _ANY_WEIGHTS).astype(np.float32)


def _end_weights(ends: list[tuple[int, ...]]) -> np.ndarray:
    """Each segment's end as a mean of keypoints, float64 (S, K)."""
    weights = np.zeros((len(ends), NUM_KEYPOINTS))
    for row, points in zip(weights, ends):
        row[list(points)] = 1 / len(points)
    return weights


_END_WEIGHTS = (
    _end_weights([segment.start for segment in SEGMENTS]),
    _end_weights([segment.end for segment in SEGMENTS]),
)
_SIGMAS = np.array(
    [
        np.sqrt(sum(float((OKS_SIGMAS[list(points)] ** 2).sum()) / len(points) ** 2 for points in (s.start, s.end)))
        for s in SEGMENTS
    ]
)
