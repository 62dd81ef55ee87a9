"""COCO's scores of people against annotations in memory: keypoint AP, mask AP, IoU of person pixels.

The protocol is COCO's: keypoints by OKS with 20 detections an image, ranked by the person's score; person masks
("segm", category 1) with 100, ranked by their own. Needs pycocotools; only what scores something imports this module.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdc_core.coco_results import PERSON_CATEGORY
from kdc_core.rle import from_coco, to_coco
from kdc_core.skeleton import NUM_KEYPOINTS, OKS_SIGMAS
from kdc_core.types import People

# The order in which COCOeval.summarize() leaves its numbers.
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
SEGM_METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
# COCO: OKS = exp(-d^2 / (2 s^2 k^2)) with s^2 the area and k = 2 sigma.
_OKS_VARIANCE = (2.0 * OKS_SIGMAS.astype(np.float64)) ** 2


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of the ground truth, and its persons as `complete_annotation` leaves them."""

    image_id: int
    image_hw: tuple[int, int]
    annotations: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class CocoScores:
    """COCO's numbers, -1 where nothing is annotated, and the precision behind them.

    metrics:   by the names in KEYPOINT_METRICS or SEGM_METRICS.
    precision: float64 (10, 101): at OKS or IoU .50:.05:.95 and recall 0:.01:1; -1 where nothing is annotated.
    """

    metrics: dict[str, float]
    precision: np.ndarray


def complete_annotation(annotation: dict[str, Any], keypoints: int = NUM_KEYPOINTS) -> dict[str, Any]:
    """An annotation of so many keypoints with every key that COCO's tools expect.

    `ignore` (ours: a region that must not count) becomes COCO's iscrowd. A person without a true mask keeps
    the key `has_mask` False; mask evaluation lets detections in such a person's box pass.
    """
    points = annotation.get("keypoints") or [0] * (3 * keypoints)
    _, _, width, height = annotation["bbox"]
    return {
        **annotation,
        "category_id": PERSON_CATEGORY,
        "keypoints": points,
        "num_keypoints": sum(v > 0 for v in points[2::3]),
        "area": annotation.get("area", width * height),
        "iscrowd": int(bool(annotation.get("iscrowd")) or bool(annotation.get("ignore"))),
        "has_mask": bool(annotation.get("has_mask", True)) and bool(annotation.get("segmentation")),
    }


def score_keypoints(
    truth: Sequence[AnnotatedImage], results: list[dict[str, Any]], sigmas: np.ndarray = OKS_SIGMAS
) -> CocoScores:
    """COCO's keypoint scores of result entries (see `coco_results`). sigmas: the keypoints' OKS sigmas, (K,).

    An entry without any keypoint found claims no pose.
    """
    detections = []
    for result in results:
        points = np.asarray(result["keypoints"], np.float64).reshape(-1, 3)
        if not points[:, 2].any():
            continue
        # The size class of a detection comes from all its keypoints, as in COCO's own loadRes of a keypoint file.
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        size = high - low
        detections.append(
            {
                **{k: result[k] for k in ("image_id", "category_id", "keypoints", "score")},
                "bbox": [*low.tolist(), *size.tolist()],
                "area": float(size.prod()),
            }
        )
    annotations = [a for image in truth for a in image.annotations]
    return _coco_eval(truth, annotations, detections, "keypoints", sigmas)


def score_masks(truth: Sequence[AnnotatedImage], results: list[dict[str, Any]]) -> CocoScores:
    """COCO's "segm" scores of result entries; an entry whose mask is empty, or absent, claims none.

    Entries are ranked by their `mask_score`, those without by their `score`.
    """
    detections = []
    for result in results:
        mask = result.get("segmentation")
        area = float(from_coco(mask).sum()) if mask is not None else 0.0
        if area > 0:
            keys = ("image_id", "category_id", "segmentation", "bbox")
            rank = result.get("mask_score", result["score"])
            detections.append({**{k: result[k] for k in keys}, "score": rank, "area": area})
    annotations = []
    for image in truth:
        for annotation in image.annotations:
            if not annotation["has_mask"]:
                box = box_mask(annotation["bbox"], image.image_hw)
                annotation = {**annotation, "segmentation": to_coco(box), "iscrowd": 1}
            annotations.append(annotation)
    return _coco_eval(truth, annotations, detections, "segm")


