"""What is made from a run's frames: predictions, scores, the results bag, the film, the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kdc_core.coco_results import coco_results
from kdc_replay import journal
from kdc_replay.annotations import AnnotatedFrame, Annotations, ReplayAnnotationError
from kdc_replay.bag_reader import BagReader, Frame, Selection
from kdc_replay.run_folder import (
    METRICS_NAME,
    PREDICTIONS_NAME,
    REPORT_NAME,
    RESULTS_NAME,
    RUN_NAME,
    VIDEO_NAME,
    remove,
    whole,
    write_json,
)
from kdc_replay.run_reader import load_run


@dataclass(frozen=True)
class OutputChoice:
    """What to make besides predictions.json (and metrics.json where there are annotations)."""

    results: bool = True
    video: bool = True
    report: bool = True


def annotations_entry(annotations: Annotations) -> dict[str, Any]:
    """What run.json says about the annotations."""
    return {"file": annotations.name, "sha256": annotations.sha256, "images": len(annotations.frames)}


def rescore(folder: Path, info: dict[str, Any], annotations: Annotations) -> None:
    """Score a finished run against these annotations; what depends on others is removed.

    info: run.json's new content. Raises ReplayAnnotationError, ScoringError: then the folder is as it was.
    """
    from kdc_replay.metrics import score_run

    metrics = score_run(load_run(folder), _truth(folder, annotations))
    remove(folder, (PREDICTIONS_NAME, METRICS_NAME, REPORT_NAME))
    write_json(folder / RUN_NAME, info)
    write_json(folder / METRICS_NAME, metrics)


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


def _match(folder: Path, annotations: Annotations) -> dict[int, AnnotatedFrame]:
    frames = [(record["index"], record["stamp_ns"]) for record in journal.records(folder)]
    matched = annotations.match(frames)
    if frames and not matched:
        raise ReplayAnnotationError(
            f"{annotations.name}: none of its {len(annotations.frames)} images is a frame of this run: images name the "
            f"frame by stamp_ns (the run's first stamp is {frames[0][1]}) or by frame_index"
        )
    return matched


def _write_predictions(folder: Path, annotations: Annotations | None) -> None:
    """COCO results with track ids. With annotations: of the annotated frames alone, under their image ids."""
    matched = None if annotations is None else _match(folder, annotations)
    with whole(folder / PREDICTIONS_NAME) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        separator = "["
        for record in journal.records(folder):
            index = record["index"]
            if matched is not None and index not in matched:
                continue
            people = journal.people_of(record)
            ids = [record["people"][i]["id"] for i in np.argsort(-people.scores, kind="stable")]
            image_id = index if matched is None else matched[index].image_id
            for entry, track_id in zip(coco_results(people, image_id), ids):
                line = json.dumps({**entry, "track_id": track_id, "frame_index": index}, allow_nan=False)
                file.write(separator + line)
                separator = ",\n"
        file.write("]\n" if separator == ",\n" else "[]\n")


def _score(folder: Path, annotations: Annotations | None) -> None:
    from kdc_replay.metrics import write_metrics

    assert annotations is not None
    write_metrics(load_run(folder), _truth(folder, annotations))


def _truth(folder: Path, annotations: Annotations) -> dict[int, list[dict[str, Any]]]:
    return {index: frame.annotations for index, frame in _match(folder, annotations).items()}


def _write_results(folder: Path) -> None:
    from kdc_replay.results_bag import write_results

    with whole(folder / RESULTS_NAME) as part:
        write_results(part, folder, masks=load_run(folder).info["options"]["masks"])


def _write_video(folder: Path, bag: BagReader, topic: str, selection: Selection, progress: bool) -> None:
    from kdc_replay.video import AnnotatedVideo

    count = sum(1 for _ in journal.records(folder))
    frames = _with_pictures(folder, bag, topic, selection)
    pictures = tqdm(frames, VIDEO_NAME, count, disable=None if progress else True)
    with whole(folder / VIDEO_NAME) as part, AnnotatedVideo(part) as video, pictures:
        for record, frame in pictures:
            ids = np.array([person["id"] for person in record["people"]], np.int32)
            video.write(frame.image, journal.people_of(record), ids, frame.time_ns)


def _with_pictures(
    folder: Path, bag: BagReader, topic: str, selection: Selection
) -> Iterator[tuple[dict[str, Any], Frame]]:
    """Each frame of the run with its picture."""
    records = journal.records(folder)
    record = next(records, None)
    for raw in bag.raw_frames(topic, selection):
        if record is None:
            return
        if raw.index == record["index"]:
            yield record, raw.decode()
            record = next(records, None)


def write_report_of(folder: Path, bag: Path) -> None:
    """Write a run's report anew, with pictures from its bag."""
    with BagReader(bag) as reader:
        _write_report(folder, reader, load_run(folder).info["topic"])


def _write_report(folder: Path, bag: BagReader, topic: str) -> None:
    from kdc_replay.report import write_report
    from kdc_replay.report_pictures import bag_pictures

    write_report(folder, bag_pictures(bag, topic))
