"""A run against the bag's annotations: COCO's scores, tracking scores, and every frame by itself."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdc_core.coco_scores import (
    AnnotatedImage,
    CocoScores,
    PersonPixels,
    complete_annotation,
    score_keypoints,
    score_masks,
)
from kdc_replay.annotations import ReplayAnnotationError
from kdc_replay.frame_scores import FOUND_SIMILARITY, FrameScore, not_ignored, overlap_matrix, score_frame
from kdc_replay.run_folder import METRICS_NAME, write_json
from kdc_replay.run_reader import Run, RunFrame
from kdc_replay.track_scores import score_ids

# Rows of COCO's ten thresholds, .50:.05:.95.
_AT_50, _AT_75 = 0, 5


class ScoringError(RuntimeError):
    """The scores cannot be computed on this machine; the message says what is missing."""


def write_metrics(run: Run, truth: Mapping[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Score a run, write its metrics.json and return it. Raises as `score_run` does."""
    metrics = score_run(run, truth)
    write_json(run.folder / METRICS_NAME, metrics)
    return metrics


def score_run(run: Run, truth: Mapping[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """The scores of a run (see `evaluate_frames`); writes nothing.

    Raises ReplayAnnotationError where a mask is of another size than its frame, ScoringError without TrackEval.
    """
    for frame in run.frames:
        for annotation in truth.get(frame.index, []):
            _check_size(annotation, frame)
    return evaluate_frames(run.frames, truth)


def _check_size(annotation: dict[str, Any], frame: RunFrame) -> None:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and tuple(segmentation["size"]) != frame.image_hw:
        height, width = frame.image_hw
        rows, columns = segmentation["size"]
        raise ReplayAnnotationError(
            f"an annotated mask has {columns} x {rows} pixels, but its frame {frame.index} has {width} x {height}"
        )


def evaluate_frames(
    frames: Sequence[RunFrame], truth: Mapping[int, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Scores of a run's frames against COCO annotations, a list for each annotated frame by the frame's index.

    Frames without an entry are not scored; an empty list says that nobody is there. Returns, ready for JSON:
      frames_annotated   number of frames scored; frames the run's number of frames
      keypoints, segm    COCO's metrics, -1 where nothing is annotated
      person_iou         of all person pixels, -1 without any
      tracking           `TrackScores`, None without track ids in the annotations
      tracking_similarity  "mask", or "box" where masks are missing
      curves             precision over recall at OKS / IoU 0.50, 0.75 and on average, for keypoints and segm
      found_scores       scores of the people who are in the annotations; false_scores: of those who are not
      per_frame          one entry for each annotated frame: index, persons, found, missed, false_people, oks,
                         mask_iou, id_changes, and the boxes missed_xywh and false_xyxy
      id_changes         where an annotated person's id changed: index, truth_id, before, after
    """
    # Numbered anew: a bag's annotations know nothing of our frames, and COCO's tools take an id of 0 for nobody.
    numbers = itertools.count(1)
    scored = [
        (
            frame,
            [
                {**complete_annotation(a), "id": next(numbers), "image_id": frame.index}
                for a in truth[frame.index]
            ],
        )
        for frame in frames
        if frame.index in truth
    ]
    images = [AnnotatedImage(f.index, f.image_hw, annotations) for f, annotations in scored]
    results = [entry for frame, _ in scored for entry in frame.coco_results(frame.index)]
    keypoints, segm = score_keypoints(images, results), score_masks(images, results)
    pixels = PersonPixels()
    for (frame, _), image in zip(scored, images):
        pixels.add(frame.people(), image)
    scores = [score_frame(frame, annotations) for frame, annotations in scored]
    changes = _id_changes(scores, [frame for frame, _ in scored])
    tracking, similarity = _tracking(scored)
    found, false = _person_scores(scores, [frame for frame, _ in scored])
    return {
        "frames": len(frames),
        "frames_annotated": len(scored),
        "keypoints": keypoints.metrics,
        "segm": segm.metrics,
        "person_iou": pixels.iou(),
        "tracking": tracking,
        "tracking_similarity": similarity,
        "curves": {"keypoints": _curves(keypoints), "segm": _curves(segm)},
        "found_scores": found,
        "false_scores": false,
        "per_frame": [_frame_entry(*entry, changes) for entry in zip(scores, scored)],
        "id_changes": changes,
    }


def _frame_entry(
    score: FrameScore, scored: tuple[RunFrame, list[dict[str, Any]]], changes: list[dict[str, int]]
) -> dict[str, Any]:
    frame, annotations = scored
    asked = [a for a in annotations if not a["iscrowd"]]
    return {
        "index": score.index,
        "persons": len(score.persons),
        "found": len(score.persons) - score.missed,
        "missed": score.missed,
        "false_people": len(score.false_people),
        "oks": _rounded(score.oks),
        "mask_iou": _rounded(score.mask_iou),
        "id_changes": sum(change["index"] == score.index for change in changes),
        "missed_xywh": [a["bbox"] for a, p in zip(asked, score.persons) if p.person is None],
        "false_xyxy": [frame.boxes_xyxy[i].astype(float).tolist() for i in score.false_people],
    }


def _curves(scores: CocoScores) -> dict[str, list[float]] | None:
    """Precision at recall 0:.01:1; None where nothing is annotated."""
    if scores.metrics["AP"] < 0:
        return None
    lines = {
        "0.50": scores.precision[_AT_50],
        "0.75": scores.precision[_AT_75],
        "mean": scores.precision.mean(0),
    }
    return {name: line.round(4).tolist() for name, line in lines.items()}


def _person_scores(scores: list[FrameScore], frames: list[RunFrame]) -> tuple[list[float], list[float]]:
    """Scores of the people found where somebody is, and where nobody is."""
    found: list[float] = []
    false: list[float] = []
    for score, frame in zip(scores, frames):
        found += [float(frame.scores[p.person]) for p in score.persons if p.person is not None]
        false += [float(frame.scores[i]) for i in score.false_people]
    return found, false


def _id_changes(scores: list[FrameScore], frames: list[RunFrame]) -> list[dict[str, int]]:
    """Where an annotated person carries another id than when it was found last; an id of 0 says nothing."""
    last: dict[int, int] = {}
    changes = []
    for score, frame in zip(scores, frames):
        for person in score.persons:
            if person.truth_id is None or person.person is None:
                continue
            now = int(frame.ids[person.person])
            if now == 0:
                continue
            before = last.get(person.truth_id)
            if before is not None and before != now:
                changes.append(
                    {"index": score.index, "truth_id": person.truth_id, "before": before, "after": now}
                )
            last[person.truth_id] = now
    return changes


def _tracking(
    scored: list[tuple[RunFrame, list[dict[str, Any]]]],
) -> tuple[dict[str, float | int | None] | None, str | None]:
    """Tracking scores over the annotated frames in order, and the similarity they rest on.

    Annotated persons without a track id are left out, as are people found whose id is 0, and those in a region
    that must not count, unless they are an annotated person there.
    """
    asked = [[a for a in annotations if not a["iscrowd"]] for _, annotations in scored]
    if not any("track_id" in a for annotations in asked for a in annotations):
        return None, None
    by_mask = all(a["has_mask"] for annotations in asked for a in annotations) and all(
        mask is not None for frame, _ in scored for mask in frame.masks
    )
    truth_ids, found_ids, similarities = [], [], []
    for (frame, everything), persons in zip(scored, asked):
        known = [a if by_mask else {**a, "has_mask": False} for a in persons if a.get("track_id") is not None]
        overlap = overlap_matrix(known, frame)
        claimed = overlap.max(0, initial=0.0) >= FOUND_SIMILARITY
        counted = set(not_ignored(frame, list(range(len(frame))), everything))
        used = [i for i in range(len(frame)) if frame.ids[i] > 0 and (i in counted or claimed[i])]
        truth_ids.append(np.array([a["track_id"] for a in known], np.int64))
        found_ids.append(frame.ids[used].astype(np.int64))
        similarities.append(overlap[:, used])
    try:
        scores = score_ids(truth_ids, found_ids, similarities)
    except ImportError as error:
        raise ScoringError(str(error)) from error
    return scores.to_dict(), "mask" if by_mask else "box"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)

