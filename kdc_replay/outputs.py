"""What is made from a run's frames: predictions, scores, the results bag, the film, the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kdc_core.coco_results import coco_results
from kdc_replay.annotations import AnnotatedFrame, Annotations, ReplayAnnotationError
from kdc_replay.bag_reader import BagReader, Selection
from kdc_replay.run_folder import (
    METRICS_NAME,
    PREDICTIONS_NAME,
    REPORT_NAME,
    RESULTS_NAME,
    VIDEO_NAME,
    remove,
    whole,
)
from kdc_replay.run_reader import Run, load_run


@dataclass(frozen=True)
class OutputChoice:
    """What to make besides predictions.json (and metrics.json where there are annotations)."""

    results: bool = True
    video: bool = True
    report: bool = True


def annotations_entry(annotations: Annotations) -> dict[str, Any]:
    """What run.json says about the annotations."""
    return {"file": annotations.name, "sha256": annotations.sha256, "images": len(annotations.frames)}


def discard_scored(folder: Path) -> None:
    """Remove what depends on the annotations."""
    remove(folder, (PREDICTIONS_NAME, METRICS_NAME, REPORT_NAME))


def write_outputs(
    folder: Path,
    bag: BagReader,
    topic: str,
    selection: Selection,
    annotations: Annotations | None,
    choice: OutputChoice,
    progress: bool = False,
) -> None:
    """Make what is not there yet from a finished run's frames.

    Raises ReplayAnnotationError where no annotated image is a frame of the run, OSError.
    """
    missing = [
        (not (folder / PREDICTIONS_NAME).is_file(), lambda: _write_predictions(folder, annotations)),
        (annotations is not None and not (folder / METRICS_NAME).is_file(), lambda: _score(folder, annotations)),
        (choice.results and not (folder / RESULTS_NAME).is_dir(), lambda: _write_results(folder)),
        (
            choice.video and not (folder / VIDEO_NAME).is_file(),
            lambda: _write_video(folder, bag, topic, selection, progress),
        ),
        (choice.report and not (folder / REPORT_NAME).is_file(), lambda: _write_report(folder, bag, topic)),
    ]
    for wanted, write in missing:
        if wanted:
            write()


def _match(run: Run, annotations: Annotations) -> dict[int, AnnotatedFrame]:
    matched = annotations.match((frame.index, frame.stamp_ns) for frame in run.frames)
    if run.frames and not matched:
        raise ReplayAnnotationError(
            f"{annotations.name}: none of its {len(annotations.frames)} images is a frame of this run: images name the "
            f"frame by stamp_ns (the run's first stamp is {run.frames[0].stamp_ns}) or by frame_index"
        )
    return matched


def _write_predictions(folder: Path, annotations: Annotations | None) -> None:
    """COCO results with track ids. With annotations: of the annotated frames alone, under their image ids."""
    run = load_run(folder)
    matched = None if annotations is None else _match(run, annotations)
    lines = []
    for frame in run.frames:
        if matched is not None and frame.index not in matched:
            continue
        image_id = frame.index if matched is None else matched[frame.index].image_id
        ids = frame.ids[np.argsort(-frame.scores, kind="stable")].tolist()
        for entry, track_id in zip(coco_results(frame.people(), image_id), ids):
            lines.append(json.dumps({**entry, "track_id": track_id, "frame_index": frame.index}, allow_nan=False))
    with whole(folder / PREDICTIONS_NAME) as part:
        part.write_text("[" + ",\n".join(lines) + "]\n", encoding="utf-8")


def _score(folder: Path, annotations: Annotations | None) -> None:
    from kdc_replay.metrics import write_metrics

    assert annotations is not None
    run = load_run(folder)
    write_metrics(run, {index: frame.annotations for index, frame in _match(run, annotations).items()})


def _write_results(folder: Path) -> None:
    from kdc_replay.results_bag import write_results

    with whole(folder / RESULTS_NAME) as part:
        write_results(part, folder, masks=load_run(folder).info["options"]["masks"])


def _write_video(folder: Path, bag: BagReader, topic: str, selection: Selection, progress: bool) -> None:
    from kdc_replay.video import AnnotatedVideo

    frames = load_run(folder).frames
    pictures = tqdm(bag.frames(topic, selection), VIDEO_NAME, len(frames), disable=None if progress else True)
    with whole(folder / VIDEO_NAME) as part, AnnotatedVideo(part) as video, pictures:
        for found, frame in zip(frames, pictures):
            video.write(frame.image, found.people(), found.ids, found.time_ns)


def write_report_of(folder: Path, bag: Path) -> None:
    """Write a run's report anew, with pictures from its bag."""
    with BagReader(bag) as reader:
        _write_report(folder, reader, load_run(folder).info["topic"])


def _write_report(folder: Path, bag: BagReader, topic: str) -> None:
    from kdc_replay.report import write_report
    from kdc_replay.report_pictures import bag_pictures

    write_report(folder, bag_pictures(bag, topic))
