"""Trackers side by side on the same detections: ours, and box trackers of the public package `trackers` (Roboflow).

A `Runner` takes the frames of a made scene and answers with ids. The peers see the boxes and scores of the same
detections, and the true stamps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdc_core.tracking import Tracker, TrackerOptions, TrackState
from kdc_replay.scenes.sequences import Frame

INSTALL_HINT = "pip install supervision rich && pip install --no-deps trackers"


@dataclass(frozen=True)
class Answer:
    """What a tracker says of one frame with N detections.

    ids:             int (N,), of the detections; below 1 where the tracker does not stand by one.
    predicted_ids:   int (P,), and predicted_boxes float (P, 4): people it follows without having seen them here.
    """

    ids: np.ndarray
    predicted_ids: np.ndarray
    predicted_boxes: np.ndarray


Runner = Callable[[Sequence[Frame]], list[Answer]]


def run_kdc(frames: Sequence[Frame], options: TrackerOptions | None = None) -> list[Answer]:
    """This package's tracker. It stands by TRACKED people, and predicts OCCLUDED ones."""
    tracker = Tracker(options)
    answers = []
    for frame in frames:
        tracks = tracker.frame(frame.people, frame.stamp_s)
        hidden = [track for track in tracks.unseen if track.state == TrackState.OCCLUDED]
        answers.append(
            Answer(
                ids=np.where(tracks.states == TrackState.TRACKED, tracks.ids, 0),
                predicted_ids=np.array([track.id for track in hidden], int),
                predicted_boxes=np.array([track.box_xyxy for track in hidden], float).reshape(-1, 4),
            )
        )
    return answers


def run_peer(name: str, **options: float) -> Runner:
    """A tracker of the package `trackers`, by its class's name. Raises ImportError where that is not installed."""
    try:
        import supervision
        import trackers
    except ImportError as error:
        raise ImportError(f"the comparison needs the package trackers: {INSTALL_HINT}") from error
    kind = getattr(trackers, name)

    def run(frames: Sequence[Frame]) -> list[Answer]:
        tracker: Any = kind(**options)
        answers = []
        for frame in frames:
            count = len(frame.people)
            found = tracker.update(
                supervision.Detections(
                    xyxy=frame.people.boxes_xyxy.astype(float),
                    confidence=frame.people.scores.astype(float),
                    class_id=np.zeros(count, int),
                    data={"index": np.arange(count)},
                ),
                timestamp=frame.stamp_s,
            )
            ids = np.zeros(count, int)
            if len(found):
                ids[found.data["index"]] = found.tracker_id + 1  # theirs start at 0
            hidden = [t for t in tracker.tracks if t.tracker_id >= 0 and t.tracker_id + 1 not in ids]
            answers.append(
                Answer(
                    ids=ids,
                    predicted_ids=np.array([t.tracker_id + 1 for t in hidden], int),
                    predicted_boxes=np.array([t.get_state_bbox() for t in hidden], float).reshape(-1, 4),
                )
            )
        return answers

    return run


def all_runners() -> dict[str, Runner]:
    """Ours first; ByteTrack as its package sets it up, and with thresholds that fit the scores of these detections and
    a memory as long as ours (`tuned`); OC-SORT, tuned alike, as a stronger peer."""
    own = TrackerOptions()
    memory = {"lost_track_buffer": round(30 * own.reentry_s)}  # frames at 30 Hz
    return {
        "kdc": run_kdc,
        "ByteTrack": run_peer("ByteTrackTracker"),
        "ByteTrack, tuned": run_peer(
            "ByteTrackTracker",
            track_activation_threshold=own.high_score,
            high_conf_det_threshold=own.high_score,
            **memory,
        ),
        "OC-SORT, tuned": run_peer("OCSORTTracker", high_conf_det_threshold=own.high_score, **memory),
    }
