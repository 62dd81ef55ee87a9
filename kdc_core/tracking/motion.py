"""Constant-velocity Kalman filter of many tracks at once, over time in seconds.

Three axes, independent of each other: x and y in source pixels, and the natural logarithm of a scale. Position and
scale are those of a frame that moves with the body: it starts on the first box, and after that only the DISPLACEMENT
and the relative growth of joints seen before and now are measured (`body_motion`). Box centres and box sizes jump
when a leg is hidden; displacements of the joints that are still seen do not. Joints and boxes are kept in this frame.
"""

from __future__ import annotations

import numpy as np

from kdc_core.skeleton import KEYPOINT_NAMES

AXES = 3

# How rigidly each joint goes with the body: head and torso carry the motion, hands and feet swing about it.
_RIGIDITY = {"elbow": 0.3, "knee": 0.3, "wrist": 0.1, "ankle": 0.1}
JOINT_RIGIDITY = np.array([_RIGIDITY.get(name.split("_")[-1], 1.0) for name in KEYPOINT_NAMES])

SCALE_NOISE = 0.05  # error of a measured growth (natural logarithm, one sigma)
SCALE_RATE_WALK = 0.3  # 1/s; change of the rate of growth within a second
INITIAL_SCALE_RATE = 0.3  # 1/s
OUTLIER = 2.0  # position noises; a joint this far from where most of the joints went counts half
MAX_GROWTH = 0.25  # a jump of the logarithm beyond this is a wrong pose rather than a person coming nearer


def new_motion(
    centres_xy: np.ndarray, sizes_px: np.ndarray, position_noise: float, initial_velocity: float
) -> tuple[np.ndarray, np.ndarray]:
    """Filters at rest of N bodies: centres (N, 2) px, sizes (N,) px, noise in sizes and velocity in sizes/s.

    Returns mean (N, 3, 2), value and rate of each axis, and covariance (N, 3, 3): the variance of the value,
    the covariance of value and rate, the variance of the rate.
    """
    n = len(centres_xy)
    mean = np.zeros((n, AXES, 2))
    mean[:, :2, 0] = centres_xy
    mean[:, 2, 0] = np.log(sizes_px)
    covariance = np.zeros((n, AXES, 3))
    covariance[:, :2, 0] = ((position_noise * sizes_px) ** 2)[:, None]
    covariance[:, :2, 2] = ((initial_velocity * sizes_px) ** 2)[:, None]
    covariance[:, 2, 0] = SCALE_NOISE**2
    covariance[:, 2, 2] = INITIAL_SCALE_RATE**2
    return mean, covariance


