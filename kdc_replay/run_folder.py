"""A run's folder: what identifies the run, whether it may go on there, and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdc_replay import journal
from kdc_replay.run_reader import NODE_FRAMES_NAME, NODE_RUN_NAME

RUN_NAME = "run.json"
PREDICTIONS_NAME = "predictions.json"
METRICS_NAME = "metrics.json"
RESULTS_NAME = "results"
VIDEO_NAME = "annotated.mp4"
REPORT_NAME = "report.html"
FORMAT_VERSION = 1
_JOURNAL = (journal.FRAMES_NAME, journal.DROPPED_NAME, journal.TIMINGS_NAME)
_NODE = (NODE_RUN_NAME, NODE_FRAMES_NAME)
_DERIVED = (PREDICTIONS_NAME, METRICS_NAME, RESULTS_NAME, VIDEO_NAME, REPORT_NAME, *_NODE)
_PART = ".part"


class RunFolderError(Exception):
    """The folder cannot take this run; the message says why and what to do."""


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Make the folder, and keep it from other runs until the end. Raises RunFolderError where one is at work in it."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; --out names a folder")
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(f"another `kdc replay` is at work in {folder}") from error
        yield
    finally:
        os.close(handle)  # which gives the lock back


def open_run(folder: Path, identity: dict[str, Any], overwrite: bool) -> tuple[dict[str, Any], int]:
    """Prepare a folder (see `sole_user`) for a run: new, continued, or already finished.

    identity: what makes the run what it is: a run that differs in it cannot go on here.
    Returns run.json's content and the index of the frame after which to go on (-1: at the beginning).
    Raises RunFolderError, JournalError, OSError.
    """
    existing = _existing_run(folder)
    if existing is None:
        (folder / (RUN_NAME + _PART)).unlink(missing_ok=True)  # of a run that could not even begin
        if any(folder.iterdir()):
            raise RunFolderError(f"{folder} is not empty, and holds no run: name another folder with --out")
    elif overwrite:
        remove(folder, (RUN_NAME, *_JOURNAL, *_DERIVED))
    else:
        if differing := _differences(existing, identity):
            raise RunFolderError(
                f"{folder} holds a run with other settings ({'; '.join(differing)}): "
                "name another folder with --out, or start anew with --overwrite"
            )
        return existing, journal.repair(folder)
    info = {**identity, "finished": False}
    write_json(folder / RUN_NAME, info)
    return info, -1


def _existing_run(folder: Path) -> dict[str, Any] | None:
    path = folder / RUN_NAME
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path} is not JSON ({error}): is this the folder of a run?") from error
    if not isinstance(info, dict):
        raise RunFolderError(f"{path} must hold a JSON object: is this the folder of a run?")
    return info


def _differences(existing: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """What differs, as `name: there and here`; nested fields by themselves."""
    found = []
    # As JSON has it: tuples are lists.
    for name, here in json.loads(json.dumps(identity)).items():
        there = existing.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            found += [f"{name}.{line}" for line in _differences(there, here)]
        elif there != here:
            found.append(f"{name}: {json.dumps(there)} there, {json.dumps(here)} now")
    return found


def remove(folder: Path, names: tuple[str, ...]) -> None:
    """Remove files and folders of a run, and what was left half written of them."""
    for name in names:
        for path in (folder / name, folder / (name + _PART)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write a file or folder to, which takes its name only once it is complete."""
    part = path.with_name(path.name + _PART)
    remove(path.parent, (path.name,))
    yield part
    if part.exists():  # a film without frames is none
        os.replace(part, path)


def write_json(path: Path, content: Any) -> None:
    """JSON that is the same for the same content, whole or not at all."""
    part = path.with_name(path.name + _PART)
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
