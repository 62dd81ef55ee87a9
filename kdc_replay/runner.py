"""A recording through the pipeline and the tracker into a run folder; the same bag always gives the same bytes."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import kdc_core
from kdc_core.backends.base import InferenceError, ModelLoadError
from kdc_core.model_path import default_model_path
from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_replay import journal
from kdc_replay.annotations import Annotations
from kdc_replay.bag_reader import BagError, BagReader, FrameError, RawFrame, Selection
from kdc_replay.journal import Journal
from kdc_replay.outputs import OutputChoice, annotations_entry, rescore, write_outputs
from kdc_replay.run_folder import FORMAT_VERSION, RUN_NAME, open_run, sha256_of, sole_user, write_json
from kdc_replay.tracking import RunTracker

# More threads could add up the same numbers in another order.
_THREADS = 1


@dataclass(frozen=True)
class ReplayOptions:
    """What to evaluate and how.

    model:     None = the default one. backend: as `load_backend` names them.
    long_side: longer side of the network's input in pixels; None = the model's own.
    selection: which frames. pipeline: thresholds, and whether to make masks.
    """

    model: Path | None = None
    backend: str = "auto"
    long_side: int | None = None
    selection: Selection = dataclasses.field(default_factory=Selection)
    pipeline: PipelineOptions = dataclasses.field(default_factory=PipelineOptions)


@dataclass(frozen=True)
class ReplayJob:
    """One bag to evaluate. topic: None = the only image topic. annotations: None = nothing to score against."""

    bag: Path
    folder: Path
    topic: str | None = None
    options: ReplayOptions = dataclasses.field(default_factory=ReplayOptions)
    annotations: Annotations | None = None
    outputs: OutputChoice = dataclasses.field(default_factory=OutputChoice)
    overwrite: bool = False


def replay(job: ReplayJob, progress: bool = False) -> dict[str, Any]:
    """Evaluate a bag into its folder; goes on where an interrupted run stopped, and leaves alone what is finished.

    progress: whether to show a bar on a terminal. Returns run.json's content.
    Raises BagError, RunFolderError, JournalError, ModelLoadError, ReplayAnnotationError, OSError.
    """
    options = job.options
    model = options.model or default_model_path()
    with BagReader(job.bag) as bag:
        topic = bag.choose_topic(job.topic)
        pipeline = _load(model, options)
        try:
            identity = _identity(bag, topic, model, pipeline, options)
            with sole_user(job.folder):
                return _replay(job, bag, topic, pipeline, identity, progress)
        finally:
            pipeline.close()


def _replay(
    job: ReplayJob, bag: BagReader, topic: str, pipeline: Pipeline, identity: dict[str, Any], progress: bool
) -> dict[str, Any]:
    info, done = open_run(job.folder, identity, job.overwrite)
    if not info["finished"]:
        _evaluate(bag, topic, pipeline, job, done, progress)
        info = _finish(job.folder, identity, bag.notes)
    if not info["frames"] and not info["dropped"]:
        noted = f" ({'; '.join(info['notes'])})" if info["notes"] else ""
        raise BagError(f"{bag.name}: not one frame of {topic} was selected{noted}")
    if job.annotations is not None and info.get("annotations") != annotations_entry(job.annotations):
        info = {**info, "annotations": annotations_entry(job.annotations)}
        rescore(job.folder, info, job.annotations)
    write_outputs(job.folder, bag, topic, job.options.selection, job.annotations, job.outputs, progress)
    return info


def _load(model: Path, options: ReplayOptions) -> Pipeline:
    try:
        return Pipeline.load(
            model,
            backend=options.backend,
            options=options.pipeline,
            threads=_THREADS,
            long_side=options.long_side,
        )
    except ValueError as error:  # no such runtime, or a long side that this model cannot have
        raise ModelLoadError(str(error)) from error


def _identity(
    bag: BagReader, topic: str, model: Path, pipeline: Pipeline, options: ReplayOptions
) -> dict[str, Any]:
    """What makes a run what it is. No paths, no times: the same on every machine."""
    return {
        "format_version": FORMAT_VERSION,
        "kdc_version": kdc_core.__version__,
        "bags": [bag.name],
        "files": [
            {"name": name, "bytes": size, "fingerprint": content} for name, size, content in bag.files
        ],
        "topic": topic,
        "model": {"file": model.name, "sha256": sha256_of(model)},
        "backend": pipeline.backend_name,
        "options": {
            **dataclasses.asdict(options.selection),
            "long_side": options.long_side,
            **dataclasses.asdict(options.pipeline),
        },
    }


def _evaluate(
    bag: BagReader, topic: str, pipeline: Pipeline, job: ReplayJob, done: int, progress: bool
) -> None:
    """Every selected frame after the one of index `done` into the journal."""
    tracker = RunTracker()
    for record in journal.records(job.folder):
        tracker.update(journal.people_of(record), journal.time_ns_of(record))
    selection = job.options.selection
    bar = tqdm(
        total=bag.expected_frames(topic, selection),
        desc=bag.name,
        unit="frame",
        disable=None if progress else True,
    )
    with Journal(job.folder) as lines, bar:
        for raw in bag.raw_frames(topic, selection):
            if raw.index > done:
                _evaluate_frame(raw, pipeline, tracker, lines)
            bar.update()


def _evaluate_frame(raw: RawFrame, pipeline: Pipeline, tracker: RunTracker, lines: Journal) -> None:
    """One frame into the journal; one that cannot be decoded or evaluated is dropped and counted."""
    start = time.perf_counter()
    try:
        frame = raw.decode()
        decoded = time.perf_counter()
        result = pipeline(frame.image)
    except (FrameError, InferenceError) as error:
        lines.drop(raw, str(error))
        return
    people = journal.clean(result.people)
    before = time.perf_counter()
    tracks = tracker.update(people, frame.time_ns)
    stage_ms = {"decode_image": (decoded - start) * 1e3, "tracking": (time.perf_counter() - before) * 1e3}
    lines.write(frame, people, tracks, {**result.stage_ms, **stage_ms})


def _finish(folder: Path, identity: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Count what is in the journal, and mark the run as finished."""
    frames = people = 0
    tracks: set[int] = set()
    for record in journal.records(folder):
        frames += 1
        people += len(record["people"])
        tracks.update(person["id"] for person in record["people"] if person["id"])
    dropped = Counter(record["reason"] for record in journal.drops(folder))
    info = {
        **identity,
        "finished": True,
        "frames": frames,
        "dropped": dict(sorted(dropped.items())),
        "people": people,
        "tracks": len(tracks),
        "notes": notes,
    }
    write_json(folder / RUN_NAME, info)
    return info
