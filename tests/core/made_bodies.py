"""Made bodies in space, of many heights, shapes and postures, seen by a camera."""

from __future__ import annotations

import numpy as np

from kdc_core.camera import CameraModel
from kdc_core.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS, OKS_SIGMAS
from kdc_core.types import People


def turned(angle_rad: float, axis: str) -> np.ndarray:
    """Rotation about an axis of space, float64 (3, 3)."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def body(rng: np.random.Generator, height_m: float = 1.66, swing_deg: float = 0.0, sitting: bool = False) -> np.ndarray:
    """A body that looks to -z with the middle of its hips at the origin, y down; float64 (17, 3) in metres.

    swing_deg: how much the limbs swing to front and back (standard deviation).
    """

    def length(share: float, deviation: float = 0.05) -> float:
        return height_m * share * (1 + rng.normal(0, deviation))

    def limb(share: float, extra_deg: float = 0.0) -> np.ndarray:
        tilt = np.deg2rad(rng.normal(0, swing_deg) + extra_deg)
        return length(share) * np.array([0, np.cos(tilt), -np.sin(tilt)])

    points = np.zeros((NUM_KEYPOINTS, 3))

    def put(name: str, place: np.ndarray) -> np.ndarray:
        points[KEYPOINT_INDEX[name]] = place
        return place

    trunk, shoulders = length(0.288), length(0.222, 0.08)
    neck = np.array([0, -trunk, 0])
    eyes, ears = 0.063 * (1 + rng.normal(0, 0.06)), 0.142 * (1 + rng.normal(0, 0.06))
    nose = put("nose", neck + [0, -0.112 * height_m, -0.09])
    for side, sign in (("left", 1), ("right", -1)):
        put(f"{side}_eye", nose + [sign * eyes / 2, -0.035, 0.02])
        put(f"{side}_ear", nose + [sign * ears / 2, -0.02, 0.1])
        shoulder = put(f"{side}_shoulder", neck + [sign * shoulders / 2, 0, 0])
        elbow = put(f"{side}_elbow", shoulder + limb(0.186))
        put(f"{side}_wrist", elbow + limb(0.146, 10))
        hip = put(f"{side}_hip", np.array([sign * 0.05 * height_m, 0, 0]))
        knee = put(f"{side}_knee", hip + limb(0.245, 80 if sitting else 0))
        put(f"{side}_ankle", knee + limb(0.246))
    return points


def seen_by(
    camera: CameraModel, bodies_m: np.ndarray, image_hw: tuple[int, int], rng: np.random.Generator, noise: float = 1.0
) -> People:
    """Bodies (N, 17, 3) in the optical frame as the camera's keypoints, with `noise` times COCO's deviations.

    Joints outside the image are not found.
    """
    xy = camera.project(bodies_m)
    low, high = np.nanmin(xy, axis=1), np.nanmax(xy, axis=1)
    scale = np.sqrt(0.6 * (high - low).prod(axis=1))
    xy = xy + rng.normal(size=xy.shape) * noise * OKS_SIGMAS[:, None] * scale[:, None, None]
    inside = ((xy >= 0) & (xy <= (image_hw[1] - 1, image_hw[0] - 1))).all(axis=-1)
    size = (image_hw[1] - 1, image_hw[0] - 1)
    boxes = np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], axis=1)
    return People(
        np.where(inside[..., None], xy, 0).astype(np.float32),
        np.where(inside, 0.7, 0).astype(np.float32),
        np.ones(len(xy), np.float32),
        boxes.astype(np.float32),
    )
