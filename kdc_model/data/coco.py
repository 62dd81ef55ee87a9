"""COCO-format annotations -> records of images and the persons in them.

COCO, OCHuman and CrowdPose, and whatever else names its keypoints in its category: they are matched by name. Types
that a data set lacks (CrowdPose: nose, eyes, ears) are not labelled anywhere in it, those that COCO lacks (its head
and neck) are left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from kdc_core.rle import checked_counts, expand_counts
from kdc_core.skeleton import KEYPOINT_NAMES, NUM_KEYPOINTS

PERSON_CATEGORY = 1

# Beyond any picture, but small enough that OpenCV, which counts in int32, still takes it when it is enlarged.
_FARTHEST_PX = 1e7


class AnnotationError(ValueError):
    """A malformed annotation file: says which file, which record, what was expected."""


@dataclass(frozen=True, eq=False)
class Person:
    """One annotated person, in the pixels of the image file.

    keypoints:    float32 (K, 3): x, y, v with COCO's v (0 not labelled, 1 hidden, 2 visible).
    box_xywh:     x, y, width, height.
    segmentation: polygons, or an RLE dict with bytes or list counts; None where there is no mask.
    ignore:       the region counts in no loss: a crowd, or a person with neither keypoints nor mask.
    mask_quality: IoU of the mask with the true one; 1 for a person's own, an estimate for a machine-made one.
    crowd:        not one person but many.
    all_keypoints: whether whoever labelled the keypoints went through them all. Else (machine-made ones) a keypoint
                  without a label may well be in view, and the person is no negative of it.
    """

    keypoints: np.ndarray
    box_xywh: tuple[float, float, float, float]
    segmentation: list[list[float]] | dict[str, Any] | None
    ignore: bool
    mask_quality: float = 1.0
    crowd: bool = False
    annotation_id: int | None = None
    all_keypoints: bool = True

    @property
    def has_keypoints(self) -> bool:
        return bool((self.keypoints[:, 2] > 0).any())

    def polygons_or_mask(self, height: int, width: int) -> list[np.ndarray] | np.ndarray | None:
        """Polygons float64 (P, 2) with pixel EDGES at integers (COCO's rule), or a mask uint8 (H, W)."""
        if self.segmentation is None:
            return None
        if isinstance(self.segmentation, list):
            return [np.asarray(p, np.float64).reshape(-1, 2) for p in self.segmentation]
        rle = self.segmentation
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
        return coco_mask.decode(rle)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and everybody annotated in it.

    crowd_prob:     chance that people in it are not annotated at all.
    annotated_types: bool (K,): the keypoint types that its data set annotates.
    """

    image_id: int
    path: Path
    height: int
    width: int
    persons: tuple[Person, ...]
    crowd_prob: float = 0.0
    annotated_types: np.ndarray = field(default_factory=lambda: np.ones(NUM_KEYPOINTS, bool))


def load_records(annotations: Path, images: Path) -> list[ImageRecord]:
    """Read a COCO keypoint / instance file.

    Raises AnnotationError, or FileNotFoundError for a missing file.
    """
    data = _read_json(annotations)
    names = keypoint_names(annotations, data)
    person = person_category(annotations, data)
    annotated = np.isin(KEYPOINT_NAMES, names)
    records: dict[int, ImageRecord] = {}
    for image in data["images"]:
        record = _record(annotations, image, images, annotated)
        if record.image_id in records:
            raise AnnotationError(f"{annotations}: two images have the id {record.image_id}")
        records[record.image_id] = record
    numbers: set[int] = set()
    by_image: dict[int, list[Person]] = {}
    for annotation in data["annotations"]:
        if not isinstance(annotation, dict):
            raise AnnotationError(f"{annotations}: annotation {annotation!r:.80} must be a mapping")
        where = f"{annotations}: annotation {annotation.get('id', '(without id)')}"
        category = annotation.get("category_id", person)
        if type(category) is not int:
            raise AnnotationError(f"{where}: category_id must be a whole number, got {category!r:.80}")
        if category != person:
            continue
        if isinstance(number := annotation.get("id"), int):
            if number in numbers:
                raise AnnotationError(f"{annotations}: two annotations have the id {number}")
            numbers.add(number)
        image_id = annotation.get("image_id")
        if type(image_id) is not int or image_id not in records:
            raise AnnotationError(f"{where}: image_id must be an image's id, got {image_id!r:.80}")
        of = records[image_id]
        by_image.setdefault(image_id, []).append(_person(where, annotation, (of.height, of.width), names))
    declared = [c.get("id") for c in data.get("categories") or [] if isinstance(c, dict)]
    if data["annotations"] and not by_image and person not in declared:
        raise AnnotationError(
            f"{annotations}: no category is named 'person', and none of the annotations is of category {person}"
        )
    if records and not any(r.path.is_file() for r in records.values()):
        raise FileNotFoundError(f"none of the {len(records)} images of {annotations} is in {images}")
    return [replace(r, persons=tuple(by_image.get(r.image_id, ()))) for r in records.values()]


def add_pseudo_masks(records: list[ImageRecord], masks: Path, min_quality: float) -> list[ImageRecord]:
    """Give persons without a mask the machine-made one, where its estimated IoU reaches `min_quality`.

    Somebody of whom nothing else is known is no longer ignored then, unless a crowd. Raises AnnotationError, also for
    people without an id, or FileNotFoundError for a missing file.
    """
    made = read_pseudo_masks(masks)
    out = []
    for record in records:
        persons = []
        for person in record.persons:
            if person.annotation_id is None:
                raise AnnotationError(f"{masks}: a person in {record.path.name} has no id to find the mask by")
            entry = made.get(str(person.annotation_id))
            if person.segmentation is None and entry and entry["quality"] >= min_quality:
                where = f"{masks}: mask {person.annotation_id}"
                rle = _segmentation(where, entry, (record.height, record.width))
                quality = float(entry["quality"])
                person = replace(person, segmentation=rle, mask_quality=quality, ignore=person.crowd)
            persons.append(person)
        out.append(replace(record, persons=tuple(persons)))
    return out


def read_pseudo_masks(path: Path) -> dict[str, dict[str, Any]]:
    """Machine-made masks by annotation id: RLE (size, counts) and quality, the estimated IoU.

    Raises AnnotationError, or FileNotFoundError for a missing file.
    """
    made = _read_json(path, keys=("masks",))["masks"]
    if not isinstance(made, dict):
        raise AnnotationError(f"{path}: 'masks' must be a mapping from annotation ids")
    for number, entry in made.items():
        if not (isinstance(entry, dict) and {"quality", "size", "counts"} <= set(entry)):
            raise AnnotationError(f"{path}: mask {number} needs quality, size and counts")
        if not _is_number(entry["quality"], 0, 1):
            raise AnnotationError(
                f"{path}: mask {number}: quality must be a number from 0 to 1, got {entry['quality']!r:.80}"
            )
    return made


def _read_json(path: Path, keys: tuple[str, ...] = ("images", "annotations")) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file at {path}")
    try:
        data = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # the latter: lists in lists in lists
        raise AnnotationError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict) or any(k not in data for k in keys):
        raise AnnotationError(f"{path} is not a COCO annotation file: expected the keys {', '.join(keys)}")
    for key in ("images", "annotations"):
        if key in keys and not isinstance(data[key], list):
            raise AnnotationError(
                f"{path}: '{key}' must be a list of records, got {type(data[key]).__name__}"
            )
    return data


def person_category(path: Path, data: dict[str, Any]) -> int:
    """The id of a file's category "person", else COCO's. Raises AnnotationError."""
    categories = data.get("categories") or []
    if not isinstance(categories, list):
        raise AnnotationError(f"{path}: 'categories' must be a list of records, got {categories!r:.80}")
    for category in categories:
        if isinstance(category, dict) and category.get("name") == "person":
            if type(number := category.get("id")) is not int:
                raise AnnotationError(f"{path}: the person category's id must be a whole number, got {number!r:.80}")
            return number
    return PERSON_CATEGORY


def keypoint_names(path: Path, data: dict[str, Any]) -> tuple[str, ...]:
    """The names of a file's keypoints in their order: those of its person category, else COCO's.

    Raises AnnotationError.
    """
    person = person_category(path, data)
    for category in data.get("categories") or []:
        if isinstance(category, dict) and category.get("id") == person and "keypoints" in category:
            names = category["keypoints"]
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise AnnotationError(f"{path}: the person category's keypoints must be names, got {names!r:.80}")
            if not set(names) & set(KEYPOINT_NAMES):
                raise AnnotationError(
                    f"{path}: none of the keypoints {', '.join(names)} is one of COCO's ({', '.join(KEYPOINT_NAMES)})"
                )
            return tuple(names)
    return KEYPOINT_NAMES


def _record(path: Path, image: Any, images: Path, annotated_types: np.ndarray) -> ImageRecord:
    """An image's record, without the people in it."""
    try:
        if type(image["id"]) is not int:
            raise TypeError("the id must be a whole number")
        file, height, width = images / image["file_name"], int(image["height"]), int(image["width"])
        if min(height, width) < 1:
            raise ValueError("a picture has at least one pixel")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(
            f"{path}: image record {image!r:.120} needs id, file_name, height and width: {error!r}"
        ) from error
    crowd_prob = image.get("crowd_prob", 0.0)
    if not _is_number(crowd_prob, 0, 1):
        raise AnnotationError(
            f"{path}: image {image['id']}: crowd_prob must be a number from 0 to 1, got {crowd_prob!r:.80}"
        )
    return ImageRecord(image["id"], file, height, width, (), float(crowd_prob), annotated_types)


def _person(where: str, annotation: dict[str, Any], image_hw: tuple[int, int], names: tuple[str, ...]) -> Person:
    box = _numbers(annotation.get("bbox"), 4)
    if box is None or min(box[2:]) < 0:
        raise AnnotationError(
            f"{where}: bbox must be [x, y, width, height] within {_FARTHEST_PX:.0e} px, "
            f"got {annotation.get('bbox')!r:.80}"
        )
    flat = _numbers(annotation.get("keypoints", [0] * (3 * len(names))), 3 * len(names))
    if flat is None or not np.isin(flat[2::3], (0, 1, 2)).all():
        raise AnnotationError(
            f"{where}: keypoints must be {3 * len(names)} numbers x, y, v within {_FARTHEST_PX:.0e} px, "
            f"with v 0, 1 or 2, got {annotation['keypoints']!r:.80}"
        )
    if not _is_number(area := annotation.get("area", 0), 0, _FARTHEST_PX**2):
        raise AnnotationError(f"{where}: area must be a number of pixels, got {area!r:.80}")
    segmentation = annotation.get("segmentation") or None
    if not _flag(where, annotation, "has_mask", True):
        segmentation = None
    if segmentation is not None:
        segmentation = _segmentation(where, segmentation, image_hw)
    keypoints = np.zeros((NUM_KEYPOINTS, 3), np.float32)
    for values, name in zip(flat.reshape(-1, 3), names):
        if name in KEYPOINT_NAMES:
            keypoints[KEYPOINT_NAMES.index(name)] = values
    nothing_known = segmentation is None and not (keypoints[:, 2] > 0).any()
    crowd = _flag(where, annotation, "iscrowd", False)
    ignore = _flag(where, annotation, "ignore", False) or crowd or nothing_known
    number = annotation.get("id")
    return Person(
        keypoints,
        tuple(box.tolist()),
        segmentation,
        ignore,
        crowd=crowd,
        all_keypoints=_flag(where, annotation, "all_keypoints", True),
        annotation_id=number if isinstance(number, int) else None,
    )


def _segmentation(where: str, value: Any, image_hw: tuple[int, int]) -> list[list[float]] | dict[str, Any]:
    """Checked polygons, or an RLE whose counts are bytes or a list."""
    if isinstance(value, list):
        # pycocotools takes four numbers for a box, and fails on fewer.
        if any(_numbers(polygon) is None or len(polygon) % 2 or len(polygon) < 6 for polygon in value):
            raise AnnotationError(
                f"{where}: segmentation must be polygons [x, y, x, y, ...] of 3 points or more, within "
                f"{_FARTHEST_PX:.0e} px, got {value!r:.80}"
            )
        return value
    if not isinstance(value, dict) or not {"size", "counts"} <= set(value):
        raise AnnotationError(f"{where}: an RLE segmentation needs size and counts, got {value!r:.80}")
    size, counts = value["size"], value["counts"]
    if size != list(image_hw):
        raise AnnotationError(
            f"{where}: the segmentation's size {size!r} is not the image's, {list(image_hw)}"
        )
    if not isinstance(counts, (str, list)):
        raise AnnotationError(
            f"{where}: the segmentation's counts must be text or a list, got {counts!r:.80}"
        )
    # pycocotools decodes counts that end early from whatever lies in memory.
    try:
        checked_counts(expand_counts(counts) if isinstance(counts, str) else counts, *image_hw)
    except ValueError as error:
        raise AnnotationError(
            f"{where}: the segmentation's counts {counts!r:.80} are not an RLE: they must be whole numbers that "
            f"add up to {size[0]} x {size[1]} ({error})"
        ) from error
    return {"size": size, "counts": counts.encode() if isinstance(counts, str) else counts}


def _flag(where: str, annotation: dict[str, Any], key: str, default: bool) -> bool:
    value = annotation.get(key, default)
    if value not in (0, 1):
        raise AnnotationError(f"{where}: {key} must be 0 or 1, got {value!r:.80}")
    return bool(value)


def _is_number(value: Any, low: float, high: float) -> bool:
    """Whether it is a number (no text, no truth value) within these bounds, which NaN never is."""
    return type(value) in (int, float) and low <= value <= high


def _numbers(value: Any, count: int | None = None) -> np.ndarray | None:
    """A list of (so many) numbers, none beyond `_FARTHEST_PX`, as float64; None when it is not one."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        return None
    if not set(map(type, value)) <= {int, float}:
        return None
    try:
        numbers = np.asarray(value, np.float64)
    except OverflowError:  # a whole number beyond all floats
        return None
    return numbers if (np.abs(numbers) <= _FARTHEST_PX).all() else None
