"""The journal of a run: a line for each frame as it is done, read back exactly as it was written.

Numbers are written so that the float32 they came from comes back bit by bit. So an interrupted run goes on where it
stopped with the same tracks, and its files end up the same byte for byte.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdc_core.appearance import SIZE as APPEARANCE_SIZE
from kdc_core.rle import from_coco, roi_to_coco
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.tracking import FrameTracks, TrackState
from kdc_core.types import People
from kdc_replay.bag_reader import Frame, RawFrame

FRAMES_NAME = "frames.jsonl"
DROPPED_NAME = "dropped.jsonl"
TIMINGS_NAME = "timings.csv"
STAGES = ("decode_image", "preprocess", "inference", "decode", "masks", "tracking")
UNTRACKED = "UNTRACKED"
_BLOCK_BYTES = 1 << 16


class JournalError(ValueError):
    """A journal that was not written by a run, or was changed since; the message says where."""


class Journal:
    """The open files of a run. Each frame is on its way to the disk before the next one is looked at."""

    def __init__(self, folder: Path) -> None:
        self._frames = (folder / FRAMES_NAME).open("a", encoding="utf-8", newline="\n")
        self._dropped = (folder / DROPPED_NAME).open("a", encoding="utf-8", newline="\n")
        self._timings = (folder / TIMINGS_NAME).open("a", encoding="utf-8", newline="\n")
        if self._timings.tell() == 0:
            self._timings.write(",".join(("index", *STAGES)) + "\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._frames, self._dropped, self._timings):
            file.close()

    def write(self, frame: Frame, people: People, tracks: FrameTracks, stage_ms: dict[str, float]) -> None:
        """Add a frame: its people with their identities, and the milliseconds of each stage."""
        times = (f"{stage_ms.get(stage, 0.0):.3f}" for stage in STAGES)
        _append(self._timings, ",".join((str(frame.index), *times)))
        _append(self._frames, _line(frame_record(frame, people, tracks)))

    def drop(self, frame: RawFrame, reason: str) -> None:
        """Add a frame that could not be evaluated."""
        _append(self._dropped, _line({"index": frame.index, "log_ns": frame.log_ns, "reason": reason}))


def clean(people: People) -> People:
    """The people with every number finite: a joint at no place counts as missing, its place as (0, 0)."""
    if np.isfinite(people.keypoints_xy).all() and np.isfinite(people.keypoint_scores).all():
        return people
    known = np.isfinite(people.keypoints_xy).all(2) & np.isfinite(people.keypoint_scores)
    return dataclasses.replace(
        people,
        keypoints_xy=np.where(known[..., None], people.keypoints_xy, np.float32(0)),
        keypoint_scores=np.where(known, people.keypoint_scores, np.float32(0)),
    )


def frame_record(frame: Frame, people: People, tracks: FrameTracks) -> dict[str, Any]:
    """A line of frames.jsonl."""
    height, width = frame.image.shape[:2]
    keypoints = np.concatenate([people.keypoints_xy, people.keypoint_scores[..., None]], axis=2)
    rois = None if people.mask_labels is None else people.mask_rois().tolist()
    entries = []
    for i in range(len(people)):
        entry: dict[str, Any] = {
            "id": int(tracks.ids[i]),
            "state": state_name(int(tracks.states[i])),
            "score": exact(people.scores[i : i + 1])[0],
            "box_xyxy": exact(people.boxes_xyxy[i]),
            "keypoints": [exact(row) for row in keypoints[i]],
        }
        if rois is not None:
            assert people.mask_labels is not None
            x, y, w, h = rois[i]
            inside = people.mask_labels[y : y + h, x : x + w] == i + 1
            entry["mask"] = {"roi_xywh": rois[i], "counts": roi_to_coco(inside, (x, y), (height, width))["counts"]}
            if people.mask_scores is not None:
                entry["mask"]["score"] = exact(people.mask_scores[i : i + 1])[0]
        if people.appearance is not None:
            entry["appearance"] = base64.b64encode(people.appearance[i].tobytes()).decode("ascii")
        entries.append(entry)
    return {
        "index": frame.index,
        "stamp_ns": frame.stamp_ns,
        **({"from_zero": True} if frame.from_zero else {}),
        "log_ns": frame.log_ns,
        "frame_id": frame.frame_id,
        "image_hw": [height, width],
        "people": entries,
    }


def time_ns_of(record: dict[str, Any]) -> int:
    """The time of a line of frames.jsonl: `Frame.time_ns`."""
    stamp_ns, log_ns = int(record["stamp_ns"]), int(record["log_ns"])
    return stamp_ns if record.get("from_zero") else stamp_ns or log_ns


def state_name(state: int) -> str:
    """The name of a `TrackState`, or UNTRACKED for 0."""
    return TrackState(state).name if state else UNTRACKED


def people_of(record: dict[str, Any]) -> People:
    """The people of a line of frames.jsonl, equal to those that were written."""
    entries = record["people"]
    count = len(entries)
    keypoints = np.array([e["keypoints"] for e in entries], np.float32).reshape(count, NUM_KEYPOINTS, 3)
    height, width = record["image_hw"]
    labels = None
    if all("mask" in e for e in entries):
        # Without people nothing tells whether masks were asked for; nobody's mask is an empty one.
        labels = np.zeros((height, width), np.uint16)
        for i, entry in enumerate(entries):
            labels[from_coco({"size": [height, width], "counts": entry["mask"]["counts"]})] = i + 1
    appearance = None
    if all("appearance" in e for e in entries):
        rows = [np.frombuffer(base64.b64decode(e["appearance"], validate=True), np.uint8) for e in entries]
        appearance = np.array(rows, np.uint8).reshape(count, APPEARANCE_SIZE)
    return People(
        keypoints_xy=np.ascontiguousarray(keypoints[..., :2]),
        keypoint_scores=np.ascontiguousarray(keypoints[..., 2]),
        scores=np.array([e["score"] for e in entries], np.float32),
        boxes_xyxy=np.array([e["box_xyxy"] for e in entries], np.float32).reshape(count, 4),
        mask_labels=labels,
        mask_scores=mask_scores_of(entries),
        appearance=appearance,
    )


def mask_scores_of(entries: list[dict[str, Any]]) -> np.ndarray | None:
    """float32 (N,) of a record's people; None where one has none (no masks, or a run from before there were any)."""
    if not all("score" in (e.get("mask") or {}) for e in entries):
        return None
    return np.array([e["mask"]["score"] for e in entries], np.float32)


