"""Annotations of a recording: COCO's format, whose images name a frame by its stamp or its number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdc_core.rle import from_coco
from kdc_core.skeleton import NUM_KEYPOINTS

# Beyond any picture; pycocotools takes memory for every pixel that a polygon's edge passes, inside the picture or not.
_FARTHEST_PX = 1e5
# TrackEval counts in int64.
_HIGHEST_TRACK_ID = 2**63 - 1


class ReplayAnnotationError(ValueError):
    """An annotation file that cannot be used; the message names the record and the field."""


@dataclass(frozen=True)
class AnnotatedFrame:
    """An annotated image: its id in the file, what it is matched by, and COCO's annotations of it."""

    image_id: int
    stamp_ns: int | None
    frame_index: int | None
    annotations: list[dict[str, Any]]


@dataclass(frozen=True)
class Annotations:
    """A file of annotations. Images carry `stamp_ns` (the header's stamp), or else `frame_index` (from 0)."""

    name: str
    sha256: str
    frames: list[AnnotatedFrame]

    def match(self, frames: Iterable[tuple[int, int]]) -> dict[int, AnnotatedFrame]:
        """The annotated image of each frame, by the frame's index; frames are pairs of index and stamp in ns.

        A stamp decides where the image has one. Where several frames have the same stamp, the first one is meant.
        """
        by_stamp = {f.stamp_ns: f for f in self.frames if f.stamp_ns is not None}
        by_index = {f.frame_index: f for f in self.frames if f.stamp_ns is None}
        matched: dict[int, AnnotatedFrame] = {}
        for index, stamp_ns in frames:
            found = by_stamp.pop(stamp_ns, None) or by_index.get(index)
            if found is not None:
                matched[index] = found
        return matched


def load_annotations(path: Path) -> Annotations:
    """Read and check a file. Raises OSError, ReplayAnnotationError."""
    content = path.read_bytes()
    try:
        data = json.loads(content)
    except ValueError as error:
        raise ReplayAnnotationError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ReplayAnnotationError(f"{path} must hold a JSON object with 'images' and 'annotations'")
    check = _Checker(path)
    images = check.records(data, "images")
    annotations = check.records(data, "annotations")
    sizes: dict[int, tuple[int, int] | None] = {}
    of_image: dict[int, list[dict[str, Any]]] = {}
    frames = []
    stamps: set[tuple[str, int]] = set()
    for i, image in enumerate(images):
        where = f"images[{i}]"
        image_id = check.whole(image, "id", where)
        if image_id in of_image:
            raise check.error(where, "id", f"{image_id} occurs twice")
        of_image[image_id] = []
        size = [check.whole(image, name, where) for name in ("height", "width") if name in image]
        sizes[image_id] = (size[0], size[1]) if len(size) == 2 else None
        stamp = check.whole(image, "stamp_ns", where) if "stamp_ns" in image else None
        index = check.whole(image, "frame_index", where) if "frame_index" in image else None
        if stamp is None and index is None:
            raise check.error(where, "stamp_ns", "is missing, and so is 'frame_index': which frame is it?")
        key = ("stamp_ns", stamp) if stamp is not None else ("frame_index", index)
        if key in stamps:
            raise check.error(where, key[0], f"{key[1]} occurs twice")
        stamps.add(key)  # type: ignore[arg-type]
        frames.append(AnnotatedFrame(image_id, stamp, index, of_image[image_id]))
    people = _person_categories(check, data)
    tracks: set[tuple[int, int | None]] = set()
    for i, annotation in enumerate(annotations):
        where = f"annotations[{i}]"
        image_id = check.whole(annotation, "image_id", where)
        if image_id not in of_image:
            raise check.error(where, "image_id", f"there is no image {image_id}")
        if people is not None and check.whole(annotation, "category_id", where) not in people:
            continue
        checked = _checked(check, annotation, where, sizes[image_id])
        track = None if checked.get("iscrowd") else checked.get("track_id")
        if track is not None and (image_id, track) in tracks:
            raise check.error(where, "track_id", f"{track} occurs twice in image {image_id}")
        tracks.add((image_id, track))
        of_image[image_id].append(checked)
    if not frames:
        raise ReplayAnnotationError(f"{path}: 'images' is empty")
    return Annotations(path.name, hashlib.sha256(content).hexdigest(), frames)


