"""What the tracker hands out: ids and motion beside the `People` of a frame, and the tracks behind them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from kdc_core.types import People


class TrackState(IntEnum):
    """Where a track stands; 0 is left for whoever is not tracked.

    TENTATIVE: seen too seldom to be trusted; its id is already the final one.
    TRACKED:   seen in the newest frame.
    OCCLUDED:  missed lately; its place is a prediction that moves on with it.
    LOST:      missed for longer; it waits where it was predicted last and keeps the id for a re-entry.
    """

    TENTATIVE = 1
    TRACKED = 2
    OCCLUDED = 3
    LOST = 4


@dataclass(frozen=True, eq=False)
class TrackedPeople:
    """The people of one frame with their identities; index i is person i of `people` everywhere. N persons.

    people:        the `People` that were given.
    ids:           int32 (N,), above 0, for everybody. Unique in the frame but for duplicates.
    states:        int8 (N,), TrackState of each: TENTATIVE or TRACKED, for these were seen just now.
    ages_s:        float32 (N,), seconds of stamps since the first sighting of this id.
    velocities_xy: float32 (N, 2), pixels per second of the source image; NaN while nothing is known about it, as after
                   a first sighting.
    duplicates:    bool (N,), True for a second, weaker detection of a person who is in the frame already: it
                   carries that person's id. Drop these to have every person once.
    smoothed:      `people` with smoothed keypoints_xy, or None where the option is off.
    """

    people: People
    ids: np.ndarray
    states: np.ndarray
    ages_s: np.ndarray
    velocities_xy: np.ndarray
    duplicates: np.ndarray
    smoothed: People | None = None

    def __post_init__(self) -> None:
        n = len(self.people)
        for name, dtype, shape in (
            ("ids", np.int32, (n,)),
            ("states", np.int8, (n,)),
            ("ages_s", np.float32, (n,)),
            ("velocities_xy", np.float32, (n, 2)),
            ("duplicates", np.bool_, (n,)),
        ):
            value = getattr(self, name)
            if value.dtype != dtype or value.shape != shape:
                raise ValueError(
                    f"TrackedPeople.{name} must be {np.dtype(dtype)} {shape}, got {value.dtype} {value.shape}"
                )

    def __len__(self) -> int:
        return len(self.people)


@dataclass(frozen=True, eq=False)
class Track:
    """One track as the tracker holds it after the newest frame: seen there, or predicted to that frame's stamp.

    id:              above 0.
    state:           TrackState.
    age_s:           seconds since the first sighting.
    unseen_s:        seconds since the last sighting; 0 = seen in the newest frame.
    score:           score of the last sighting.
    box_xyxy:        float32 (4,), source pixels.
    keypoints_xy:    float32 (K, 2), source pixels; meaningless where the score is 0.
    keypoint_scores: float32 (K,), of the last sighting of each joint, fading while it is not seen.
    velocity_xy:     float32 (2,), pixels per second; NaN while nothing is known about it, as after a first sighting.
    """

    id: int
    state: TrackState
    age_s: float
    unseen_s: float
    score: float
    box_xyxy: np.ndarray
    keypoints_xy: np.ndarray
    keypoint_scores: np.ndarray
    velocity_xy: np.ndarray


@dataclass(frozen=True, eq=False)
class FrameTracks:
    """The identities of a frame's N people, in the form in which they are published; 0 stands for "not tracked".

    ids:           int32 (N,), each but 0 at most once.
    states:        uint8 (N,), TrackState, or 0.
    ages_s:        float32 (N,), seconds since the first sighting.
    velocities_xy: float32 (N, 2), pixels per second of the source image, NaN where unknown.
    unseen:        OCCLUDED and LOST tracks, whom nobody of the frame is, in the order of their ids.
    """

    ids: np.ndarray
    states: np.ndarray
    ages_s: np.ndarray
    velocities_xy: np.ndarray
    unseen: tuple[Track, ...] = ()

    @classmethod
    def untracked(cls, count: int) -> FrameTracks:
        """`count` people without identities."""
        return cls(
            ids=np.zeros(count, np.int32),
            states=np.zeros(count, np.uint8),
            ages_s=np.zeros(count, np.float32),
            velocities_xy=np.full((count, 2), np.nan, np.float32),
        )

    @classmethod
    def of(cls, tracked: TrackedPeople, tracks: Iterable[Track]) -> FrameTracks:
        """What `Tracker.update` returned and `Tracker.tracks` after it. A second, weaker detection of somebody who is
        in the frame counts as not tracked."""
        once = ~tracked.duplicates
        return cls(
            ids=np.where(once, tracked.ids, np.int32(0)),
            states=np.where(once, tracked.states, 0).astype(np.uint8),
            ages_s=np.where(once, tracked.ages_s, np.float32(0)),
            velocities_xy=np.where(once[:, None], tracked.velocities_xy, np.float32(np.nan)),
            unseen=tuple(track for track in tracks if track.state in (TrackState.OCCLUDED, TrackState.LOST)),
        )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class TrackerCounts:
    """What has happened since the tracker was made; `Tracker.reset` leaves it as it is.

    frames:           updates.
    tracks:           ids given out.
    reentries:        tracks found again by the re-entry rule rather than by following.
    duplicates:       detections that were second sights of a person.
    same_stamps:      frames with the stamp of the one before.
    late_stamps:      frames a little older than the one before, taken as simultaneous.
    backward_jumps:   restarts because the stamps jumped back.
    gaps:             restarts because the stamps jumped forward beyond the limit.
    """

    frames: int = 0
    tracks: int = 0
    reentries: int = 0
    duplicates: int = 0
    same_stamps: int = 0
    late_stamps: int = 0
    backward_jumps: int = 0
    gaps: int = 0
