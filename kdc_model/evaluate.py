"""A network against annotated pictures: COCO keypoint AP, person mask AP, IoU of person pixels.

The protocol is COCO's, see `kdc_core.coco_scores`. Needs pycocotools, but no torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kdc_core.coco_results import PERSON_CATEGORY, coco_results
from kdc_core.coco_scores import (
    KEYPOINT_METRICS,
    SEGM_METRICS,
    AnnotatedImage,
    PersonPixels,
    complete_annotation,
    score_keypoints,
    score_masks,
)
from kdc_core.images import read_rgb
from kdc_core.types import FrameResult
from kdc_model.data.coco import AnnotationError, load_records


@dataclass(frozen=True)
class TruthImage(AnnotatedImage):
    """One image of the ground truth with the file that shows it."""

    path: Path


def load_truth(annotations: Path, images: Path, limit: int | None = None) -> list[TruthImage]:
    """Read a COCO annotation file, the first `limit` images of it. Raises AnnotationError, FileNotFoundError.

    Every image must be in the folder: a score over part of a data set is another data set's.
    """
    records = load_records(annotations, images)[:limit]
    if not records:
        raise AnnotationError(f"{annotations} lists no image")
    if missing := [r.path for r in records if not r.path.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(records)} images are not there, for one {missing[0]}"
        )
    of_image: dict[int, list[dict[str, Any]]] = {r.image_id: [] for r in records}
    for annotation in json.loads(annotations.read_text())["annotations"]:
        in_category = annotation.get("category_id", PERSON_CATEGORY) == PERSON_CATEGORY
        if in_category and annotation["image_id"] in of_image:
            of_image[annotation["image_id"]].append(complete_annotation(annotation))
    return [TruthImage(r.image_id, (r.height, r.width), of_image[r.image_id], r.path) for r in records]


@dataclass
class Found:
    """What was found in some of the images: result entries (see `coco_results`), person pixels, and the time."""

    results: list[dict[str, Any]]
    pixels: PersonPixels
    seconds: float


def find_people(
    predict: Callable[[np.ndarray], FrameResult], truth: list[TruthImage], progress: bool = False
) -> Found:
    """Run `predict` (a `Pipeline`, for one) on every image; timed without reading the file."""
    results: list[dict[str, Any]] = []
    pixels = PersonPixels()
    seconds = 0.0
    for i, image in enumerate(tqdm(truth, unit="image", disable=None if progress else True)):
        picture = _read(image)
        if i == 0:
            predict(picture)  # the first call allocates what the others use again
        start = time.perf_counter()
        people = predict(picture).people
        seconds += time.perf_counter() - start
        results += coco_results(people, image.image_id)
        pixels.add(people, image)
    return Found(results, pixels, seconds)


def score(truth: list[TruthImage], parts: list[Found]) -> dict[str, float]:
    """Score what was found in the images of `truth`, however they were shared out.

    Returns keypoints.AP and so on, segm.AP and so on (both -1 where nothing is annotated, as COCO has it),
    person_iou, images, and ms_per_image, the mean time of `predict` without reading the file.
    """
    results = [entry for part in parts for entry in part.results]
    pixels = PersonPixels()
    for part in parts:
        pixels.intersection += part.pixels.intersection
        pixels.union += part.pixels.union
    return {
        **{f"keypoints.{k}": v for k, v in score_keypoints(truth, results).metrics.items()},
        **{f"segm.{k}": v for k, v in score_masks(truth, results).metrics.items()},
        "person_iou": pixels.iou(),
        "images": len(truth),
        "ms_per_image": 1e3 * sum(part.seconds for part in parts) / len(truth),
    }


def evaluate(
    predict: Callable[[np.ndarray], FrameResult], truth: list[TruthImage], progress: bool = False
) -> dict[str, float]:
    """Run `predict` on every image and score what it returns (see `score`)."""
    return score(truth, [find_people(predict, truth, progress)])


def _read(truth: TruthImage) -> np.ndarray:
    image = read_rgb(truth.path, upright=False)
    if image.shape[:2] != truth.image_hw:
        height, width = truth.image_hw
        raise AnnotationError(
            f"{truth.path} is {image.shape[1]} x {image.shape[0]} pixels, its annotations are for "
            f"{width} x {height}"
        )
    return image


def format_table(metrics: dict[str, float]) -> str:
    """The metrics as a table for people; "-" where nothing is annotated."""
    lines = []
    for kind, names in (("keypoints", KEYPOINT_METRICS), ("segm", SEGM_METRICS)):
        values = [metrics[f"{kind}.{name}"] for name in names]
        lines.append(f"{kind:<10}" + "".join(f"{name:>7}" for name in names))
        lines.append(" " * 10 + "".join(f"{'-' if v < 0 else f'{v:.3f}':>7}" for v in values))
    iou = metrics["person_iou"]
    lines.append(
        f"person pixels: IoU {'-' if iou < 0 else f'{iou:.3f}'}; {metrics['images']:.0f} images, "
        f"{metrics['ms_per_image']:.1f} ms an image"
    )
    return "\n".join(lines)