def predict(
    mean: np.ndarray,
    covariance: np.ndarray,
    sizes_px: np.ndarray,
    dt_s: float,
    velocity_walk: float,
    moving_s: np.ndarray | float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The filters `dt_s` later.

    moving_s: (T,), how long of it each one moves (default: all of it); its uncertainty grows all the time.

    White noise on the acceleration, of a density such that a velocity wanders by `velocity_walk` sizes/s (one sigma)
    within a second: the result does not depend on the number of steps.
    """
    density = np.empty((len(mean), AXES))
    density[:, :2] = ((velocity_walk * sizes_px) ** 2)[:, None]
    density[:, 2] = SCALE_RATE_WALK**2
    value, cross, rate = covariance[..., 0], covariance[..., 1], covariance[..., 2]
    new_mean = mean.copy()
    moved_s = np.broadcast_to(dt_s if moving_s is None else moving_s, len(mean))
    new_mean[..., 0] += moved_s[:, None] * mean[..., 1]
    new = np.empty_like(covariance)
    new[..., 0] = value + dt_s * (2 * cross + dt_s * (rate + density * dt_s / 3))
    new[..., 1] = cross + dt_s * (rate + density * dt_s / 2)
    new[..., 2] = rate + density * dt_s
    return new_mean, new


def correct(
    mean: np.ndarray, covariance: np.ndarray, innovation: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The filters after measurements: innovation (M, 3), measured minus predicted; noise (M, 3), its variance."""
    value, cross, rate = covariance[..., 0], covariance[..., 1], covariance[..., 2]
    total = value + noise
    gain = np.stack([value / total, cross / total], axis=-1)
    new_mean = mean + gain * innovation[..., None]
    new = np.stack(
        [value * noise / total, cross * noise / total, rate - gain[..., 1] * cross], axis=-1
    )
    return new_mean, new


def body_motion(
    predicted_xy: np.ndarray,
    predicted_scores: np.ndarray,
    seen_xy: np.ndarray,
    seen_scores: np.ndarray,
    predicted_boxes: np.ndarray,
    seen_boxes: np.ndarray,
    position_noise_px: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """How M bodies moved against their prediction, from the joints that both sides know.

    predicted_xy, seen_xy (M, K, 2), their scores (M, K), boxes (M, 4), position_noise_px (M,).
    Joints that go another way than most, such as those taken from the person in front, count little.
    Returns innovation (M, 3) and its variance (M, 3) for `correct`. Bodies without a common joint are measured by
    their boxes, and trusted less.
    """
    weight = predicted_scores * seen_scores * JOINT_RIGIDITY
    weight = weight * _agreeing(seen_xy - predicted_xy, weight, OUTLIER * position_noise_px)
    total = weight.sum(1)
    share = weight / np.maximum(total, 1e-9)[:, None]
    centre_predicted = np.einsum("mk,mkd->md", share, predicted_xy)
    centre_seen = np.einsum("mk,mkd->md", share, seen_xy)
    spread_predicted = np.einsum("mk,mkd->m", share, (predicted_xy - centre_predicted[:, None]) ** 2)
    spread_seen = np.einsum("mk,mkd->m", share, (seen_xy - centre_seen[:, None]) ** 2)

    innovation = np.empty((len(weight), AXES))
    innovation[:, :2] = centre_seen - centre_predicted
    # One pixel is added so that a spread of nothing gives a growth of nothing.
    innovation[:, 2] = 0.5 * np.log((spread_seen + 1) / (spread_predicted + 1))
    noise = np.empty_like(innovation)
    # A single joint (weight 1) says less about the body than a torso with a head (weight 5 or so).
    trust = np.maximum(np.minimum(total / 2.0, 1.0), 0.05)
    noise[:, :2] = (position_noise_px**2 / trust)[:, None]
    noise[:, 2] = (SCALE_NOISE / trust) ** 2

    by_box = total < 0.1
    if by_box.any():
        a, b = predicted_boxes[by_box], seen_boxes[by_box]
        innovation[by_box, :2] = (b[:, :2] + b[:, 2:] - a[:, :2] - a[:, 2:]) / 2
        height_a, height_b = a[:, 3] - a[:, 1], b[:, 3] - b[:, 1]
        innovation[by_box, 2] = np.log((height_b + 1) / (height_a + 1))
        noise[by_box, :2] = 4 * position_noise_px[by_box, None] ** 2
        noise[by_box, 2] = (4 * SCALE_NOISE) ** 2
    innovation[:, 2] = np.clip(innovation[:, 2], -MAX_GROWTH, MAX_GROWTH)
    return innovation, noise


def _agreeing(way: np.ndarray, weight: np.ndarray, scale_px: np.ndarray) -> np.ndarray:
    """Factor in 0..1 (M, K) for displacements (M, K, 2) that agree with their weighted median; weight (M, K)."""
    order = np.argsort(way, axis=1)
    sorted_weight = np.take_along_axis(weight[..., None], order, axis=1)
    half = 0.5 * weight.sum(1)
    middle = (np.cumsum(sorted_weight, axis=1) >= half[:, None, None]).argmax(axis=1)
    median = np.take_along_axis(np.take_along_axis(way, order, axis=1), middle[:, None], axis=1)
    off2 = ((way - median) ** 2).sum(2)
    return 1 / (1 + off2 / (scale_px**2)[:, None])
