"""People drawn over the image they were found in: masks, limbs, joints and labels.

Everything scales with the person (limbs, joints) or the image (outlines, text), so that the same code serves
a thumbnail and a full-HD frame. The person's colour tells who it is; a joint's colour tells its side.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.skeleton import KEYPOINT_NAMES, LIMBS
from kdc_core.types import People

Colour = tuple[int, int, int]  # red, green, blue, 0..255

# A joint's side; a pair that colour-blind people can tell apart.
LEFT_COLOUR: Colour = (40, 150, 255)
RIGHT_COLOUR: Colour = (255, 130, 20)
MIDDLE_COLOUR: Colour = (70, 70, 70)

MASK_OPACITY = 0.42
_DARK: Colour = (20, 20, 20)
_LIGHT: Colour = (255, 255, 255)
_GOLDEN_RATIO = 0.6180339887498949
_LEAST_LUMINANCE = 0.5
# OpenCV draws at fixed-point coordinates: 1/16 pixel keeps thin slanted limbs smooth and still between video
# frames.
_FRACTION_BITS = 4


def colour_of(track_id: int) -> Colour:
    """A person's colour (red, green, blue), always the same for the same id; neighbouring ids differ most.

    Hues go round the circle by the golden ratio; a hue that is dark by nature (blue) is lightened.
    """
    hue = (0.58 + track_id * _GOLDEN_RATIO) % 1.0
    rgb = np.array(colorsys.hsv_to_rgb(hue, 0.85, 1.0))
    luminance = float(rgb @ (0.2126, 0.7152, 0.0722))
    if luminance < _LEAST_LUMINANCE:
        rgb += (1.0 - rgb) * (_LEAST_LUMINANCE - luminance) / (1.0 - luminance)
    red, green, blue = (rgb * 255).round().astype(int).tolist()
    return red, green, blue


def draw_people(
    image_rgb: np.ndarray,
    people: People,
    track_ids: np.ndarray | None = None,
    keypoint_threshold: float = 0.2,
) -> np.ndarray:
    """A copy of an image, uint8 RGB (H, W, 3), with the people drawn over it.

    track_ids: int (N,), colour and label of each person; 0 (not tracked) and None take the person's index.
    keypoint_threshold: joints with a lower score, and the limbs at them, are left out.

    Raises ValueError for another kind of image, masks of another size, or another number of ids.
    """
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise ValueError(f"the image must be uint8 RGB (H, W, 3), got {image_rgb.dtype} {image_rgb.shape}")
    if people.mask_labels is not None and people.mask_labels.shape != image_rgb.shape[:2]:
        raise ValueError(f"masks of {people.mask_labels.shape} do not fit an image of {image_rgb.shape[:2]}")
    if track_ids is not None and len(track_ids) != len(people):
        raise ValueError(f"{len(people)} people, but {len(track_ids)} track ids")
    # The least likely first, so that the surest person lies on top.
    order = np.argsort(people.scores, kind="stable").tolist()
    tracked = [int(track_ids[i]) if track_ids is not None else 0 for i in range(len(people))]
    colours = [colour_of(t if t > 0 else i) for i, t in enumerate(tracked)]
    canvas = np.ascontiguousarray(image_rgb).copy()
    if people.mask_labels is not None:
        _draw_masks(canvas, people, colours)
    for i in order:
        _draw_skeleton(canvas, people, i, colours[i], keypoint_threshold)
    taken: list[_Rectangle] = []
    for i in reversed(order):
        text = (f"{tracked[i]}  " if tracked[i] > 0 else "") + f"{people.scores[i]:.2f}"
        _draw_label(canvas, text, people.boxes_xyxy[i], colours[i], taken)
    return canvas


def _draw_masks(canvas: np.ndarray, people: People, colours: list[Colour]) -> None:
    """Tint each person's pixels and draw the mask's outline, inside each ROI only."""
    assert people.mask_labels is not None
    thickness = max(1, round(min(canvas.shape[:2]) / 400))
    margin = thickness + 2  # where the outline may lie beyond the ROI
    outlines = []
    for i, (x, y, width, height) in enumerate(people.mask_rois().tolist()):
        if width == 0:
            continue
        region = np.s_[max(y - margin, 0) : y + height + margin, max(x - margin, 0) : x + width + margin]
        inside = (people.mask_labels[region] == i + 1).astype(np.uint8)
        pixels = canvas[region]
        tint = np.full_like(pixels, colours[i])
        blended = cv2.addWeighted(pixels, 1.0 - MASK_OPACITY, tint, MASK_OPACITY, 0.0)
        cv2.copyTo(blended, inside, pixels)
        outlines.append(
            (pixels, cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0], colours[i])
        )
    # All outlines after all tints: a neighbour's tint would dull the common border.
    for pixels, contours, colour in outlines:
        cv2.drawContours(pixels, contours, -1, colour, thickness, cv2.LINE_AA)


def _draw_skeleton(canvas: np.ndarray, people: People, person: int, colour: Colour, threshold: float) -> None:
    """One person's limbs, edged dark so that they show on any ground, and joints in their side's colour."""
    points = people.keypoints_xy[person]
    drawn = (people.keypoint_scores[person] >= max(threshold, 1e-6)) & np.isfinite(points).all(1)
    # OpenCV's fixed-point coordinates overflow far outside the image.
    drawn &= (np.abs(points) < 2**14).all(1)
    size = _size_px(points[drawn], people.boxes_xyxy[person])
    limb = min(max(1, round(size / 70)), 14)
    edge = limb + max(2, 2 * round(limb / 4))
    limbs = [(a, b) for a, b in LIMBS if drawn[a] and drawn[b]]
    # For somebody of a few dozen pixels dark edges and joints would hide the person.
    tiny = size < 90
    passes = [(colour, limb)] if tiny else [(_DARK, edge), (colour, limb)]
    for shade, thickness in passes:
        for a, b in limbs:
            cv2.line(
                canvas, _fixed(points[a]), _fixed(points[b]), shade, thickness, cv2.LINE_AA, _FRACTION_BITS
            )
    radius = min(max(1.2, size / 65), 15.0)
    for k in np.flatnonzero(drawn).tolist():
        if not tiny:
            _disk(canvas, points[k], radius + max(1.0, 0.3 * limb), _LIGHT)
        _disk(canvas, points[k], radius, _side_colour(k))


def _size_px(points: np.ndarray, box_xyxy: np.ndarray) -> float:
    """How large the person is drawn: the longer side of the box around what is seen of it, in pixels.

    A close-up shows a part of a person only, so the box counts as much as the joints.
    """
    extent = np.ptp(points, axis=0).max() if len(points) else 0.0
    return float(max(extent, 0.75 * (box_xyxy[2:] - box_xyxy[:2]).max()))


def _side_colour(keypoint: int) -> Colour:
    name = KEYPOINT_NAMES[keypoint]
    if name.startswith("left"):
        return LEFT_COLOUR
    return RIGHT_COLOUR if name.startswith("right") else MIDDLE_COLOUR


def _disk(canvas: np.ndarray, centre_xy: np.ndarray, radius_px: float, colour: Colour) -> None:
    radius = round(radius_px * 2**_FRACTION_BITS)
    cv2.circle(canvas, _fixed(centre_xy), radius, colour, cv2.FILLED, cv2.LINE_AA, _FRACTION_BITS)


def _fixed(xy: np.ndarray) -> tuple[int, int]:
    """Pixels as OpenCV's fixed-point integers."""
    x, y = np.round(xy * 2**_FRACTION_BITS).astype(int).tolist()
    return x, y


