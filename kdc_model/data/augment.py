"""Augmentation: one affine map moves image, keypoints, boxes and masks together; colour only changes it.

Coordinates follow `kdc_core.geometry` (pixel centres at integers).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.encode import GroundTruth
from kdc_core.geometry import PAD_VALUE
from kdc_core.skeleton import FLIP_INDEX, NUM_KEYPOINTS
from kdc_model.data.coco import ImageRecord, Person


@dataclass(frozen=True)
class Warp:
    """Source pixels -> network pixels: xy' = matrix[:, :2] @ xy + matrix[:, 2]; `flipped` swaps left and
    right joints.

    matrix:   float64 (2, 3).
    input_hw: (height, width) of the network input.
    """

    matrix: np.ndarray
    input_hw: tuple[int, int]
    flipped: bool

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Move points, (..., 2) -> float64 (..., 2)."""
        return np.asarray(xy, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def image(self, image: np.ndarray) -> np.ndarray:
        """Move a picture, uint8 (H, W, 3) -> uint8 (H', W', 3); grey beyond its border."""
        height, width = self.input_hw
        scale = np.sqrt(abs(np.linalg.det(self.matrix[:, :2])))
        matrix = self.matrix
        if scale < 0.75:
            # Warping samples points: shrink by area first, or fine detail turns into noise. From 1 / sqrt(2) down a
            # pixel can fall between the points altogether.
            factor = scale / 0.9
            # Given the size and not the factor: else OpenCV resizes by the factor before its rounding to
            # whole pixels, and the far border comes out up to half a pixel from where the keypoints go.
            size = [max(1, round(side * factor)) for side in (image.shape[1], image.shape[0])]
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            fy, fx = small.shape[0] / image.shape[0], small.shape[1] / image.shape[1]
            # x_small = (x + 0.5) f - 0.5, so x = (x_small + 0.5) / f - 0.5.
            matrix = matrix.copy()
            shift = np.array([0.5 / fx - 0.5, 0.5 / fy - 0.5])
            matrix[:, 2] += matrix[:, :2] @ shift
            matrix[:, :2] = matrix[:, :2] / np.array([fx, fy])
            image = small
        return cv2.warpAffine(
            image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(PAD_VALUE,) * 3
        )

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Move a mask, uint8 0/1 (H, W) -> bool (H', W')."""
        height, width = self.input_hw
        full = mask * np.uint8(255)
        return cv2.warpAffine(full, self.matrix, (width, height), flags=cv2.INTER_LINEAR) > 127

    def keypoints(self, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move keypoints (K, 3) -> xy float32 (K, 2), labelled bool (K,), which ends beyond the input."""
        xy = self.points(keypoints[:, :2])
        labelled = keypoints[:, 2] > 0
        if self.flipped:
            xy, labelled = xy[list(FLIP_INDEX)], labelled[list(FLIP_INDEX)]
        height, width = self.input_hw
        inside = (xy >= -0.5).all(1) & (xy[:, 0] < width - 0.5) & (xy[:, 1] < height - 0.5)
        return xy.astype(np.float32), labelled & inside


@dataclass(frozen=True)
class WarpRange:
    """How strongly to move pictures.

    long_side:   the picture's longer side at scale 1, network pixels: the size the network will be used at.
    scale:       (low, high) factor on that, drawn evenly on a logarithmic scale.
    rotation_deg: largest rotation either way.
    flip:        chance of a mirror image.
    enlargement: pictures are enlarged to at most this many times their own pixels, whatever `scale` says.
    """

    long_side: int
    scale: tuple[float, float]
    rotation_deg: float
    flip: float
    enlargement: float = np.inf

    def scales(self, record_px: int) -> tuple[float, float]:
        """The range of factors on the pixels of a picture whose longer side has `record_px` of them."""
        low, high = (self.long_side / record_px * s for s in self.scale)
        return min(low, self.enlargement), min(high, self.enlargement)


def random_warp(
    record: ImageRecord, input_hw: tuple[int, int], ranges: WarpRange, rng: np.random.Generator
) -> Warp:
    """Draw a warp.

    The window falls around a random person (one with keypoints, if there are any) in three of four draws, anywhere
    else in the rest.
    """
    low, high = np.log(ranges.scales(max(record.height, record.width)))
    scale = np.exp(rng.uniform(low, high))
    angle = np.deg2rad(rng.uniform(-ranges.rotation_deg, ranges.rotation_deg))
    flipped = rng.random() < ranges.flip
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flipped:
        linear = linear @ np.diag([-1.0, 1.0])
    size = np.array([record.width, record.height], np.float64)
    window = np.array(input_hw[::-1], np.float64) / scale
    persons = [p for p in record.persons if not p.ignore]
    persons = [p for p in persons if p.has_keypoints] or persons
    if persons and rng.random() < 0.75:
        x, y, w, h = persons[rng.integers(len(persons))].box_xywh
        focus = np.array([x + w * rng.random(), y + h * rng.random()])
    else:
        focus = rng.random(2) * size
    # The window's centre: near the focus, but no further out than needed to stay on the picture.
    centre = focus + (rng.random(2) - 0.5) * window * 0.5
    half = np.minimum(window, size) / 2
    centre = np.clip(centre, half, size - half)
    shift = np.array(input_hw[::-1]) / 2 - 0.5 - linear @ (centre - 0.5)
    return Warp(np.column_stack([linear, shift]), input_hw, flipped)


def plain_warp(record: ImageRecord, input_hw: tuple[int, int]) -> Warp:
    """The whole picture, as large as fits, top-left (as `kdc_core.geometry.Letterbox` places it)."""
    scale = min(input_hw[0] / record.height, input_hw[1] / record.width)
    shift = 0.5 * scale - 0.5
    return Warp(np.array([[scale, 0, shift], [0, scale, shift]]), input_hw, False)


def ground_truth(record: ImageRecord, warp: Warp) -> GroundTruth:
    """Everybody in a record, moved by a warp: persons in view, and the regions where nothing is certain."""
    height, width = warp.input_hw
    instance = np.zeros((height, width), np.uint16)
    keypoint_ignore = np.zeros((height, width), bool)
    mask_ignore = np.zeros((height, width), bool)
    keypoints, labelled, masks = [], [], []
    for person in record.persons:
        mask = _warped_mask(person, record, warp)
        region = mask if mask is not None else _warped_box(person, warp)
        if person.ignore:
            keypoint_ignore |= region
            mask_ignore |= region
            continue
        xy, known = warp.keypoints(person.keypoints)
        if not region.any() and not known.any():
            continue
        if not (person.has_keypoints and person.all_keypoints):
            keypoint_ignore |= region
        if mask is None:
            mask_ignore |= region
        keypoints.append(xy)
        labelled.append(known)
        masks.append(mask)
    # Where masks overlap, the smaller person is the one in front more often than not.
    known_masks = [(n, mask) for n, mask in enumerate(masks) if mask is not None]
    for n, mask in sorted(known_masks, key=lambda numbered: -int(numbered[1].sum())):
        instance[mask] = n + 1
    mask_ignore &= instance == 0
    return GroundTruth(
        keypoints_xy=np.array(keypoints, np.float32).reshape(-1, NUM_KEYPOINTS, 2),
        labelled=np.array(labelled, bool).reshape(-1, NUM_KEYPOINTS),
        instance=instance,
        has_mask=np.array([m is not None for m in masks], bool),
        keypoint_ignore=keypoint_ignore,
        mask_ignore=mask_ignore,
        annotated_types=record.annotated_types,
    )


def _warped_mask(person: Person, record: ImageRecord, warp: Warp) -> np.ndarray | None:
    shape = person.polygons_or_mask(record.height, record.width)
    if shape is None:
        return None
    if isinstance(shape, np.ndarray):
        return warp.mask(shape)
    return _filled(shape, warp)


def _warped_box(person: Person, warp: Warp) -> np.ndarray:
    x, y, w, h = person.box_xywh
    return _filled([np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])], warp)


