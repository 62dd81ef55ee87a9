"""Reading a run folder: what `kdc replay` wrote about a bag, as arrays."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdc_core.rle import from_coco
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.types import People
from kdc_replay.journal import mask_scores_of, time_ns_of

NS_PER_S = 1_000_000_000
NODE_RUN_NAME = "node_run.json"
NODE_FRAMES_NAME = "node_frames.jsonl"
# What every metrics.json has (see `kdc_replay.metrics.evaluate_frames`).
_METRICS = ("frames", "frames_annotated", "keypoints", "segm", "person_iou", "tracking", "curves", "per_frame")


class RunError(ValueError):
    """A folder that is not a run, or one that cannot be read; the message is one line."""


@dataclass(frozen=True, eq=False)
class RunFrame:
    """The people of one frame, in the pixels of the source image. N persons.

    index:          number of the frame among those of the bag's topic, from 0.
    stamp_ns:       the image header's stamp, 0 where the camera stamps nothing; log_ns: when it was recorded.
    time_ns:        the stamp, or the log time where the camera stamps nothing.
    image_hw:       height and width of the image in pixels.
    ids:            int32 (N,), track ids; 0 = not tracked.
    states:         names of `TrackState`, one for each.
    scores:         float32 (N,).
    boxes_xyxy:     float32 (N, 4).
    keypoints:      float32 (N, K, 3): x, y, score.
    masks:          COCO RLE of the whole image for each, None where masks were not made.
    mask_scores:    float32 (N,), how sure the system is of each mask; None where the run has none.
    """

    index: int
    stamp_ns: int
    log_ns: int
    time_ns: int
    frame_id: str
    image_hw: tuple[int, int]
    ids: np.ndarray
    states: tuple[str, ...]
    scores: np.ndarray
    boxes_xyxy: np.ndarray
    keypoints: np.ndarray
    masks: tuple[dict[str, Any] | None, ...]
    mask_scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def people(self) -> People:
        """The people as the pipeline gave them; the label map is decoded anew at every call."""
        labels = None
        if all(mask is not None for mask in self.masks):
            labels = np.zeros(self.image_hw, np.uint16)
            for i, mask in enumerate(self.masks):
                assert mask is not None
                labels[from_coco(mask)] = i + 1
        points = np.ascontiguousarray(self.keypoints[..., :2])
        scores = np.ascontiguousarray(self.keypoints[..., 2])
        return People(points, scores, self.scores, self.boxes_xyxy, labels, self.mask_scores)

    def coco_results(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of a COCO result file, best first as `coco_results` has them."""
        entries = []
        for i in np.argsort(-self.scores, kind="stable").tolist():
            x_min, y_min, x_max, y_max = self.boxes_xyxy[i].astype(float).tolist()
            entry: dict[str, Any] = {
                "image_id": image_id,
                "category_id": 1,
                "keypoints": self.keypoints[i].astype(float).ravel().tolist(),
                "score": float(self.scores[i]),
                "bbox": [x_min, y_min, x_max - x_min + 1, y_max - y_min + 1],
            }
            if self.masks[i] is not None:
                entry["segmentation"] = self.masks[i]
            if self.mask_scores is not None:
                entry["mask_score"] = float(self.mask_scores[i])
            entries.append(entry)
        return entries


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder.

    info:     run.json.
    frames:   in the order of the bag.
    dropped:  how many frames were dropped for which reason.
    stage_ms: wall time of each stage and frame, float64 (frames,) each; empty where it was not written.
    metrics:  metrics.json, None where the run was not scored.
    node:     node_run.json, None where the bag was not played to the node.
    """

    folder: Path
    info: dict[str, Any]
    frames: list[RunFrame]
    dropped: dict[str, int] = field(default_factory=dict)
    stage_ms: dict[str, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    node: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def times_s(self) -> np.ndarray:
        """Stamps in seconds since the first frame's, float64 (frames,)."""
        # Log times of MCAP are uint64: the differences of Python's own numbers do not overflow.
        return np.array([(frame.time_ns - self.frames[0].time_ns) / NS_PER_S for frame in self.frames], np.float64)


def load_run(folder: Path) -> Run:
    """Read a run folder. Raises RunError."""
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder")
    info = _json(folder / "run.json")
    if info is None:
        raise RunError(f"{folder} holds no run: run.json is missing (it is written by `kdc replay`)")
    return Run(
        folder,
        info,
        read_frames(folder / "frames.jsonl"),
        _dropped(folder / "dropped.jsonl"),
        _stage_ms(folder / "timings.csv"),
        _metrics(folder / "metrics.json"),
        _json(folder / NODE_RUN_NAME),
    )


def read_frames(path: Path) -> list[RunFrame]:
    """All frames of a frames.jsonl. Raises RunError with the line at fault."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8: {error}") from error
    frames = []
    for number, line in enumerate(lines, 1):
        try:
            frames.append(_frame(json.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}, line {number}, is not a frame: {error!r:.120}") from error
    return frames


def _frame(data: dict[str, Any]) -> RunFrame:
    people = data["people"]
    count = len(people)
    height, width = data["image_hw"]
    return RunFrame(
        index=int(data["index"]),
        stamp_ns=int(data["stamp_ns"]),
        log_ns=int(data["log_ns"]),
        time_ns=time_ns_of(data),
        frame_id=str(data["frame_id"]),
        image_hw=(int(height), int(width)),
        ids=np.array([p["id"] for p in people], np.int32),
        states=tuple(str(p["state"]) for p in people),
        scores=np.array([p["score"] for p in people], np.float32),
        boxes_xyxy=np.array([p["box_xyxy"] for p in people], np.float32).reshape(count, 4),
        keypoints=np.array([p["keypoints"] for p in people], np.float32).reshape(count, NUM_KEYPOINTS, 3),
        masks=tuple(_mask(p.get("mask"), (int(height), int(width))) for p in people),
        mask_scores=mask_scores_of(people),
    )


def _mask(mask: dict[str, Any] | None, image_hw: tuple[int, int]) -> dict[str, Any] | None:
    return None if mask is None else {"size": list(image_hw), "counts": mask["counts"]}


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path} must hold a JSON object")
    return data


def _metrics(path: Path) -> dict[str, Any] | None:
    data = _json(path)
    if data is not None and (missing := [name for name in _METRICS if name not in data]):
        raise RunError(f"{path} has no '{missing[0]}': it was not written by `kdc replay`")
    return data


def _dropped(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    try:
        return dict(Counter(str(json.loads(line)["reason"]) for line in path.read_text(encoding="utf-8").splitlines()))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not a list of dropped frames: {error!r:.120}") from error


def _stage_ms(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            return {}
        return {
            name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "index"
        }
    except (TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{path} is not a table of stage times: {error}") from error
