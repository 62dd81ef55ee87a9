"""The tracker: people frame by frame in, the same people with lasting ids out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kdc_core.tracking import association
from kdc_core.tracking.detections import Detections
from kdc_core.tracking.options import TrackerOptions
from kdc_core.tracking.tracks import TrackTable
from kdc_core.tracking.types import FrameTracks, Track, TrackedPeople, TrackerCounts, TrackState
from kdc_core.types import People

MAX_ID = np.iinfo(np.int32).max


class Tracker:
    """Follows people through frames; feed it EVERY frame, the empty ones too.

    The only clock is the stamps given. Deterministic; not safe for use from several threads at once.

    counts: `TrackerCounts`, what has happened so far.
    """

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self.options = options or TrackerOptions()
        self.counts = TrackerCounts()
        self._table = TrackTable.empty()
        self._stamp_s: float | None = None
        self._next_id = 1

    @property
    def tracks(self) -> list[Track]:
        """Every live track, seen in the newest frame or predicted to its stamp, in the order of their ids."""
        if self._stamp_s is None:
            return []
        return sorted(self._table.as_tracks(self._stamp_s, self.options), key=lambda track: track.id)

    @property
    def unseen(self) -> list[Track]:
        """The OCCLUDED and LOST tracks alone, in the order of their ids."""
        if self._stamp_s is None:
            return []
        away = self._table.states >= TrackState.OCCLUDED
        if not away.any():
            return []
        tracks = self._table.take(away).as_tracks(self._stamp_s, self.options)
        return sorted(tracks, key=lambda track: track.id)

    def reset(self) -> None:
        """Forget everybody. Ids go on: none is given twice in the life of a tracker."""
        self._table = TrackTable.empty()
        self._stamp_s = None

    def update(self, people: People, stamp_s: float) -> TrackedPeople:
        """The people of the frame of `stamp_s` (seconds, any origin) with their ids.

        Raises ValueError on a stamp that is not finite; the tracker is then as before the call.
        """
        dt_s = self._advance(float(stamp_s))
        now_s = self._stamp_s
        assert now_s is not None
        options, table = self.options, self._table
        table.predict(dt_s, now_s, options)
        forgotten = now_s - table.seen_s > options.reentry_s
        if forgotten.any():
            table = table.take(~forgotten)
        detections = Detections.of(people)
        count = len(people)

        # row_of[i]: the row of person i in the table; twins carry the row of the person they repeat.
        row_of = np.full(count, -1, np.intp)
        better = association.repeated_detections(detections)
        duplicates = better >= 0
        if len(table) and count:
            self._follow(table, detections, row_of, duplicates, now_s)
            shadows = self._drop_shadows(table, detections, row_of, duplicates)
        else:
            shadows = np.zeros(0, np.intp)
        gone = self._take_back(table, detections, row_of, duplicates, now_s)

        fresh = np.flatnonzero((row_of < 0) & ~duplicates)
        if len(fresh):
            row_of[fresh] = len(table) + np.arange(len(fresh))
            table = table.join(TrackTable.new(detections, fresh, self._new_ids(len(fresh)), now_s, options))
        repeated = np.flatnonzero(better >= 0)
        row_of[repeated] = row_of[better[repeated]]

        result = self._result(people, detections, table, row_of, duplicates, now_s)
        seen = np.zeros(len(table), bool)
        seen[row_of] = True
        # TENTATIVE tracks whose person turned out to be somebody known.
        table.seen_s[gone] = table.seen_s[shadows] = -np.inf
        self._table = table.age(seen, now_s, options)
        self.counts.frames += 1
        self.counts.duplicates += int(duplicates.sum())
        return result

    def frame(self, people: People, stamp_s: float) -> FrameTracks:
        """`update`, with the people who are away, in the form in which it is published."""
        tracked = self.update(people, stamp_s)
        return FrameTracks.of(tracked, self.unseen)

    def _follow(
        self,
        table: TrackTable,
        detections: Detections,
        row_of: np.ndarray,
        duplicates: np.ndarray,
        now_s: float,
    ) -> None:
        """Match predicted tracks and detections in order of trust: sure people first, then the doubtful ones, then
        second sights of those found, then TENTATIVE tracks. Fills `row_of`, and `duplicates` for second sights."""
        options = self.options
        pairs = association.compare(table, detections, now_s, options)
        high = (detections.scores >= options.high_score) & ~duplicates
        tentative = table.states == TrackState.TENTATIVE
        # Whoever is missing for long may be anywhere near: `_take_back` looks for her, the motion says nothing.
        free = ~tentative & (now_s - table.seen_s <= options.occluded_s)

        def match(rows: np.ndarray, persons: np.ndarray) -> None:
            offered = rows[:, None] & persons[None]
            evidence = np.where(offered, pairs.evidence, -np.inf)
            found_rows, found = association.assign(evidence, options.min_evidence, pairs.sharpness)
            row_of[found] = found_rows
            free[found_rows] = tentative[found_rows] = False
            table.see(found_rows, detections, found, now_s, options)

        match(free | tentative, high)
        match(free, ~high & ~duplicates)
        self._mark_second_sights(table, detections, row_of, duplicates)
        match(tentative, (row_of < 0) & ~duplicates)
        self._mark_second_sights(table, detections, row_of, duplicates)

    def _mark_second_sights(
        self, table: TrackTable, detections: Detections, row_of: np.ndarray, duplicates: np.ndarray
    ) -> None:
        left = np.flatnonzero((row_of < 0) & ~duplicates)
        twin = association.seen_twice(table, row_of[row_of >= 0], detections, left, self.options)
        row_of[left[twin >= 0]] = twin[twin >= 0]
        duplicates[left[twin >= 0]] = True

    def _drop_shadows(
        self, table: TrackTable, detections: Detections, row_of: np.ndarray, duplicates: np.ndarray
    ) -> np.ndarray:
        """The rows of TENTATIVE tracks that have followed second sights of somebody else; changes `row_of`."""
        persons = np.flatnonzero(row_of >= 0)
        rows = row_of[persons]
        doubtful = (table.states[rows] == TrackState.TENTATIVE) & ~duplicates[persons]
        # Without joints two people in one box would look alike.
        doubtful &= detections.joint_scores[persons].sum(1) >= association.MIN_JOINT_WEIGHT
        if not doubtful.any() or len(rows) < 2:
            return np.zeros(0, np.intp)
        elders = list(rows[table.states[rows] != TrackState.TENTATIVE])
        shadows = []
        # The oldest first, so that nobody is taken for the second sight of a shadow.
        for i in np.flatnonzero(doubtful)[np.argsort(table.ids[rows[doubtful]])]:
            person = persons[i : i + 1]
            (twin,) = association.seen_twice(table, np.array(elders, np.intp), detections, person, self.options)
            if twin >= 0:
                row_of[row_of == rows[i]] = twin  # her own second sights come along
                duplicates[person] = True
                shadows.append(rows[i])
            else:
                elders.append(rows[i])
        return np.array(shadows, np.intp)

    def _take_back(
        self,
        table: TrackTable,
        detections: Detections,
        row_of: np.ndarray,
        duplicates: np.ndarray,
        now_s: float,
    ) -> np.ndarray:
        """Give missing tracks back to people who are new, or still TENTATIVE: changes `row_of`.

        Returns the rows of the TENTATIVE tracks that are given up for an older id.
        """
        options = self.options
        missing = table.states != TrackState.TENTATIVE
        missing[row_of[row_of >= 0]] = False
        unknown = row_of < 0
        unknown[~unknown] = table.states[row_of[~unknown]] == TrackState.TENTATIVE
        unknown &= (detections.scores >= options.high_score) & ~duplicates
        rows, persons = association.reentry_pairs(
            table, np.flatnonzero(missing), detections, np.flatnonzero(unknown), now_s, options
        )
        gone = row_of[persons]
        for row, given_up in zip(rows[gone >= 0], gone[gone >= 0]):
            row_of[row_of == given_up] = row  # her second sights come along
        row_of[persons] = rows
        table.see(rows, detections, persons, now_s, options, restart_motion=True)
        self.counts.reentries += len(rows)
        return gone[gone >= 0]

    def _result(
        self,
        people: People,
        detections: Detections,
        table: TrackTable,
        row_of: np.ndarray,
        duplicates: np.ndarray,
        now_s: float,
    ) -> TrackedPeople:
        smoothed = None
        if self.options.smooth_joints:
            xy = people.keypoints_xy.copy()
            first = np.flatnonzero(~duplicates)
            found = detections.joint_scores[first] > 0
            rows = row_of[first]
            smooth = table.smoother.update(
                rows, detections.xy[first], detections.joint_scores[first], table.sizes_px()[rows], now_s, self.options
            )
            xy[first] = np.where(found[..., None], smooth, xy[first])
            smoothed = replace(people, keypoints_xy=xy)
        return TrackedPeople(
            people=people,
            ids=table.ids[row_of],
            states=table.states[row_of],
            ages_s=(now_s - table.born_s[row_of]).astype(np.float32),
            velocities_xy=table.velocities_xy(self.options)[row_of].astype(np.float32),
            duplicates=duplicates,
            smoothed=smoothed,
        )

    def _advance(self, stamp_s: float) -> float:
        """Move the clock to a frame's stamp; seconds since the last frame. Restarts the tracks on a time jump."""
        if not math.isfinite(stamp_s):
            raise ValueError(f"a frame's stamp must be a finite number of seconds, got {stamp_s}")
        if self._stamp_s is None:
            self._stamp_s = stamp_s
            return 0.0
        dt_s = stamp_s - self._stamp_s
        if dt_s < -self.options.max_backward_s or dt_s > self.options.max_gap_s:
            if dt_s < 0:
                self.counts.backward_jumps += 1
            else:
                self.counts.gaps += 1
            self.reset()
            self._stamp_s = stamp_s
            return 0.0
        if dt_s == 0:
            self.counts.same_stamps += 1
        elif dt_s < 0:
            self.counts.late_stamps += 1
        self._stamp_s = max(self._stamp_s, stamp_s)
        return max(dt_s, 0.0)

    def _new_ids(self, count: int) -> np.ndarray:
        if self._next_id + count - 1 > MAX_ID:
            raise OverflowError(f"all {MAX_ID} track ids are used up; make a new Tracker")
        ids = np.arange(self._next_id, self._next_id + count, dtype=np.int64)
        self._next_id += count
        self.counts.tracks += count
        return ids