def _coco_eval(
    truth: Sequence[AnnotatedImage],
    annotations: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    kind: str,
    sigmas: np.ndarray = OKS_SIGMAS,
) -> CocoScores:
    numbered = [{**d, "id": i + 1, "iscrowd": 0} for i, d in enumerate(detections)]
    with contextlib.redirect_stdout(io.StringIO()):
        # COCOeval takes the number 0 for "nobody", and two of one number for the same.
        truths = [{**a, "id": i + 1} for i, a in enumerate(annotations)]
        evaluation = COCOeval(_coco(truth, truths), _coco(truth, numbered), kind)
        evaluation.params.catIds = [PERSON_CATEGORY]
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = sigmas.astype(np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = KEYPOINT_METRICS if kind == "keypoints" else SEGM_METRICS
    metrics = {name: float(value) for name, value in zip(names, evaluation.stats)}
    # (thresholds, recalls, categories, areas, maxDets): the person, of all sizes, all detections.
    return CocoScores(metrics, evaluation.eval["precision"][:, :, 0, 0, -1])


def _coco(truth: Sequence[AnnotatedImage], annotations: list[dict[str, Any]]) -> COCO:
    """COCO's index over entries in memory. Not its loadRes: that fails on an empty list."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i.image_id, "height": i.image_hw[0], "width": i.image_hw[1]} for i in truth],
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

    def add(self, people: People, image: AnnotatedImage) -> None:
        """Count one image; people without masks cover nothing."""
        person, unknown = (np.zeros(image.image_hw, bool) for _ in range(2))
        for annotation in image.annotations:
            if not annotation["has_mask"]:
                unknown |= box_mask(annotation["bbox"], image.image_hw)
            elif annotation["iscrowd"]:
                unknown |= annotation_mask(annotation["segmentation"], image.image_hw)
            else:
                person |= annotation_mask(annotation["segmentation"], image.image_hw)
        # A pixel of a person with a mask is certain, whatever box it lies in.
        counted = ~unknown | person
        found = people.mask_labels > 0 if people.mask_labels is not None else np.zeros_like(person)
        self.intersection += int((found & person).sum())
        self.union += int(((found | person) & counted).sum())

    def iou(self) -> float:
        """0..1; -1 where there is no person pixel at all, as COCO marks a metric without ground truth."""
        return self.intersection / self.union if self.union else -1.0


def annotation_mask(segmentation: Any, image_hw: tuple[int, int]) -> np.ndarray:
    """A segmentation in any of COCO's forms -> bool (H, W)."""
    coco = COCO()
    coco.imgs = {0: {"height": image_hw[0], "width": image_hw[1]}}
    return coco.annToMask({"image_id": 0, "segmentation": segmentation}).astype(bool)


def box_mask(box_xywh: Sequence[float], image_hw: tuple[int, int]) -> np.ndarray:
    """The pixels of a box, bool (H, W)."""
    x, y, width, height = box_xywh
    mask = np.zeros(image_hw, bool)
    left, top = max(0, int(x)), max(0, int(y))
    mask[top : max(top, int(np.ceil(y + height))), left : max(left, int(np.ceil(x + width)))] = True
    return mask


def annotated_poses(image: AnnotatedImage) -> tuple[np.ndarray, np.ndarray]:
    """The poses that count among an image's annotations: keypoints float64 (M, K, 3) as annotated, areas (M,)."""
    posed = [a for a in image.annotations if a["num_keypoints"] > 0 and not a["iscrowd"]]
    keypoints = np.array([a["keypoints"] for a in posed], np.float64).reshape(-1, NUM_KEYPOINTS, 3)
    return keypoints, np.array([a["area"] for a in posed], np.float64)


def oks_matrix(keypoints: np.ndarray, areas_px: np.ndarray, found_xy: np.ndarray) -> np.ndarray:
    """COCO's object keypoint similarity of M persons with N found poses, float64 (M, N), 0..1.

    keypoints (M, K, 3): x, y and what is above 0 where the keypoint counts; areas_px (M,): the persons' areas in
    square pixels; found_xy (N, K, 2). A person without a keypoint that counts is like nobody: 0.
    """
    counts = keypoints[..., 2] > 0
    away = found_xy[None].astype(np.float64) - keypoints[:, None, :, :2]
    variance = np.maximum(areas_px, 1.0)[:, None] * _OKS_VARIANCE
    similarity = np.exp(-np.einsum("mnkd,mnkd->mnk", away, away) / (2 * variance[:, None]))
    similarity = np.where(counts[:, None], similarity, 0.0).sum(2)
    return similarity / np.maximum(counts.sum(1), 1)[:, None]