def exact(values: np.ndarray) -> list[float]:
    """float32 (N,) as the shortest decimal numbers that come back as the same float32."""
    short = [float(str(value)) for value in values]
    # Parsed as a double first, a number next to the middle between two float32 could fall to the wrong side.
    if np.array_equal(np.array(short, np.float32), values):
        return short
    return values.astype(np.float64).tolist()


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of frames.jsonl. Raises JournalError."""
    return _records(folder / FRAMES_NAME)


def drops(folder: Path) -> list[dict[str, Any]]:
    """The lines of dropped.jsonl. Raises JournalError."""
    return list(_records(folder / DROPPED_NAME))


def repair(folder: Path) -> int:
    """Cut off what an interruption left half written; the index after which the run goes on, -1 for the beginning.

    Raises JournalError.
    """
    last = -1
    frames: set[int] = set()
    for name in (FRAMES_NAME, DROPPED_NAME):
        _cut_half_line(folder / name)
        for record in _records(folder / name):
            last = max(last, record["index"])
            if name == FRAMES_NAME:
                frames.add(record["index"])
    timings = folder / TIMINGS_NAME
    _cut_half_line(timings)
    if timings.is_file():
        with timings.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        # A frame's times are written before the frame.
        kept = [row for i, row in enumerate(rows) if i == 0 or (row[0].isdigit() and int(row[0]) in frames)]
        timings.write_text("".join(",".join(row) + "\n" for row in kept), encoding="utf-8", newline="\n")
    return last


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                record["index"] = int(record["index"])
            except (ValueError, TypeError, KeyError) as error:
                raise JournalError(f"{path}, line {number}, was not written by a run ({error!r:.80})") from error
            yield record


def _cut_half_line(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, separators=(",", ":"))


def _append(file: IO[str], line: str) -> None:
    file.write(line + "\n")
    file.flush()