def _person_categories(check: _Checker, data: dict[str, Any]) -> set[int] | None:
    """Ids of the categories called person; None where the file names no categories."""
    categories = check.records(data, "categories") if "categories" in data else []
    if not categories:
        return None
    people = {
        check.whole(category, "id", f"categories[{i}]")
        for i, category in enumerate(categories)
        if category.get("name") == "person"
    }
    if not people:
        raise check.no_person()
    return people


def _checked(
    check: _Checker, annotation: dict[str, Any], where: str, image_hw: tuple[int, int] | None
) -> dict[str, Any]:
    """The annotation with the fields that every user of COCO's format expects."""
    box = check.numbers(annotation, "bbox", where, 4)
    if box[2] < 0 or box[3] < 0:
        raise check.error(where, "bbox", f"has a negative size: {box}")
    if annotation.get("keypoints") is not None:
        keypoints = check.numbers(annotation, "keypoints", where, 3 * NUM_KEYPOINTS)
        if any(v not in (0, 1, 2) for v in keypoints[2::3]):
            raise check.error(where, "keypoints", "every third number must be a visibility: 0, 1 or 2")
    if "track_id" in annotation:
        track = check.whole(annotation, "track_id", where)
        if abs(track) > _HIGHEST_TRACK_ID:
            raise check.error(where, "track_id", f"must fit into 64 bits, got {track!r:.40}")
    if "area" in annotation:
        check.number(annotation["area"], "area", where)
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise check.error(where, "iscrowd", f"must be 0 or 1, got {annotation['iscrowd']!r:.40}")
    if annotation.get("segmentation") is not None:
        _check_segmentation(check, annotation["segmentation"], where, image_hw)
    return dict(annotation)


def _check_segmentation(check: _Checker, value: Any, where: str, image_hw: tuple[int, int] | None) -> None:
    if isinstance(value, dict):
        try:
            size = from_coco(value).shape
        except (ValueError, TypeError) as error:
            raise check.error(where, "segmentation", str(error)) from error
        if image_hw is not None and size != image_hw:
            sizes = f"{size[1]} x {size[0]}, its image has {image_hw[1]} x {image_hw[0]}"
            raise check.error(where, "segmentation", f"is a mask of {sizes}")
    elif isinstance(value, list):
        for polygon in value:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise check.error(where, "segmentation", "a polygon is a list of at least three x, y pairs")
            for number in polygon:
                if abs(check.number(number, "segmentation", where)) > _FARTHEST_PX:
                    raise check.error(where, "segmentation", f"{number!r:.40} is no pixel of a picture")
    else:
        raise check.error(where, "segmentation", "must be polygons or an RLE")


class _Checker:
    """Fields of the right kind, or an error that names them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def error(self, where: str, name: str, problem: str) -> ReplayAnnotationError:
        return ReplayAnnotationError(f"{self._path}, {where}: '{name}' {problem}")

    def no_person(self) -> ReplayAnnotationError:
        return ReplayAnnotationError(f"{self._path}: none of its 'categories' is called person")

    def records(self, data: dict[str, Any], name: str) -> list[dict[str, Any]]:
        value = data.get(name)
        if not isinstance(value, list):
            raise ReplayAnnotationError(f"{self._path}: '{name}' must be a list")
        for i, record in enumerate(value):
            if not isinstance(record, dict):
                raise ReplayAnnotationError(f"{self._path}: {name}[{i}] must be an object")
        return value

    def whole(self, record: dict[str, Any], name: str, where: str) -> int:
        if name not in record:
            raise self.error(where, name, "is missing")
        value = record[name]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(where, name, f"must be a whole number, got {value!r:.40}")
        return value

    def number(self, value: Any, name: str, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(where, name, f"must be made of finite numbers, got {value!r:.40}")
        return float(value)

    def numbers(self, record: dict[str, Any], name: str, where: str, count: int) -> list[float]:
        if name not in record:
            raise self.error(where, name, "is missing")
        value = record[name]
        if not isinstance(value, list) or len(value) != count:
            raise self.error(where, name, f"must be a list of {count} numbers")
        return [self.number(v, name, where) for v in value]
