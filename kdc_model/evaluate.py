"""A network against annotated pictures: COCO keypoint AP, person mask AP, IoU of person pixels.

By the rules of COCO, OCHuman or CrowdPose (`kdc_model.protocols`). Needs pycocotools, but no torch.
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

from kdc_core.coco_results import coco_results
from kdc_core.coco_scores import (
    KEYPOINT_METRICS,
    SEGM_METRICS,
    AnnotatedImage,
    PersonPixels,
    score_keypoints,
    score_masks,
)
from kdc_core.images import read_rgb
from kdc_core.pipeline import PipelineOptions
from kdc_core.types import FrameResult
from kdc_model.data.coco import AnnotationError, ImageRecord, keypoint_names, load_records, person_category
from kdc_model.protocols import PROTOCOLS, Protocol


@dataclass(frozen=True)
class TruthImage(AnnotatedImage):
    """One image of the ground truth with its whole record, and the names of the subsets that it is in."""

    record: ImageRecord
    subsets: tuple[str, ...] = ()


def load_truth(
    annotations: Path, images: Path, limit: int | None = None, protocol: Protocol = PROTOCOLS["coco"]
) -> list[TruthImage]:
    """Read an annotation file, the first `limit` images of it. Raises AnnotationError, FileNotFoundError.

    Every image must be in the folder: a score over part of a data set is another data set's.
    """
    records = load_records(annotations, images)[:limit]
    if not records:
        raise AnnotationError(f"{annotations} lists no image")
    if missing := [r.path for r in records if not r.path.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(records)} images are not there, for one {missing[0]}"
        )
    data = json.loads(annotations.read_text())
    if (names := keypoint_names(annotations, data)) != protocol.names:
        raise AnnotationError(
            f"{annotations} has the keypoints {', '.join(names)}; the protocol '{protocol.name}' is for "
            f"{', '.join(protocol.names)}"
        )
    try:
        subsets = {
            image["id"]: tuple(name for name, holds in protocol.subsets if holds(image)) for image in data["images"]
        }
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{annotations}: an image's crowdIndex is no number: {error}") from error
    person = person_category(annotations, data)
    of_image: dict[int, list[dict[str, Any]]] = {r.image_id: [] for r in records}
    for annotation in data["annotations"]:
        in_category = annotation.get("category_id", person) == person
        if in_category and annotation["image_id"] in of_image:
            of_image[annotation["image_id"]].append(protocol.annotation(annotation))
    return [
        TruthImage(r.image_id, (r.height, r.width), of_image[r.image_id], r, subsets[r.image_id])
        for r in records
    ]


@dataclass
class Found:
    """What was found in some of the images: result entries (see `coco_results`), person pixels, and the time."""

    results: list[dict[str, Any]]
    pixels: PersonPixels
    seconds: float


def find_people(
    predict: Callable[[np.ndarray], FrameResult],
    truth: list[TruthImage],
    progress: bool = False,
    before: Callable[[TruthImage], None] | None = None,
) -> Found:
    """Run `predict` (a `Pipeline`, for one) on every image; timed without reading the file.

    before: called with each image before it is shown to `predict`.
    """
    results: list[dict[str, Any]] = []
    pixels = PersonPixels()
    seconds = 0.0
    for i, image in enumerate(tqdm(truth, unit="image", disable=None if progress else True)):
        picture = _read(image)
        if before is not None:
            before(image)
        if i == 0:
            predict(picture)  # the first call allocates what the others use again
        start = time.perf_counter()
        people = predict(picture).people
        seconds += time.perf_counter() - start
        results += coco_results(people, image.image_id)
        pixels.add(people, image)
    return Found(results, pixels, seconds)


# Result entries as they are to be ranked, for the scores of keypoints and for those of masks.
Rescore = Callable[[list[TruthImage], list[dict[str, Any]]], tuple[list[dict[str, Any]], list[dict[str, Any]]]]


def score(
    truth: list[TruthImage],
    parts: list[Found],
    protocol: Protocol = PROTOCOLS["coco"],
    rescore: Rescore | None = None,
) -> dict[str, float]:
    """Score what was found in the images of `truth`, however they were shared out; with other scores, by `rescore`.

    Returns keypoints.AP and so on, segm.AP and so on (both -1 where nothing is annotated, as COCO has it),
    person_iou, images, and ms_per_image, the mean time of `predict` without reading the file; of the protocol's
    subsets keypoints.easy.AP and so on. Where some images have no annotation at all: nobody.images, how many, and
    nobody.people, how many of a score that is reported by default were found in one of these, in the mean. (A pipeline
    that was asked for weaker people, too, gives these some of the cells that make somebody without a pose.)
    """
    found = [entry for part in parts for entry in part.results]
    by_keypoints, by_masks = rescore(truth, found) if rescore else (found, found)
    results = [_translated(entry, protocol) for entry in by_keypoints]
    metrics = score_keypoints(truth, results, protocol.sigmas).metrics
    out = {f"keypoints.{name}": value for name, value in metrics.items()}
    for subset, _ in protocol.subsets:
        images = [image for image in truth if subset in image.subsets]
        ids = {image.image_id for image in images}
        within = [entry for entry in results if entry["image_id"] in ids]
        metrics = score_keypoints(images, within, protocol.sigmas).metrics
        out |= {f"keypoints.{subset}.{name}": value for name, value in metrics.items()}
        out[f"images.{subset}"] = len(images)
    if protocol.masks:
        out |= {f"segm.{name}": value for name, value in score_masks(truth, by_masks).metrics.items()}
        pixels = PersonPixels()
        for part in parts:
            pixels.intersection += part.pixels.intersection
            pixels.union += part.pixels.union
        out["person_iou"] = pixels.iou()
    if empty := {image.image_id for image in truth if not image.annotations}:
        false = [e for e in found if e["image_id"] in empty and e["score"] >= PipelineOptions.person_threshold]
        out |= {"nobody.images": len(empty), "nobody.people": len(false) / len(empty)}
    out["images"] = len(truth)
    out["ms_per_image"] = 1e3 * sum(part.seconds for part in parts) / len(truth)
    return out


def _translated(entry: dict[str, Any], protocol: Protocol) -> dict[str, Any]:
    """A result entry with the protocol's own keypoints."""
    points = np.asarray(entry["keypoints"], np.float64).reshape(-1, 3)
    return {**entry, "keypoints": protocol.keypoints(points).ravel().tolist()}


