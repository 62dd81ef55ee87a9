"""Made scenes: pictures of articulated figures whose keypoints and masks are known exactly.

For tests, benchmarks and quick starts without any download. A figure has COCO's 17 keypoints on a body with
thickness (torso, head with a face, limbs, hands, feet); figures hide each other, are cut off by the border,
turn their back, sit and lie down. The same seed makes the same scene. Needs numpy, OpenCV and pycocotools
only, so that it also serves where torch is not installed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from kdc_core.skeleton import KEYPOINT_NAMES, LIMBS
from kdc_model.data.figures import PART_NUMBER, PARTS, Body, parts_at

_ATTEMPTS = 40  # placements tried for each figure before a scene stays with fewer
_SHIFT = 4  # OpenCV draws in sixteenths of a pixel


@dataclass(frozen=True, eq=False)
class _Figure:
    """keypoints: float64 (K, 3) with x, y in pixels and COCO's v; parts: uint8 (H, W), number of the part."""

    keypoints: np.ndarray
    parts: np.ndarray


def make_scene(seed: int, height: int, width: int, people: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One scene: image uint8 RGB (H, W, 3) and a COCO annotation for each person in it, without ids.

    An annotation has `segmentation` (RLE of the visible pixels), `bbox` and `area` of it, `keypoints` (17 x,
    y, v in the picture's pixels, pixel centres at integers; v = 2 seen, 1 hidden, 0 out of the picture or on
    the far side of the head) and `num_keypoints`. No figure is hidden so far that less than a third of it is
    seen; where no place for that is found (many people, small picture) there are fewer people than asked for.
    """
    rng = np.random.default_rng(seed)
    image = _background(rng, height, width)
    # From far (small) to near (large): later figures hide earlier ones.
    sizes = np.sort(np.exp(rng.uniform(np.log(0.35), np.log(1.15), people))) * height
    figures: list[_Figure] = []
    owner = np.zeros((height, width), np.int32)
    for size in sizes:
        for _ in range(_ATTEMPTS):
            figure = _random_figure(rng, size, height, width)
            if figure is None:
                continue
            covered = np.where(figure.parts > 0, len(figures) + 1, owner)
            seen = np.bincount(covered.ravel(), minlength=len(figures) + 2)[1:-1]
            if all(s * 3 >= (f.parts > 0).sum() for s, f in zip(seen, figures)):
                figures.append(figure)
                owner = covered
                break
    annotations = []
    for number, figure in enumerate(figures, start=1):
        _paint(image, figure, rng)
        annotations.append(_annotation(figure, owner, number))
    # Lens blur and sensor noise; without them a part's edge would be sharper than any photo's.
    image = cv2.GaussianBlur(image, (3, 3), 0.6)
    noise = rng.normal(0.0, 3.0, image.shape).astype(np.float32)
    return np.clip(image + noise, 0, 255).astype(np.uint8), annotations


def write_dataset(
    folder: Path,
    count: int,
    height: int = 240,
    width: int = 320,
    people: tuple[int, int] = (0, 4),
    seed: int = 0,
) -> Path:
    """Write `count` scenes with `people` = (fewest, most) persons; returns `folder/annotations.json`.

    Pictures go to `folder/images`, as PNG: what was annotated is what is read back.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        persons = int(rng.integers(people[0], people[1] + 1))
        image, found = make_scene(int(rng.integers(2**31)), height, width, persons)
        name = f"{number:06d}.png"
        if not cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise OSError(f"cannot write {folder / 'images' / name}")
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for annotation in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(KEYPOINT_NAMES),
        "skeleton": [[a + 1, b + 1] for a, b in LIMBS],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return path


def _annotation(figure: _Figure, owner: np.ndarray, number: int) -> dict[str, Any]:
    """COCO annotation of one figure, given who is seen at each pixel."""
    height, width = owner.shape
    rle = coco_mask.encode(np.asfortranarray(owner == number, np.uint8))
    keypoints = figure.keypoints.copy()
    for point in keypoints:
        x, y = np.floor(point[:2] + 0.5).astype(int)
        if not (0 <= x < width and 0 <= y < height):
            point[:] = 0.0
        elif point[2] == 2 and owner[y, x] != number:
            point[2] = 1.0
    keypoints[keypoints[:, 2] == 0] = 0.0
    return {
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
        "area": float(coco_mask.area(rle)),
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "keypoints": [round(float(v), 3) for v in keypoints.ravel()],
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def _random_figure(rng: np.random.Generator, size: float, height: int, width: int) -> _Figure | None:
    """A figure of `size` pixels when upright, somewhere; None where too little of it is in the picture."""
    body = Body(rng, size)
    whole = np.concatenate([outline for _, outline in body.shapes])
    low, high = whole.min(0), whole.max(0)
    # Most figures are in the picture as a whole where they fit, every third is cut off by the border.
    beyond = 0.45 if rng.random() < 0.35 else 0.0
    room = np.array([width - 1.0, height - 1.0]) - (high - low)
    start, stop = np.minimum(0.0, room), np.maximum(0.0, room)
    place = rng.uniform(start - beyond * (high - low), stop + beyond * (high - low)) - low
    parts = np.zeros((height, width), np.uint8)
    total = 0.0
    for part, outline in body.shapes:
        points = np.round((outline + place) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(parts, [points], part, lineType=cv2.LINE_8, shift=_SHIFT)
        total += cv2.contourArea(outline.astype(np.float32))
    if (parts > 0).sum() < max(0.3 * total, 60):
        return None
    keypoints = body.keypoints.copy()
    keypoints[:, :2] += place
    # A joint is seen where the uppermost part is one that it belongs to.
    for k, name in enumerate(KEYPOINT_NAMES):
        x, y = np.floor(keypoints[k, :2] + 0.5).astype(int)
        inside = 0 <= x < width and 0 <= y < height
        if keypoints[k, 2] == 2 and inside and PARTS[parts[y, x]] not in parts_at(name):
            keypoints[k, 2] = 1
    return _Figure(keypoints, parts)


def _paint(image: np.ndarray, figure: _Figure, rng: np.random.Generator) -> None:
    """Colour a figure's pixels, in place: float32 RGB."""
    skin = np.array([232, 190, 160]) * rng.uniform(0.35, 1.05)
    shirt, trousers = rng.uniform(20, 240, 3), rng.uniform(15, 150, 3)
    colours = {
        "shirt": shirt,
        "sleeve": shirt if rng.random() < 0.7 else skin,
        "trousers": trousers,
        "skin": skin,
        "shoe": rng.uniform(10, 120, 3),
        "face": skin,
        "hair": np.array([90, 60, 35]) * rng.uniform(0.15, 2.0),
        "eye": np.array([35, 28, 28]),
        "mouth": skin * (0.8, 0.5, 0.5),
    }
    palette = np.zeros((len(PARTS), 3), np.float32)
    for name, colour in colours.items():
        palette[PART_NUMBER[name]] = colour
    inside = figure.parts > 0
    # Round bodies are darker towards their outline, and where one part ends on another.
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
    shade = 0.62 + 0.38 * np.minimum(1.0, depth / max(2.0, 0.8 * float(depth.max())))
    shape = figure.parts.astype(np.float32)
    edges = cv2.morphologyEx(shape, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    shade = np.where(edges, shade * 0.85, shade)
    height, width = figure.parts.shape
    folds = 1.0 + 0.14 * _noise(rng, height, width, 24)
    painted = palette[figure.parts] * (shade * folds)[..., None]
    image[inside] = painted[inside]


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Walls, floor, boxes, poles and discs with texture, float32 RGB: things that are not people."""
    image = np.empty((height, width, 3), np.float32)
    horizon = int(height * rng.uniform(0.3, 0.8))
    image[:horizon], image[horizon:] = rng.uniform(60, 220, 3), rng.uniform(40, 190, 3)
    for _ in range(int(rng.integers(3, 12))):
        colour = tuple(float(c) for c in rng.uniform(20, 235, 3))
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = int(rng.integers(2, max(3, width // 3))), int(rng.integers(2, max(3, height // 2)))
        kind = rng.integers(4)
        if kind == 0:
            cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
        elif kind == 1:
            cv2.rectangle(image, (x, 0), (x + max(2, w // 10), height), colour, -1)
        elif kind == 2:
            cv2.circle(image, (x, y), max(2, min(w, h) // 3), colour, -1)
        else:
            cv2.line(image, (x, y), (x + w, y - h), colour, max(1, w // 12))
    for cells in (4, 12, 48):
        image *= (1.0 + 0.1 * _noise(rng, height, width, cells))[..., None]
    return image


def _noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth noise of standard deviation about 1, float32 (H, W), `cells` bumps across the width."""
    rows = max(2, round(cells * height / width))
    coarse = rng.normal(0.0, 1.0, (rows, cells)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
