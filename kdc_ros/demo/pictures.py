"""The demonstration's pictures: the node's answers drawn over what it was given, single and as a video."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from kdc_core.draw import draw_people
from kdc_ros.demo.recorder import Answer

VIDEO_WH = (848, 480)
# VP9 plays in browsers, but takes a quarter of a second of processor time for a frame; MPEG-4 part 2 plays in
# video players, takes none to speak of, and every build of OpenCV can write it.
_BROWSER_CODEC, _FAST_CODEC = "vp09", "mp4v"
_MOST_BROWSER_FRAMES = 150
_GROUND_RGB = (24, 26, 30)
_SHEET_WIDTH = 1440
_HIGHEST_ROW = 560
_COLUMNS = 3
_GAP_PX = 8


class VideoError(RuntimeError):
    """OpenCV could not write a video."""


def drawn(answer: Answer) -> np.ndarray:
    """The picture with the people of the answer drawn on it, uint8 RGB (H, W, 3). Raises AnswerError."""
    people, track_ids = answer.people()
    return draw_people(answer.picture(), people, track_ids)


def save(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture. Raises OSError."""
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} cannot be written")


def save_video(path: Path, pictures: Iterable[np.ndarray], count: int, fps: float) -> str:
    """Write `count` pictures of any size as an MP4. Returns the codec's four letters. Raises VideoError."""
    codecs = (_BROWSER_CODEC, _FAST_CODEC) if count <= _MOST_BROWSER_FRAMES else (_FAST_CODEC,)
    for codec in codecs:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, VIDEO_WH)  # type: ignore[attr-defined]
        if not writer.isOpened():
            continue
        for picture in pictures:
            writer.write(cv2.cvtColor(fitted(picture, VIDEO_WH), cv2.COLOR_RGB2BGR))
        writer.release()
        if path.stat().st_size:
            return codec
    raise VideoError(f"this build of OpenCV can write none of {', '.join(codecs)}")


def fitted(picture: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """A picture scaled into a canvas, its aspect kept, the rest dark; uint8 RGB (height, width, 3)."""
    width, height = size_wh
    scale = min(width / picture.shape[1], height / picture.shape[0])
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = _GROUND_RGB
    new_wh = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    left, top = (width - new_wh[0]) // 2, (height - new_wh[1]) // 2
    canvas[top : top + new_wh[1], left : left + new_wh[0]] = cv2.resize(
        picture, new_wh, interpolation=interpolation
    )
    return canvas


def overview(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures in rows of three, each row of one height; uint8 RGB. Raises ValueError for none."""
    if not pictures:
        raise ValueError("no pictures")
    rows = [_row(pictures[i : i + _COLUMNS]) for i in range(0, len(pictures), _COLUMNS)]
    height = sum(row.shape[0] + _GAP_PX for row in rows) + _GAP_PX
    sheet = np.empty((height, _SHEET_WIDTH, 3), np.uint8)
    sheet[:] = _GROUND_RGB
    top = _GAP_PX
    for row in rows:
        sheet[top : top + row.shape[0], _GAP_PX : _GAP_PX + row.shape[1]] = row
        top += row.shape[0] + _GAP_PX
    return sheet


def _row(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures side by side, together as wide as the sheet if there are enough of them."""
    aspects = [picture.shape[1] / picture.shape[0] for picture in pictures]
    # A single upright picture must not become a tower.
    height = min(int((_SHEET_WIDTH - _GAP_PX * (len(pictures) + 1)) / sum(aspects)), _HIGHEST_ROW)
    gap = np.empty((height, _GAP_PX, 3), np.uint8)
    gap[:] = _GROUND_RGB
    parts: list[np.ndarray] = []
    for picture, aspect in zip(pictures, aspects):
        parts += [
            gap,
            cv2.resize(picture, (max(1, int(height * aspect)), height), interpolation=cv2.INTER_AREA),
        ]
    return np.concatenate(parts[1:], axis=1)


def spread(count: int, at_most: int) -> list[int]:
    """Indices of at most so many of `count` things, evenly spread, the last one among them."""
    if count <= at_most:
        return list(range(count))
    return np.linspace(0, count - 1, at_most).round().astype(int).tolist()