def evaluate(
    predict: Callable[[np.ndarray], FrameResult],
    truth: list[TruthImage],
    progress: bool = False,
    protocol: Protocol = PROTOCOLS["coco"],
    before: Callable[[TruthImage], None] | None = None,
) -> dict[str, float]:
    """Run `predict` on every image and score what it returns (see `find_people` and `score`)."""
    return score(truth, [find_people(predict, truth, progress, before)], protocol)


def _read(truth: TruthImage) -> np.ndarray:
    image = read_rgb(truth.record.path, upright=False)
    if image.shape[:2] != truth.image_hw:
        height, width = truth.image_hw
        raise AnnotationError(
            f"{truth.record.path} is {image.shape[1]} x {image.shape[0]} pixels, its annotations are for "
            f"{width} x {height}"
        )
    return image


def format_table(metrics: dict[str, float]) -> str:
    """The metrics as a table for people; "-" where nothing is annotated."""
    lines = []
    subsets = [name.removeprefix("images.") for name in metrics if name.startswith("images.")]
    kinds: list[tuple[str, tuple[str, ...]]] = [("keypoints", KEYPOINT_METRICS)]
    kinds += [(f"keypoints.{subset}", KEYPOINT_METRICS) for subset in subsets]
    kinds += [("segm", SEGM_METRICS)] if "segm.AP" in metrics else []
    for kind, names in kinds:
        values = [metrics[f"{kind}.{name}"] for name in names]
        lines.append(f"{kind:<18}" + "".join(f"{name:>7}" for name in names))
        lines.append(" " * 18 + "".join(f"{_number(v):>7}" for v in values))
    if "nobody.images" in metrics:
        people = f"{metrics['nobody.people']:.3f} people found in one"
        lines.append(f"{metrics['nobody.images']:.0f} images that show nobody: {people}")
    pixels = f"person pixels: IoU {_number(metrics['person_iou'])}; " if "person_iou" in metrics else ""
    lines.append(f"{pixels}{metrics['images']:.0f} images, {metrics['ms_per_image']:.1f} ms an image")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
