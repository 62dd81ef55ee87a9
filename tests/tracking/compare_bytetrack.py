"""Ids by this tracker and by ByteTrack-style box trackers on the same made detections, scored by TrackEval.

    pip install trackeval trackers "supervision==0.27.0"
    python -m tests.tracking.compare_bytetrack [--seeds 10] [--first-seed 100]

Prints the tables of docs/tracking.md. Trackers compared:
- ByteTrackTracker of `trackers` (Roboflow), fed with the true stamps; once with its own thresholds, once with
  thresholds that fit these detections' scores and this tracker's memory ("tuned");
- ByteTrack of `supervision`, which counts frames, with the same thresholds as "tuned";
- OCSORTTracker of `trackers`, tuned alike, as a stronger peer.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import numpy as np

from kdc_core.tracking import Tracker, TrackerOptions, TrackState
from tests.tracking.scoring import by_box, by_source, record, trackeval_scores
from tests.tracking.sequences import Frame, Scene, crossing_scenes, other_scenes
from tests.tracking.walkers import IMAGE_HW

Answer = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Runner = Callable[[list[Frame]], list[Answer]]
"""Frames -> for each frame: ids (N,) of the detections, published bool (N,), and the ids (P,) and boxes (P, 4) of
people the tracker predicts without having seen them in this frame."""


def run_kdc(frames: list[Frame], options: TrackerOptions | None = None) -> list[Answer]:
    tracker = Tracker(options)
    answers = []
    for frame in frames:
        tracked = tracker.update(frame.people, frame.stamp_s)
        hidden = [t for t in tracker.tracks if t.state == TrackState.OCCLUDED]
        answers.append(
            (
                tracked.ids,
                (tracked.states == TrackState.TRACKED) & ~tracked.duplicates,
                np.array([t.id for t in hidden], int),
                np.array([t.box_xyxy for t in hidden]).reshape(-1, 4),
            )
        )
    return answers


def run_trackers(name: str, **options: float) -> Runner:
    import supervision
    import trackers

    def run(frames: list[Frame]) -> list[Answer]:
        tracker = getattr(trackers, name)(**options)
        answers = []
        for frame in frames:
            found = tracker.update(_detections(supervision, frame), timestamp=frame.stamp_s)
            ids = np.full(len(frame.people), -1)
            if len(found):
                ids[found.data["index"]] = found.tracker_id
            hidden = [t for t in tracker.tracks if t.tracker_id >= 0 and t.tracker_id not in ids]
            boxes = np.array([t.get_state_bbox() for t in hidden]).reshape(-1, 4)
            answers.append((ids, ids >= 0, np.array([t.tracker_id for t in hidden], int), boxes))
        return answers

    return run


def run_supervision(**options: float) -> Runner:
    import supervision

    def run(frames: list[Frame]) -> list[Answer]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its own retirement
            tracker = supervision.ByteTrack(**options)
        answers = []
        for frame in frames:
            found = tracker.update_with_detections(_detections(supervision, frame))
            ids = np.full(len(frame.people), -1)
            if len(found):
                ids[found.data["index"]] = found.tracker_id
            hidden = [t for t in tracker.lost_tracks if t.external_track_id >= 0]
            boxes = np.array([t.tlbr for t in hidden]).reshape(-1, 4)
            answers.append((ids, ids >= 0, np.array([t.external_track_id for t in hidden], int), boxes))
        return answers

    return run


def _detections(supervision, frame: Frame):
    return supervision.Detections(
        xyxy=frame.people.boxes_xyxy.astype(float),
        confidence=frame.people.scores.astype(float),
        class_id=np.zeros(len(frame.people), int),
        data={"index": np.arange(len(frame.people))},
    )


def evaluate(frames: list[Frame], answers: list[Answer]) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of the ids of detections, and of everybody in view with the predicted people counted too."""
    sources = record(by_source(f.sources, a[0], a[1]) for f, a in zip(frames, answers))
    everybody = []
    for frame, (ids, published, hidden_ids, hidden_boxes) in zip(frames, answers):
        centre = (hidden_boxes[:, :2] + hidden_boxes[:, 2:]) / 2
        inside = ((centre >= 0) & (centre < IMAGE_HW[::-1])).all(1)
        everybody.append(
            by_box(
                frame.truth_ids,
                frame.truth_boxes,
                np.concatenate([ids[published], hidden_ids[inside]]),
                np.concatenate([frame.people.boxes_xyxy[published], hidden_boxes[inside]]),
            )
        )
    return trackeval_scores(sources), trackeval_scores(record(everybody))


def runners() -> dict[str, Runner]:
    own = TrackerOptions()
    tuned = {"track_activation_threshold": 0.45, "high_conf_det_threshold": own.high_score}
    buffer = {"lost_track_buffer": round(30 * own.reentry_s)}
    return {
        "kdc": run_kdc,
        "ByteTrack, own thresholds": run_trackers("ByteTrackTracker"),
        "ByteTrack, tuned": run_trackers("ByteTrackTracker", **tuned, **buffer),
        "ByteTrack (supervision)": run_supervision(
            track_activation_threshold=own.high_score, lost_track_buffer=30 * own.reentry_s, frame_rate=30
        ),
        "OC-SORT": run_trackers("OCSORTTracker", high_conf_det_threshold=own.high_score, **buffer),
    }


def table(title: str, scenes: list[Scene], seeds: range, methods: dict[str, Runner]) -> None:
    """Print one Markdown table: id switches summed over the seeds, the rest averaged."""
    print(f"\n{title}\n")
    heads = ("switches", "IDF1", "HOTA", "MOTA", "IDF1 all", "HOTA all", "MOTA all")
    print("| scene | tracker | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 2))
    totals = {name: [] for name in methods}
    for scene in scenes:
        sequences = [list(scene.frames(seed)) for seed in seeds]
        for name, run in methods.items():
            rows = []
            for frames in sequences:
                ids, everybody = evaluate(frames, run(frames))
                rows.append(
                    [ids[k] for k in ("IDSW", "IDF1", "HOTA", "MOTA")]
                    + [everybody[k] for k in ("IDF1", "HOTA", "MOTA")]
                )
            totals[name].append(np.array(rows))
            _line(scene.name, name, np.array(rows))
    for name in methods:
        _line("**all**", name, np.concatenate(totals[name]))


def _line(scene: str, name: str, rows: np.ndarray) -> None:
    figures = " | ".join(f"{x:.3f}" for x in rows[:, 1:].mean(0))
    print(f"| {scene} | {name} | {rows[:, 0].sum():.0f} | {figures} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each scene with different noise")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--only", help="part of the tracker's name")
    arguments = parser.parse_args()
    methods = {n: r for n, r in runners().items() if not arguments.only or arguments.only in n}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    table("Crossing scenes, every visible person detected", crossing_scenes(), seeds, methods)
    table("Crossing scenes, 10 % missed, 0.2 ghosts a frame", crossing_scenes(0.1, 0.2), seeds, methods)
    table("Other scenes, 10 % missed, 0.2 ghosts a frame", other_scenes(0.1, 0.2), seeds, methods)


if __name__ == "__main__":
    main()
