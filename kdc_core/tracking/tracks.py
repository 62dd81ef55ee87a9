"""The tracks as one table: a row for each, a struct of arrays, so that a frame costs a few numpy calls.

Joints, box and size are kept in the body's frame, as (place - position) / scale of the Kalman filter (see `motion`),
and follow it when it is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kdc_core.appearance import SIZE
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.tracking import motion
from kdc_core.tracking.detections import Detections, body_sizes_px
from kdc_core.tracking.options import TrackerOptions
from kdc_core.tracking.similarity import GRID_POINTS, box_centres_xy
from kdc_core.tracking.smoothing import JointFilter
from kdc_core.tracking.types import Track, TrackState

MEMORY_S = 1.0  # time constant with which an unseen joint's score fades and a body size shrinks
LOOKS_S = 1.0  # time constant with which a person's colours are learned anew
UNSEEN_JOINT = 0.8  # factor on a joint's score for each sighting of the person without it
Rows = np.ndarray | slice  # of the table
ALL = slice(None)
LOG_SCALE_LIMITS = (0.0, 14.0)  # of the filter's scale in log(px): nothing sensible lies outside


@dataclass
class TrackTable:
    """T tracks. All arrays have T rows.

    ids int32; states int8; born_s, seen_s: stamps of the first and the last sighting; hits: confident sightings;
    scores: of the last sighting; mean (T, 3, 2), covariance (T, 3, 3): see `motion`.
    body_joints (T, K, 2), joint_scores (T, K), body_boxes (T, 4), body_sizes (T,): in the body's frame.
    grids bool (T, GRID_POINTS): the mask in the box, has_mask (T,).
    looks (T, D): the colours lately, of length 1; zeros where nothing is known of them.
    left_xy (T, 2): px, the box centre at the last sighting. smoother: see `smoothing`.
    """

    ids: np.ndarray
    states: np.ndarray
    born_s: np.ndarray
    seen_s: np.ndarray
    hits: np.ndarray
    scores: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    body_joints: np.ndarray
    joint_scores: np.ndarray
    body_boxes: np.ndarray
    body_sizes: np.ndarray
    grids: np.ndarray
    has_mask: np.ndarray
    looks: np.ndarray
    left_xy: np.ndarray
    smoother: JointFilter

    @classmethod
    def new(
        cls,
        detections: Detections,
        persons: np.ndarray,
        ids: np.ndarray,
        stamp_s: float,
        options: TrackerOptions,
    ) -> TrackTable:
        """TENTATIVE tracks `ids` (M,) of detections `persons` (M,)."""
        count = len(persons)
        boxes, sizes = detections.boxes[persons], detections.sizes[persons]
        centres = box_centres_xy(boxes)
        mean, covariance = motion.new_motion(centres, sizes, options.position_noise, options.initial_velocity)
        has_mask = detections.grids is not None
        return cls(
            ids=ids.astype(np.int32),
            states=np.full(count, TrackState.TENTATIVE, np.int8),
            born_s=np.full(count, stamp_s),
            seen_s=np.full(count, stamp_s),
            hits=(detections.scores[persons] >= options.high_score).astype(np.int64),
            scores=detections.scores[persons],
            mean=mean,
            covariance=covariance,
            body_joints=(detections.xy[persons] - centres[:, None]) / sizes[:, None, None],
            joint_scores=detections.joint_scores[persons],
            body_boxes=(boxes - np.tile(centres, 2)) / sizes[:, None],
            body_sizes=np.ones(count),
            grids=detections.grids[persons] if detections.grids is not None else np.zeros((count, GRID_POINTS), bool),
            has_mask=np.full(count, has_mask),
            looks=detections.looks[persons],
            left_xy=centres,
            smoother=JointFilter.new(detections.xy[persons], detections.joint_scores[persons], stamp_s),
        )

    @classmethod
    def empty(cls) -> TrackTable:
        nobody = Detections(
            xy=np.zeros((0, NUM_KEYPOINTS, 2)),
            joint_scores=np.zeros((0, NUM_KEYPOINTS)),
            scores=np.zeros(0),
            boxes=np.zeros((0, 4)),
            sizes=np.zeros(0),
            labels=None,
            grids=None,
            looks=np.zeros((0, SIZE)),
        )
        return cls.new(nobody, np.zeros(0, np.intp), np.zeros(0), 0.0, TrackerOptions())

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> TrackTable:
        """The tracks of `rows` (indices or bool (T,))."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        taken: dict[str, Any] = {n: v.take(rows) if isinstance(v, JointFilter) else v[rows] for n, v in values}
        return TrackTable(**taken)

    def join(self, other: TrackTable) -> TrackTable:
        joined = {
            f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)])
            for f in fields(self)
            if f.name != "smoother"
        }
        return TrackTable(**joined, smoother=self.smoother.join(other.smoother))

    # What follows is asked of all tracks, or of some rows of the table.

    def scales(self, rows: Rows = ALL) -> np.ndarray:
        """Pixels for each unit of the body's frame, (T,)."""
        return np.exp(self.mean[rows, 2, 0])

    def positions_xy(self, rows: Rows = ALL) -> np.ndarray:
        return self.mean[rows, :2, 0]

    def joints_xy(self, rows: Rows = ALL) -> np.ndarray:
        """(T, K, 2) px."""
        return self.positions_xy(rows)[:, None] + self.body_joints[rows] * self.scales(rows)[:, None, None]

    def boxes(self, rows: Rows = ALL) -> np.ndarray:
        """(T, 4) px."""
        position = self.positions_xy(rows)
        return np.concatenate([position, position], axis=1) + self.body_boxes[rows] * self.scales(rows)[:, None]

    def sizes_px(self, rows: Rows = ALL) -> np.ndarray:
        return self.body_sizes[rows] * self.scales(rows)

    def velocities_xy(self, options: TrackerOptions) -> np.ndarray:
        """(T, 2) px/s; NaN where it is known no better than that of somebody never seen, and of LOST tracks."""
        sigma = np.sqrt(self.covariance[:, :2, 2].max(1))
        unknown = sigma > 0.99 * options.initial_velocity * self.sizes_px()
        unknown |= self.states == TrackState.LOST
        return np.where(unknown[:, None], np.nan, self.mean[:, :2, 1])

    def place_variance(self) -> np.ndarray:
        """(T,), px^2, mean of both axes."""
        return self.covariance[:, :2, 0].mean(1)

    def predict(self, dt_s: float, now_s: float, options: TrackerOptions) -> None:
        """Move on by `dt_s`, to `now_s`. LOST tracks stay where they are, for nobody knows their way any longer.

        Nor does a gap between two frames carry anybody further than `occluded_s` would.
        """
        left_s = options.occluded_s - (now_s - dt_s - self.seen_s)
        moving_s = np.where(self.states == TrackState.LOST, 0.0, np.clip(left_s, 0.0, dt_s))
        self.mean, self.covariance = motion.predict(
            self.mean, self.covariance, self.sizes_px(), dt_s, options.velocity_walk, moving_s
        )
        np.clip(self.mean[:, 2, 0], *LOG_SCALE_LIMITS, out=self.mean[:, 2, 0])

    def see(
        self,
        rows: np.ndarray,
        detections: Detections,
        persons: np.ndarray,
        stamp_s: float,
        options: TrackerOptions,
        restart_motion: bool = False,
    ) -> None:
        """Tracks `rows` (M,) are detections `persons` (M,). With `restart_motion` the velocity is unknown again."""
        if len(rows) == 0:
            return
        xy, scores = detections.xy[persons], detections.joint_scores[persons]
        boxes = detections.boxes[persons]
        if restart_motion:
            self.mean[rows], self.covariance[rows] = motion.new_motion(
                box_centres_xy(boxes), detections.sizes[persons], options.position_noise, options.initial_velocity
            )
        else:
            innovation, noise = motion.body_motion(
                self.joints_xy(rows), self.joint_scores[rows], xy, scores, self.boxes(rows), boxes,
                options.position_noise * self.sizes_px(rows),
            )  # fmt: skip
            self.mean[rows], self.covariance[rows] = motion.correct(
                self.mean[rows], self.covariance[rows], innovation, noise
            )
            np.clip(self.mean[:, 2, 0], *LOG_SCALE_LIMITS, out=self.mean[:, 2, 0])

        position, scale = self.mean[rows, :2, 0], np.exp(self.mean[rows, 2, 0])
        fade = np.exp(-(stamp_s - self.seen_s[rows]) / MEMORY_S)
        seen = scores > 0
        body_joints = (xy - position[:, None]) / scale[:, None, None]
        self.body_joints[rows] = np.where(seen[..., None], body_joints, self.body_joints[rows])
        # After a restart the old places of unseen joints mean nothing: the body's frame has moved.
        memory = np.zeros_like(fade) if restart_motion else fade
        self.joint_scores[rows] = np.where(seen, scores, self.joint_scores[rows] * UNSEEN_JOINT * memory[:, None])
        self.body_boxes[rows] = (boxes - np.concatenate([position, position], axis=1)) / scale[:, None]
        # A box shrinks at once when a person is half hidden; the person does not.
        size = body_sizes_px(boxes) / scale
        known = size if restart_motion else np.maximum(size, self.body_sizes[rows] * fade + size * (1 - fade))
        self.body_sizes[rows] = known
        self.has_mask[rows] = detections.grids is not None
        if detections.grids is not None:
            self.grids[rows] = detections.grids[persons]
        self._see_looks(rows, detections.looks[persons], stamp_s)
        self.left_xy[rows] = box_centres_xy(boxes)
        self.scores[rows] = detections.scores[persons]
        # The same picture once more is no further sighting.
        self.hits[rows] += (detections.scores[persons] >= options.high_score) & (stamp_s > self.seen_s[rows])
        self.seen_s[rows] = stamp_s
        confirmed = (self.hits[rows] >= options.confirm_hits) | (self.states[rows] != TrackState.TENTATIVE)
        self.states[rows] = np.where(confirmed, TrackState.TRACKED, TrackState.TENTATIVE)

    def _see_looks(self, rows: np.ndarray, looks: np.ndarray, stamp_s: float) -> None:
        """Colours change slowly: a mask that takes in somebody in front for a moment must not repaint a person."""
        known = self.looks[rows].any(1)
        share = np.where(known, 1 - np.exp(-(stamp_s - self.seen_s[rows]) / LOOKS_S), 1.0) * looks.any(1)
        mixed = self.looks[rows] + share[:, None] * (looks - self.looks[rows])
        self.looks[rows] = mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9)

    def age(self, seen: np.ndarray, stamp_s: float, options: TrackerOptions) -> TrackTable:
        """The tracks still alive after a frame in which `seen` (bool (T,)) were found."""
        unseen_s = stamp_s - self.seen_s
        confirmed = self.states != TrackState.TENTATIVE
        missed = confirmed & ~seen
        self.states[missed & (unseen_s <= options.occluded_s)] = TrackState.OCCLUDED
        lost = missed & (unseen_s > options.occluded_s)
        self.states[lost] = TrackState.LOST
        self.mean[lost, :, 1] = 0.0
        limit = np.where(confirmed, options.reentry_s, options.tentative_s)
        # Where the stamps stand still, nothing would ever be old enough to go.
        keep = seen | ((unseen_s <= limit) & (confirmed | (unseen_s > 0)))
        return self if keep.all() else self.take(keep)

    def as_tracks(self, stamp_s: float, options: TrackerOptions) -> list[Track]:
        boxes, joints = self.boxes().astype(np.float32), self.joints_xy().astype(np.float32)
        velocities = self.velocities_xy(options).astype(np.float32)
        return [
            Track(
                id=int(self.ids[i]),
                state=TrackState(self.states[i]),
                age_s=float(stamp_s - self.born_s[i]),
                unseen_s=float(stamp_s - self.seen_s[i]),
                score=float(self.scores[i]),
                box_xyxy=boxes[i],
                keypoints_xy=joints[i],
                keypoint_scores=self.joint_scores[i].astype(np.float32),
                velocity_xy=velocities[i],
            )
            for i in range(len(self))
        ]
