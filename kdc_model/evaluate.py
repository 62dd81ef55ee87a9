"""A network against annotated pictures: COCO keypoint AP, person mask AP, IoU of person pixels.

The protocol is COCO's (SPEC section 8): keypoints by OKS with 20 detections an image, person masks ("segm",
category 1) with 100, both ranked by the person's score. Needs pycocotools, but no torch.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from kdc_core.coco_results import PERSON_CATEGORY, coco_results
from kdc_core.images import read_rgb
from kdc_core.rle import from_coco, to_coco
from kdc_core.skeleton import NUM_KEYPOINTS, OKS_SIGMAS
from kdc_core.types import FrameResult, People
from kdc_model.data.coco import AnnotationError, ImageRecord, load_records

# The order in which COCOeval.summarize() leaves its numbers.
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
SEGM_METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")


@dataclass(frozen=True)
class TruthImage:
    """One image of the ground truth: its record, and its persons as COCO's tools take them."""

    record: ImageRecord
    annotations: list[dict[str, Any]]


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
            of_image[annotation["image_id"]].append(_completed(annotation))
    return [TruthImage(r, of_image[r.image_id]) for r in records]


def _completed(annotation: dict[str, Any]) -> dict[str, Any]:
    """An annotation with every key that COCO's tools expect.

    `ignore` (ours: a region that must not count) becomes COCO's iscrowd. A person without a true mask keeps
    the key `has_mask` False; mask evaluation lets detections in such a person's box pass.
    """
    keypoints = annotation.get("keypoints") or [0] * (3 * NUM_KEYPOINTS)
    _, _, width, height = annotation["bbox"]
    return {
        **annotation,
        "category_id": PERSON_CATEGORY,
        "keypoints": keypoints,
        "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        "area": annotation.get("area", width * height),
        "iscrowd": int(bool(annotation.get("iscrowd")) or bool(annotation.get("ignore"))),
        "has_mask": bool(annotation.get("has_mask", True)) and bool(annotation.get("segmentation")),
    }


@dataclass
class Found:
    """What was found in some of the images: result entries (see `coco_results`), person pixels, and the time."""

    results: list[dict[str, Any]]
    intersection_px: int
    union_px: int
    seconds: float


def find_people(
    predict: Callable[[np.ndarray], FrameResult], truth: list[TruthImage], progress: bool = False
) -> Found:
    """Run `predict` (a `Pipeline`, for one) on every image; timed without reading the file."""
    results: list[dict[str, Any]] = []
    pixels = PersonPixels()
    seconds = 0.0
    for i, image in enumerate(tqdm(truth, unit="image", disable=None if progress else True)):
        picture = _read(image.record)
        if i == 0:
            predict(picture)  # the first call allocates what the others use again
        start = time.perf_counter()
        people = predict(picture).people
        seconds += time.perf_counter() - start
        results += coco_results(people, image.record.image_id)
        pixels.add(people, image)
    return Found(results, pixels.intersection, pixels.union, seconds)


def score(truth: list[TruthImage], parts: list[Found]) -> dict[str, float]:
    """Score what was found in the images of `truth`, however they were shared out.

    Returns keypoints.AP and so on, segm.AP and so on (both -1 where nothing is annotated, as COCO has it),
    person_iou, images, and ms_per_image, the mean time of `predict` without reading the file.
    """
    results = [entry for part in parts for entry in part.results]
    pixels = PersonPixels()
    pixels.intersection = sum(part.intersection_px for part in parts)
    pixels.union = sum(part.union_px for part in parts)
    return {
        **{f"keypoints.{k}": v for k, v in score_keypoints(truth, results).items()},
        **{f"segm.{k}": v for k, v in score_masks(truth, results).items()},
        "person_iou": pixels.iou(),
        "images": len(truth),
        "ms_per_image": 1e3 * sum(part.seconds for part in parts) / len(truth),
    }


def evaluate(
    predict: Callable[[np.ndarray], FrameResult], truth: list[TruthImage], progress: bool = False
) -> dict[str, float]:
    """Run `predict` on every image and score what it returns (see `score`)."""
    return score(truth, [find_people(predict, truth, progress)])


def score_keypoints(truth: list[TruthImage], results: list[dict[str, Any]]) -> dict[str, float]:
    """COCO's keypoint metrics of result entries (see `coco_results`)."""
    detections = []
    for result in results:
        points = np.asarray(result["keypoints"], np.float64).reshape(-1, 3)
        # The size class of a detection comes from the keypoints it found, as in COCO's own loadRes.
        found = points[points[:, 2] > 0, :2] if (points[:, 2] > 0).any() else points[:, :2]
        low, high = found.min(0), found.max(0)
        size = high - low
        detections.append(
            {
                **{k: result[k] for k in ("image_id", "category_id", "keypoints", "score")},
                "bbox": [*low.tolist(), *size.tolist()],
                "area": float(size.prod()),
            }
        )
    annotations = [a for image in truth for a in image.annotations]
    return _coco_eval(truth, annotations, detections, "keypoints")