@dataclass(frozen=True)
class _Rectangle:
    left: int
    top: int
    width: int
    height: int

    def overlaps(self, others: Iterable[_Rectangle]) -> bool:
        return any(
            self.left < o.left + o.width
            and o.left < self.left + self.width
            and self.top < o.top + o.height
            and o.top < self.top + self.height
            for o in others
        )


def _draw_label(
    canvas: np.ndarray, text: str, box_xyxy: np.ndarray, colour: Colour, taken: list[_Rectangle]
) -> None:
    """A small label at the top of the person's box, moved where it covers another; none for tiny people."""
    height, width = canvas.shape[:2]
    scale = float(np.clip(min(height, width) / 1100, 0.3, 1.0))
    stroke = max(1, round(1.6 * scale))
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, stroke)
    pad = max(2, round(6 * scale))
    box_width, box_height = (box_xyxy[2:] - box_xyxy[:2]).tolist()
    label_width, label_height = text_width + 2 * pad, text_height + 2 * pad
    if max(box_width, box_height) < 2 * label_height or label_width > width or label_height > height:
        return
    x, y = (round(v) for v in box_xyxy[:2].tolist())
    centred = round(x + box_width / 2 - label_width / 2)
    choices = [
        (centred, y - label_height - 1),
        (centred, y),
        (x, y - 2 * label_height - 2),
        (centred, y + label_height),
    ]
    for left, top in choices:
        left = min(max(left, 0), width - label_width)
        place = _Rectangle(left, min(max(top, 0), height - label_height), label_width, label_height)
        if place.overlaps(taken):
            continue
        taken.append(place)
        window = canvas[place.top : place.top + label_height, place.left : place.left + label_width]
        window[:] = cv2.addWeighted(window, 0.15, np.full_like(window, colour), 0.85, 0.0)
        origin = (place.left + pad, place.top + pad + text_height)
        cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), stroke, cv2.LINE_AA)
        return
