"""Picture files -> RGB arrays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kdc_core import jpeg

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
        content = path.read_bytes()
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except (cv2.error, OSError) as error:  # larger than OpenCV's limit, for one
        raise UnreadableImageError(f"{path} cannot be read: {error}") from error
    if content.startswith(jpeg.START) and not jpeg.is_whole(content):
        raise UnreadableImageError(f"{path} ends early: the JPEG of {len(content)} bytes is not whole")
    if image is None:
        raise UnreadableImageError(f"{path} is not a picture that OpenCV can read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
