"""A made run folder: people who walk, drawn as upright rectangles of pixels, with an exact truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdc_core.rle import to_coco

HEIGHT, WIDTH = 120, 200
BODY_WH = (30, 80)
FRAME_NS = 100_000_000  # 10 Hz
START_NS = 1_700_000_000 * 1_000_000_000
# A standing person: COCO's joints as shares of the body's width and height.
_BODY = np.array(
    [
        [0.5, 0.08], [0.6, 0.05], [0.4, 0.05], [0.7, 0.07], [0.3, 0.07], [0.9, 0.22], [0.1, 0.22], [0.95, 0.4],
        [0.05, 0.4], [0.9, 0.55], [0.1, 0.55], [0.75, 0.55], [0.25, 0.55], [0.75, 0.77], [0.25, 0.77], [0.75, 0.97],
        [0.25, 0.97],
    ]
)  # fmt: skip


def person(left: int, top: int, track_id: int = 0, score: float = 0.8, state: str = "TRACKED") -> dict[str, Any]:
    """One entry of a frame's people, with its mask."""
    width, height = BODY_WH
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    places = np.array([left, top]) + _BODY * BODY_WH
    x, y = (max(0, v) for v in (left, top))
    return {
        "id": track_id,
        "state": state,
        "score": score,
        "box_xyxy": [float(left), float(top), left + width - 1.0, top + height - 1.0],
        "keypoints": [[float(a), float(b), score] for a, b in places],
        "mask": {"roi_xywh": [x, y, width, height], "counts": to_coco(mask)["counts"]},
    }


def annotation(left: int, top: int, track_id: int | None) -> dict[str, Any]:
    """What COCO would have annotated of such a person."""
    entry = person(left, top)
    width, height = BODY_WH
    mask = {"size": [HEIGHT, WIDTH], "counts": entry["mask"]["counts"]}
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [left, top, width, height],
        "area": float(width * height),
        "keypoints": [v for x, y, _ in entry["keypoints"] for v in (x, y, 2)],
        "segmentation": mask,
        **({} if track_id is None else {"track_id": track_id}),
    }


def write_run(folder: Path, people: list[list[dict[str, Any]]], **info: Any) -> Path:
    """Write run.json, frames.jsonl and timings.csv of a run whose frames hold these people."""
    folder.mkdir(parents=True)
    run = {
        "format_version": 1,
        "kdc_version": "0.1.0",
        "model": {"file": "made.onnx", "sha256": "0" * 64},
        "backend": "onnxruntime (CPUExecutionProvider)",
        "options": {"person_threshold": 0.15, "masks": True},
        "bags": ["walk.mcap"],
        "topic": "/camera/image_raw",
        "frames": len(people),
        "dropped": {},
        "finished": True,
        **info,
    }
    (folder / "run.json").write_text(json.dumps(run))
    with (folder / "frames.jsonl").open("w") as file:
        for index, found in enumerate(people):
            stamp = START_NS + index * FRAME_NS
            frame = {
                "index": index,
                "stamp_ns": stamp,
                "log_ns": stamp + 5_000_000,
                "frame_id": "camera",
                "image_hw": [HEIGHT, WIDTH],
                "people": found,
            }
            file.write(json.dumps(frame) + "\n")
    rows = [f"{i},1.5,{20 + i % 3},2.0" for i in range(len(people))]
    (folder / "timings.csv").write_text("index,preprocess,inference,decode\n" + "\n".join(rows) + "\n")
    return folder


def write_annotations(path: Path, truth: dict[int, list[dict[str, Any]]]) -> Path:
    """Write a COCO file whose images carry the stamps of a made run's frames."""
    images = [{"id": 100 + index, "stamp_ns": START_NS + index * FRAME_NS} for index in truth]
    people = [{**a, "image_id": 100 + index} for index, entries in truth.items() for a in entries]
    numbered = [{**a, "id": i + 1} for i, a in enumerate(people)]
    path.write_text(json.dumps({"images": images, "annotations": numbered}))
    return path
