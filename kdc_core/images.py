"""Picture files -> RGB arrays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class UnreadableImageError(ValueError):
    """A file that is no picture, or a broken one: says which."""


def read_rgb(path: Path, upright: bool = True) -> np.ndarray:
    """Read a picture as uint8 RGB (H, W, 3); grey and transparent pictures too.

    upright: turn it the way its EXIF orientation says. COCO's annotations refer to the pixels as stored:
    False there. Raises FileNotFoundError, UnreadableImageError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}")
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imread(str(path), flags)
    except cv2.error as error:  # larger than OpenCV's limit, for one
        raise UnreadableImageError(f"{path} cannot be read: {error}") from error
    if image is None:
        raise UnreadableImageError(f"{path} is not a picture that OpenCV can read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
