"""What people wear: a small colour histogram for each person's mask, by which the tracker tells two of them apart.

Not a recognition of persons: two people in the same uniform look alike, and one person may look different from behind.
"""

from __future__ import annotations

import cv2
import numpy as np

BINS = 4  # along each axis of CIELAB: lightness, green to red, blue to yellow
SIZE = BINS**3
_LEVELS = 8  # fine levels along each axis, before they are shared out between the bins
_CHROMA = 40.0  # what lies beyond counts as this colourful
_MOST_PIXELS = 15_000  # of the picture that are looked at
_LEAST_PIXELS = 20  # of a person that tell anything


def _shares() -> np.ndarray:
    """How each fine level is shared out between the two nearest bins, float32 (_LEVELS, BINS): small changes of the
    light then change a histogram little."""
    place = (np.arange(_LEVELS) + 0.5) / _LEVELS * BINS - 0.5
    return np.clip(1 - np.abs(np.clip(place, 0, BINS - 1)[:, None] - np.arange(BINS)), 0, 1).astype(np.float32)


def _levels() -> np.ndarray:
    """OpenCV's 8-bit L, a and b -> fine level, intp (3, 256)."""
    value = np.arange(256)
    lightness = value / 255
    chroma = (np.clip(value - 128.0, -_CHROMA, _CHROMA) + _CHROMA) / (2 * _CHROMA)
    return np.minimum(np.stack([lightness, chroma, chroma]) * _LEVELS, _LEVELS - 1).astype(np.intp)


_SHARES, _LEVEL_OF = _shares(), _levels()


def colour_histograms(image: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Colours of `count` people, uint8 (N, SIZE): square roots of their CIELAB histograms, each row of length 255.

    image: uint8 RGB (H, W, 3);  labels: uint16 (H, W), i + 1 = person i. The cosine of two rows is the Bhattacharyya
    coefficient of the histograms. A row is all 0 where too little is seen of a person. Raises ValueError where image
    and labels have different sizes.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"an image of {image.shape[:2]} and masks of {labels.shape} do not belong together")
    step = max(1, round(float(np.sqrt(labels.size / _MOST_PIXELS))))
    labels = labels[::step, ::step]
    row, col = np.nonzero(labels)
    if count == 0 or len(row) == 0:
        return np.zeros((count, SIZE), np.uint8)
    colours = cv2.cvtColor(image[::step, ::step][row, col][None], cv2.COLOR_RGB2LAB)[0]
    lightness, a, b = (levels[c] for levels, c in zip(_LEVEL_OF, colours.T))
    person = labels[row, col].astype(np.intp) - 1
    at = ((person * _LEVELS + lightness) * _LEVELS + a) * _LEVELS + b
    fine = np.bincount(at, minlength=count * _LEVELS**3).reshape(count, _LEVELS, _LEVELS, _LEVELS)
    coarse = np.einsum("nlab,li,aj,bk->nijk", fine.astype(np.float32), _SHARES, _SHARES, _SHARES, optimize=True)
    coarse = coarse.reshape(count, SIZE)
    seen = np.bincount(person, minlength=count)
    share = coarse / np.maximum(seen, 1)[:, None]
    return np.where(seen[:, None] >= _LEAST_PIXELS, np.rint(255 * np.sqrt(share)), 0).astype(np.uint8)