def score_masks(truth: list[TruthImage], results: list[dict[str, Any]]) -> dict[str, float]:
    """COCO's "segm" metrics of result entries; an entry whose mask is empty, or absent, claims none."""
    detections = []
    for result in results:
        mask = result.get("segmentation")
        area = float(from_coco(mask).sum()) if mask is not None else 0.0
        if area > 0:
            keys = ("image_id", "category_id", "segmentation", "score", "bbox")
            detections.append({**{k: result[k] for k in keys}, "area": area})
    annotations = []
    for image in truth:
        for annotation in image.annotations:
            if not annotation["has_mask"]:
                box = _box_mask(annotation["bbox"], image.record)
                annotation = {**annotation, "segmentation": to_coco(box), "iscrowd": 1}
            annotations.append(annotation)
    return _coco_eval(truth, annotations, detections, "segm")


def _coco_eval(
    truth: list[TruthImage], annotations: list[dict[str, Any]], detections: list[dict[str, Any]], kind: str
) -> dict[str, float]:
    numbered = [{**d, "id": i + 1, "iscrowd": 0} for i, d in enumerate(detections)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth, annotations), _coco(truth, numbered), kind)
        evaluation.params.catIds = [PERSON_CATEGORY]
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = OKS_SIGMAS.astype(np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = KEYPOINT_METRICS if kind == "keypoints" else SEGM_METRICS
    return {name: float(value) for name, value in zip(names, evaluation.stats)}


def _coco(truth: list[TruthImage], annotations: list[dict[str, Any]]) -> COCO:
    """COCO's index over entries in memory. Not its loadRes: that fails on an empty list."""
    coco = COCO()
    records = [i.record for i in truth]
    coco.dataset = {
        "images": [{"id": r.image_id, "height": r.height, "width": r.width} for r in records],
        "categories": [{"id": PERSON_CATEGORY, "name": "person"}],
        # COCOeval writes into the entries.
        "annotations": [dict(a) for a in annotations],
    }
    coco.createIndex()
    return coco


class PersonPixels:
    """Intersection over union of all person pixels, over all images together.

    Left out are crowds and ignore regions, and the boxes of persons without a true mask.
    """

    def __init__(self) -> None:
        self.intersection = 0
        self.union = 0

    def add(self, people: People, image: TruthImage) -> None:
        """Count one image; people without masks cover nothing."""
        record = image.record
        person, unknown = (np.zeros((record.height, record.width), bool) for _ in range(2))
        for annotation in image.annotations:
            if not annotation["has_mask"]:
                unknown |= _box_mask(annotation["bbox"], record)
            elif annotation["iscrowd"]:
                unknown |= _mask(annotation["segmentation"], record)
            else:
                person |= _mask(annotation["segmentation"], record)
        # A pixel of a person with a mask is certain, whatever box it lies in.
        counted = ~unknown | person
        found = people.mask_labels > 0 if people.mask_labels is not None else np.zeros_like(person)
        self.intersection += int((found & person).sum())
        self.union += int(((found | person) & counted).sum())

    def iou(self) -> float:
        """0..1; -1 where there is no person pixel at all, as COCO marks a metric without ground truth."""
        return self.intersection / self.union if self.union else -1.0


def _mask(segmentation: Any, record: ImageRecord) -> np.ndarray:
    """A segmentation in any of COCO's forms -> bool (H, W)."""
    coco = COCO()
    coco.imgs = {0: {"height": record.height, "width": record.width}}
    return coco.annToMask({"image_id": 0, "segmentation": segmentation}).astype(bool)


def _box_mask(box_xywh: list[float], record: ImageRecord) -> np.ndarray:
    """The pixels of a box, bool (H, W)."""
    x, y, width, height = box_xywh
    mask = np.zeros((record.height, record.width), bool)
    left, top = max(0, int(x)), max(0, int(y))
    mask[top : max(top, int(np.ceil(y + height))), left : max(left, int(np.ceil(x + width)))] = True
    return mask


def _read(record: ImageRecord) -> np.ndarray:
    image = read_rgb(record.path, upright=False)
    if image.shape[:2] != (record.height, record.width):
        raise AnnotationError(
            f"{record.path} is {image.shape[1]} x {image.shape[0]} pixels, its annotations are for "
            f"{record.width} x {record.height}"
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
