"""One-Euro filter of every joint of every track (Casiez, Roussel, Vogel, "1 Euro Filter", CHI 2012).

An exponential filter whose cut-off rises with speed: x' = x' + a (x - x'), a = 1 / (1 + tau / dt), tau = 1 / (2 pi f),
f = f_min + beta |v|. At constant speed such a filter lags by exactly tau seconds; tau is bounded, and so is the lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc_core.tracking.options import TrackerOptions

SPEED_CUTOFF_HZ = 1.0  # of the low-pass on the speed, the paper's constant
FORGET_S = 0.5  # a joint unseen for longer starts anew where it reappears


@dataclass
class JointFilter:
    """State of T tracks: xy (T, K, 2) px, velocity (T, K, 2) px/s, stamps_s (T, K), -inf = never seen."""

    xy: np.ndarray
    velocity: np.ndarray
    stamps_s: np.ndarray

    @classmethod
    def new(cls, xy: np.ndarray, scores: np.ndarray, stamp_s: float) -> JointFilter:
        """Filters that start at joints xy (N, K, 2); scores (N, K), 0 = not there."""
        return cls(xy.copy(), np.zeros_like(xy), np.where(scores > 0, stamp_s, -np.inf))

    def take(self, rows: np.ndarray) -> JointFilter:
        return JointFilter(self.xy[rows], self.velocity[rows], self.stamps_s[rows])

    def join(self, other: JointFilter) -> JointFilter:
        return JointFilter(
            np.concatenate([self.xy, other.xy]),
            np.concatenate([self.velocity, other.velocity]),
            np.concatenate([self.stamps_s, other.stamps_s]),
        )

    def update(
        self,
        rows: np.ndarray,
        xy: np.ndarray,
        scores: np.ndarray,
        sizes_px: np.ndarray,
        stamp_s: float,
        options: TrackerOptions,
    ) -> np.ndarray:
        """Smoothed joints (M, K, 2) of tracks `rows` (M,) seen at xy (M, K, 2); unseen joints come back as given."""
        seen = scores > 0
        dt = np.maximum(stamp_s - self.stamps_s[rows], 0)
        fresh = seen & (dt > FORGET_S)
        follow = seen & ~fresh
        dt = np.where(follow, dt, 0.0)[..., None]
        old, old_velocity = self.xy[rows], self.velocity[rows]
        # dt = 0 (a repeated stamp) leaves everything as it was: a = 0.
        measured = (xy - old) / np.maximum(dt, 1e-6)
        velocity = old_velocity + _gain(dt, 1 / (2 * np.pi * SPEED_CUTOFF_HZ)) * (measured - old_velocity)
        speed = np.linalg.norm(velocity, axis=2, keepdims=True) / sizes_px[:, None, None]
        cutoff = options.min_cutoff_hz + options.speed_coefficient * speed
        tau = np.minimum(1 / (2 * np.pi * cutoff), options.max_lag_s)
        smooth = old + _gain(dt, tau) * (xy - old)
        out = np.where(follow[..., None], smooth, xy)
        self.xy[rows] = np.where(seen[..., None], out, old)
        self.velocity[rows] = np.where(follow[..., None], velocity, np.where(fresh[..., None], 0.0, old_velocity))
        self.stamps_s[rows] = np.where(seen, np.maximum(stamp_s, self.stamps_s[rows]), self.stamps_s[rows])
        return out


def _gain(dt: np.ndarray, tau: np.ndarray | float) -> np.ndarray:
    return dt / (dt + tau)
