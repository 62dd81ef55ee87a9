"""A pipeline that needs no network, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kdc_core.types import FrameResult, People

BACKGROUND = 60


class StubPipeline:
    """Sees one person in the bright rectangle of a picture, and nobody where nothing is bright."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self, image: np.ndarray) -> FrameResult:
        height, width = image.shape[:2]
        # Far above the background: a video's compression blurs the border.
        bright = image.min(2) > 150
        if not bright.any():
            return FrameResult(People.empty((height, width)), (height, width))
        ys, xs = np.nonzero(bright)
        box = np.array([xs.min(), ys.min(), xs.max(), ys.max()], np.float32)
        steps = np.linspace(0.1, 0.9, 17, dtype=np.float32)[:, None]
        people = People(
            keypoints_xy=(box[:2] + steps * (box[2:] - box[:2]))[None],
            keypoint_scores=np.linspace(0.0, 1.0, 17, dtype=np.float32)[None],
            scores=np.array([0.75], np.float32),
            boxes_xyxy=box[None],
            mask_labels=bright.astype(np.uint16),
        )
        return FrameResult(people, (height, width))

    def close(self) -> None:
        self.closed = True


def picture(box_xywh: tuple[int, int, int, int] | None = (30, 20, 40, 60), hw: tuple[int, int] = (120, 160)):
    """A grey RGB picture with a bright rectangle (or none) in it."""
    image = np.full((*hw, 3), BACKGROUND, np.uint8)
    if box_xywh is not None:
        x, y, width, height = box_xywh
        image[y : y + height, x : x + width] = 240
    return image


def write_picture(path: Path, **options) -> Path:
    """A picture as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(**options))
    return path