def _filled(outlines: list[np.ndarray], warp: Warp) -> np.ndarray:
    """Polygons float64 (P, 2) of the picture, moved by a warp and filled, bool (H', W').

    outlines: with pixel EDGES at integers (COCO's rule).
    """
    height, width = warp.input_hw
    out = np.zeros((height, width), bool)
    # fillPoly's pixels are centred on integers, the outlines have pixel edges there. It also paints every
    # pixel its outline touches, half a pixel too far out; at four times the size that is an eighth.
    fine = 4
    polygons = [(warp.points(p - 0.5) + 0.5) * fine - 0.5 for p in outlines]
    points = np.concatenate(polygons)
    left, top = np.maximum(np.floor(points.min(0) / fine).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(points.max(0) / fine).astype(int) + 2, (width, height))
    if left >= right or top >= bottom:
        return out
    canvas = np.zeros(((bottom - top) * fine, (right - left) * fine), np.uint8)
    corner = np.array([left, top]) * fine
    for polygon in polygons:  # one at a time: together, OpenCV leaves a hole where two overlap
        cv2.fillPoly(canvas, [np.round(polygon - corner).astype(np.int32)], 255)
    out[top:bottom, left:right] = (
        cv2.resize(canvas, (right - left, bottom - top), interpolation=cv2.INTER_AREA) > 127
    )
    return out


def random_colour(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 RGB: brightness, contrast, saturation changed by up to `strength`, hue a little; rarely grey."""
    if strength <= 0:
        return image
    gain = 1 + rng.uniform(-strength, strength)
    contrast = 1 + rng.uniform(-strength, strength)
    saturation = 0.0 if rng.random() < 0.05 else 1 + rng.uniform(-strength, strength)
    tint = 1 + rng.uniform(-0.1, 0.1, 3) * strength / 0.4
    # Towards the grey of each pixel, then about the mean grey of the picture: linear, so one pass does it all.
    grey = np.array([0.299, 0.587, 0.114])
    matrix = saturation * np.eye(3) + (1 - saturation) * grey
    mean = float(grey @ cv2.mean(image)[:3])
    linear = np.column_stack([contrast * matrix, np.full(3, (1 - contrast) * mean)])
    return cv2.transform(image, gain * tint[:, None] * linear)  # rounds and clips
