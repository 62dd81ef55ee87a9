"""Coordinates: the letterbox between source and network pixels, and the grid of field cells.

The rule, stated once: coordinates are (x, y); a pixel's centre is at integer coordinates, so an image of
width W covers [-0.5, W - 0.5]. The centre of field cell (column i, row j) at stride s is ((i + 0.5) s - 0.5,
(j + 0.5) s - 0.5). A resize by factor f maps x to (x + 0.5) f - 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

PAD_VALUE = 114  # a mid grey, as the network saw beyond the border in training


def cell_centres_xy(height: int, width: int, stride: int) -> np.ndarray:
    """Centres of a field's cells in network pixels, float32 (2, height, width), x first."""
    x = (np.arange(width, dtype=np.float32) + 0.5) * stride - 0.5
    y = (np.arange(height, dtype=np.float32) + 0.5) * stride - 0.5
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None])).astype(np.float32)


@dataclass(frozen=True)
class Letterbox:
    """A source image scaled (aspect kept) into the network input's top-left corner, the rest filled grey.

    source_hw, scaled_hw, input_hw: (height, width) of the source image, of the image after scaling, and of
    the network input. The two axes' factors may differ by the rounding of `scaled_hw` to whole pixels; the
    maps below use the exact factors, so that `to_source(to_input(p)) == p`.
    """

    source_hw: tuple[int, int]
    scaled_hw: tuple[int, int]
    input_hw: tuple[int, int]

    @classmethod
    def fit(cls, source_hw: tuple[int, int], input_hw: tuple[int, int]) -> Letterbox:
        """The largest placement of a source image inside a fixed network input."""
        _check_size(source_hw)
        scale = min(input_hw[0] / source_hw[0], input_hw[1] / source_hw[1])
        scaled = tuple(max(1, min(i, round(s * scale))) for s, i in zip(source_hw, input_hw))
        return cls(tuple(source_hw), scaled, tuple(input_hw))  # type: ignore[arg-type]

    @classmethod
    def fit_long_side(cls, source_hw: tuple[int, int], long_side: int, multiple: int) -> Letterbox:
        """The longer side scaled to `long_side`; the input just large enough, in whole `multiple`s."""
        _check_size(source_hw)
        scale = long_side / max(source_hw)
        scaled = tuple(max(1, round(s * scale)) for s in source_hw)
        padded = tuple(-(-s // multiple) * multiple for s in scaled)
        return cls(tuple(source_hw), scaled, padded)  # type: ignore[arg-type]

    @property
    def scale_xy(self) -> np.ndarray:
        """Network pixels for each source pixel along x and y, float64 (2,)."""
        return np.array([self.scaled_hw[1] / self.source_hw[1], self.scaled_hw[0] / self.source_hw[0]])

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Letterbox an image, uint8 (H, W, 3) -> uint8 (H', W', 3)."""
        if image.shape[:2] != self.source_hw:
            raise ValueError(f"letterbox made for {self.source_hw}, image is {image.shape[:2]}")
        height, width = self.scaled_hw
        # Area averaging keeps detail when shrinking; bilinear is its counterpart when enlarging.
        shrinks = bool((self.scale_xy < 1).any())
        out = np.full((*self.input_hw, image.shape[2]), PAD_VALUE, np.uint8)
        scaled = (
            image
            if self.scaled_hw == self.source_hw
            else cv2.resize(
                image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        )
        out[:height, :width] = scaled
        return out

    def to_input(self, xy: np.ndarray) -> np.ndarray:
        """Source pixels -> network pixels, (..., 2), float32."""
        return ((np.asarray(xy, np.float64) + 0.5) * self.scale_xy - 0.5).astype(np.float32)

    def to_source(self, xy: np.ndarray) -> np.ndarray:
        """Network pixels -> source pixels, (..., 2), float32: the exact inverse of `to_input`."""
        return ((np.asarray(xy, np.float64) + 0.5) / self.scale_xy - 0.5).astype(np.float32)


def _check_size(source_hw: tuple[int, int]) -> None:
    if min(source_hw) < 1:
        raise ValueError(f"image of {source_hw[1]} x {source_hw[0]} pixels has nothing in it")
