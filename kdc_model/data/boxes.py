"""Photos with nothing but boxes of people -> annotations, by what a trained network sees in them.

Nobody knows from boxes alone which are a crowd's and whom the annotator left out. Where boxes and network disagree,
nobody learns anything: such places are marked as crowds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.types import People
from kdc_model.data.coco import PERSON_CATEGORY, AnnotationError

# The usual shapes of photographs (width / height) and how frequent they are.
ASPECTS = {3 / 2: 0.25, 4 / 3: 0.45, 1.0: 0.05, 3 / 4: 0.15, 2 / 3: 0.1}
# So much surer (sum of the people's scores) a network must be of one shape than of another e times as frequent.
_SURER = 1 / 16

_LEAST_SIDE_PX = 3.0
# Boxes hang over a picture's border by a little of it; numbers further out are pixels, or no boxes at all.
_OVERHANG = 0.1
# A box with so many people found in it, each smaller than this share of it, is a crowd's.
_CROWD, _CROWD_SHARE = 3, 0.25
# Somebody found with less than this share of their mask in any box is one whom the annotator left out.
_IN_BOXES = 0.4
_LEAST_PIXELS = 25
_MARGIN, _MARGIN_PX = 0.05, 2.0
# How a network looks that is to judge: finer, and with less doubt, than for what it reports.
_SEEN_PX, _SEEN_SCORE = 512, 0.12
# What it must see of a mask of more than so many pixels; it overlooks small people.
_SEEN_SHARE, _SEEN_LEAST_PIXELS = 0.3, 600


def judging_pipeline(model: Path, long_side: int = _SEEN_PX, person_threshold: float = _SEEN_SCORE) -> Pipeline:
    """A trained network that says whom it sees, also where it is not sure. Raises ModelLoadError."""
    return Pipeline.load(model, options=PipelineOptions(person_threshold=person_threshold), long_side=long_side)


def read_yolo(path: Path, person_class: int = 0) -> np.ndarray:
    """The boxes of people in a label file of YOLO's format, float64 (N, 4): x0, y0, x1, y1 as parts of the picture.

    A line is `class centre_x centre_y width height`, or `class x y x y ...`, a polygon, whose bounding box counts.
    Raises FileNotFoundError, AnnotationError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no labels at {path}")
    boxes = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            class_, values = int(words[0]), np.array([float(word) for word in words[1:]])
        except ValueError:
            class_, values = -1, np.empty(0)
        polygon = len(values) >= 6 and len(values) % 2 == 0
        if class_ < 0 or not (len(values) == 4 or polygon) or not np.isfinite(values).all():
            raise AnnotationError(
                f"{path}, line {number}: expected a class and a box (4 numbers) or a polygon, got {line!r:.80}"
            )
        if class_ != person_class:
            continue
        if polygon:
            points = values.reshape(-1, 2)
            corners = np.concatenate([points.min(0), points.max(0)])
        else:
            corners = np.concatenate([values[:2] - values[2:] / 2, values[:2] + values[2:] / 2])
        outside = values.min() < -_OVERHANG or values.max() > 1 + _OVERHANG
        if outside or (corners[2:] < corners[:2]).any():
            raise AnnotationError(
                f"{path}, line {number}: expected parts of the picture, 0 to 1, and no size below 0, got {line!r:.80}"
            )
        boxes.append(corners.clip(0, 1))
    return np.array(boxes, np.float64).reshape(-1, 4)


def likely_aspect(sureness: Callable[[float], float]) -> float:
    """The shape (width / height) that a photo had before it was squashed: at which a network is surest of people.

    sureness: the sum of the people's scores that it finds in the photo brought to a shape.
    """
    return max(ASPECTS, key=lambda aspect: sureness(aspect) / _SURER + math.log(ASPECTS[aspect]))


def annotate(boxes: Sequence[Sequence[float]], found: People, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """Annotations in COCO's format, without keypoints and masks: for each box, and for people found beside them.

    boxes: x0, y0, x1, y1 in the picture's pixels, with edges at integers; those under 3 px are left out.
    found: whom the network sees in the picture, with masks. Raises ValueError without.
    """
    if found.mask_labels is None:
        raise ValueError("masks are needed to tell whom the boxes leave out")
    height, width = found.mask_labels.shape
    middles = (found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:] + 1) / 2
    areas = np.prod(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2] + 1, axis=1)
    covered = np.zeros((height, width), bool)
    regions: list[tuple[Sequence[float], bool]] = []
    for x0, y0, x1, y1 in boxes:
        box_width, box_height = x1 - x0, y1 - y0
        if min(box_width, box_height) < _LEAST_SIDE_PX:
            continue
        inside = ((middles > (x0, y0)) & (middles < (x1, y1))).all(1) & (areas < _CROWD_SHARE * box_width * box_height)
        regions.append(((x0, y0, box_width, box_height), int(inside.sum()) >= _CROWD))
        dx, dy = _MARGIN * box_width + _MARGIN_PX, _MARGIN * box_height + _MARGIN_PX
        rows, columns = slice(max(0, int(y0 - dy)), int(y1 + dy) + 1), slice(max(0, int(x0 - dx)), int(x1 + dx) + 1)
        covered[rows, columns] = True
    for person in range(len(found)):
        mask = found.mask_labels == person + 1
        if mask.sum() > _LEAST_PIXELS and (mask & covered).sum() < _IN_BOXES * mask.sum():
            ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x0, y0 = max(0, int(xs[0]) - 3), max(0, int(ys[0]) - 3)
            x1, y1 = min(width, int(xs[-1]) + 4), min(height, int(ys[-1]) + 4)
            regions.append(((x0, y0, x1 - x0, y1 - y0), True))
    return [
        {
            "id": first_id + n,
            "image_id": image_id,
            "category_id": PERSON_CATEGORY,
            "bbox": [round(float(v), 2) for v in region],
            "area": round(float(region[2] * region[3]), 2),
            "iscrowd": int(crowd),
            "num_keypoints": 0,
            "keypoints": [0] * (3 * NUM_KEYPOINTS),
            "segmentation": [],
            "has_mask": False,
        }
        for n, (region, crowd) in enumerate(regions)
    ]


def agreement(mask: np.ndarray, found: People) -> float:
    """The share of a machine-made mask, bool (H, W), in which the network sees anybody. Raises ValueError."""
    if found.mask_labels is None:
        raise ValueError("masks are needed to compare with")
    return float((mask & (found.mask_labels > 0)).sum() / max(int(mask.sum()), 1))


def doubted(masks: dict[int, dict[str, Any]], found: People) -> list[int]:
    """Which of a picture's machine-made masks (RLEs by annotation id) show nobody, as far as the network can tell."""
    out = []
    for number, entry in masks.items():
        mask = coco_mask.decode({"size": entry["size"], "counts": entry["counts"].encode()}).astype(np.bool_)
        if mask.sum() > _SEEN_LEAST_PIXELS and agreement(mask, found) < _SEEN_SHARE:
            out.append(number)
    return out
