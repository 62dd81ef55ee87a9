"""Every number the tracker depends on, with its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

# `high_score` for the network's scores, which are low: a clearly visible person has 0.2 to 0.7.
SURE_SCORE = 0.25


@dataclass(frozen=True)
class TrackerOptions:
    """Options of `Tracker`. Times are seconds of the frames' stamps; "sizes" are body sizes (see `body_sizes_px`:
    the square root of COCO's person area, about 0.45 of the height of someone who stands), so that the same numbers
    serve people near and far.

    Detections and the life of a track
    high_score:        people at least this sure are matched first, and only they confirm a track or re-enter.
    confirm_hits:      sightings of at least `high_score` that turn TENTATIVE into TRACKED.
    tentative_s:       a TENTATIVE track unseen for longer is dropped.
    occluded_s:        an unseen track is OCCLUDED and moves on at its velocity this long; then LOST, standing still.
    reentry_s:         a track unseen for longer is forgotten; until then the same person keeps the id.
    max_gap_s:         a longer step between two stamps restarts the tracks.
    max_backward_s:    a stamp this much older than the newest is taken as simultaneous; an older one restarts.

    Association
    pose_gain, overlap_gain, motion_gain: evidence (log-odds) that a pair gains for each unit of the pose's OKS, of
                       mask or box overlap, and of the logarithm of closeness to the predicted place.
    appearance_gain:   the same for the likeness of the colours: at most so much for a pair, or against it; 0 = colours
                       are not looked at. People without them lose and gain nothing.
    mask_share:        share of mask IoU in the overlap where both sides have a mask; box IoU has the rest.
    min_evidence:      a pair below this is refused; 0 = as likely the same person as another one, so a little below 0
                       gives the benefit of the doubt to whoever is known already.
    max_mahalanobis:   a pair further from the prediction than this many standard deviations is refused.
    max_size_ratio:    nor may a person be larger than the track by more than this factor (half hidden, she is smaller);
                       for a re-entry nor smaller.
    duplicate_oks:     a person left over is a second detection of somebody tracked from this OKS on.
    reentry_radius:    sizes; how far from the way between the last and the predicted place a person may re-enter.

    Motion
    joint_slack:       sizes; how far a joint strays from the body's motion between sightings (one sigma).
    position_noise:    sizes; error of a measured position (one sigma).
    velocity_walk:     sizes/s; how much the velocity of a person changes within a second (one sigma).
    initial_velocity:  sizes/s; spread of the velocities of people never seen before (one sigma); nobody missing
                       re-enters further away than this reaches.

    Smoothing of the joints (One-Euro filter, Casiez et al. 2012), off by default
    smooth_joints:     fill `TrackedPeople.smoothed`.
    min_cutoff_hz:     cut-off frequency at rest: lower is calmer.
    speed_coefficient: Hz for each size/s of a joint's speed: higher follows faster.
    max_lag_s:         the filter's time constant never exceeds this, so a joint at constant speed lags no longer.
    """

    high_score: float = 0.4
    confirm_hits: int = 3
    tentative_s: float = 0.4
    occluded_s: float = 1.5
    reentry_s: float = 4.0
    max_gap_s: float = 4.0
    max_backward_s: float = 0.1

    pose_gain: float = 5.0
    overlap_gain: float = 7.0
    motion_gain: float = 1.2
    appearance_gain: float = 3.0
    mask_share: float = 0.5
    min_evidence: float = -1.0
    max_mahalanobis: float = 5.0
    max_size_ratio: float = 2.0
    duplicate_oks: float = 0.5
    reentry_radius: float = 1.5

    joint_slack: float = 0.07
    position_noise: float = 0.05
    velocity_walk: float = 2.0
    initial_velocity: float = 2.0

    smooth_joints: bool = False
    min_cutoff_hz: float = 1.5
    speed_coefficient: float = 2.0
    max_lag_s: float = 0.1

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not math.isfinite(value) or (value < 0 and f.name not in _SIGNED):
                kind = "finite" if f.name in _SIGNED else "finite and not negative"
                raise ValueError(f"TrackerOptions.{f.name} must be {kind}, got {value}")
        for name in _FRACTIONS:
            if getattr(self, name) > 1:
                raise ValueError(f"TrackerOptions.{name} must lie in 0..1, got {getattr(self, name)}")
        for name in _POSITIVE:
            if getattr(self, name) == 0:
                raise ValueError(f"TrackerOptions.{name} must be above 0")
        if self.confirm_hits < 1 or self.confirm_hits != int(self.confirm_hits):
            raise ValueError(f"TrackerOptions.confirm_hits must be a whole number from 1, got {self.confirm_hits}")
        if self.max_size_ratio < 1:
            raise ValueError(f"TrackerOptions.max_size_ratio must be at least 1, got {self.max_size_ratio}")
        if self.reentry_s < self.occluded_s:
            raise ValueError(
                f"TrackerOptions.reentry_s ({self.reentry_s}) must not be below occluded_s ({self.occluded_s})"
            )
        if self.pose_gain + self.overlap_gain == 0:
            raise ValueError("one of TrackerOptions.pose_gain and overlap_gain must be above 0")


_SIGNED = ("min_evidence",)
_FRACTIONS = ("high_score", "mask_share", "duplicate_oks")
_POSITIVE = (
    "max_gap_s", "max_mahalanobis", "joint_slack", "position_noise", "velocity_walk", "initial_velocity",
    "min_cutoff_hz", "max_lag_s",
)  # fmt: skip
