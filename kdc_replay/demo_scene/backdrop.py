"""The room behind the moving scene: a lit brick wall with two framed pictures, painted here."""

from __future__ import annotations

import cv2
import numpy as np

from kdc_replay.demo_scene.photos import ROCKET

_BRICK_WH = (58, 21)
_MORTAR_PX = 3
_BRICK_RGB = np.array([138, 150, 152], np.float32)
_MORTAR_RGB = np.array([170, 174, 170], np.float32)
_FRAME_RGB = (38, 28, 22)
_MAT_RGB = (236, 231, 222)
_SEED = 7


def paint_room(width: int, height: int) -> np.ndarray:
    """The room, uint8 RGB (height, width, 3); always the same for the same size. Raises PhotoError."""
    random = np.random.default_rng(_SEED)
    wall = _bricks(width, height, random)
    unit = height / 480
    _hang(
        wall, ROCKET.read(), (round(0.115 * width), round(34 * unit)), (round(190 * unit), round(127 * unit))
    )
    _hang(wall, _dusk(), (round(0.66 * width), round(26 * unit)), (round(204 * unit), round(150 * unit)))
    wall = cv2.GaussianBlur(wall, (0, 0), 1.3 * unit)
    wall *= _light(width, height)[..., None]
    grain = random.normal(0, 2.5, wall.shape)
    return np.clip(wall + grain, 0, 255).astype(np.uint8)


def _bricks(width: int, height: int, random: np.random.Generator) -> np.ndarray:
    """A brick wall, float32 RGB: every brick of its own shade, rows shifted by half a brick."""
    brick_w, brick_h = _BRICK_WH
    wall = np.empty((height, width, 3), np.float32)
    wall[:] = _MORTAR_RGB
    for row, top in enumerate(range(0, height, brick_h)):
        for left in range(-(row % 2) * brick_w // 2, width, brick_w):
            shade = _BRICK_RGB * random.normal(1.0, 0.06) + random.normal(0, 3, 3)
            wall[top : top + brick_h - _MORTAR_PX, max(left, 0) : left + brick_w - _MORTAR_PX] = shade
    # Roughness at two sizes, so that it does not look printed.
    for size, strength in ((2, 6.0), (9, 6.0)):
        noise = random.normal(0, strength, (height // size + 1, width // size + 1)).astype(np.float32)
        wall += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return wall


def _light(width: int, height: int) -> np.ndarray:
    """Lamp light from the upper middle that falls off to the corners, float32 (height, width)."""
    x = (np.arange(width, dtype=np.float32) / width - 0.48) / 0.75
    y = (np.arange(height, dtype=np.float32) / height - 0.15) / 1.15
    return 0.42 + 0.72 * np.exp(-(x[None, :] ** 2 + y[:, None] ** 2) * 1.6)


def _dusk() -> np.ndarray:
    """A window's view: hills under an evening sky, uint8 RGB."""
    height, width = 300, 408
    rows = np.linspace(0, 1, height)[:, None]
    stops = np.array([[52, 84, 140], [120, 150, 190], [244, 190, 140], [250, 214, 160]], np.float32)
    sky = np.stack([np.interp(rows[:, 0], [0, 0.45, 0.75, 1], stops[:, c]) for c in range(3)], 1)
    view = np.repeat(sky[:, None], width, 1).astype(np.float32)
    x = np.arange(width)
    for base, swing, wave, colour in (
        (0.62, 0.06, 95, (110, 112, 130)),
        (0.72, 0.05, 60, (74, 82, 92)),
        (0.84, 0.04, 40, (44, 54, 52)),
    ):
        ridge = (
            base + swing * np.sin(x / wave + base * 20) + 0.3 * swing * np.sin(x / (0.31 * wave))
        ) * height
        view[np.arange(height)[:, None] > ridge[None, :]] = colour
    return view.astype(np.uint8)


def _hang(wall: np.ndarray, picture: np.ndarray, left_top: tuple[int, int], size_wh: tuple[int, int]) -> None:
    """A framed picture on the wall, with the shadow that it casts; sizes in pixels, frame included."""
    (left, top), (width, height) = left_top, size_wh
    frame, mat = max(4, width // 30), max(5, width // 18)
    shadow = np.zeros(wall.shape[:2], np.float32)
    drop = 2 * frame
    cv2.rectangle(
        shadow, (left + drop // 2, top + drop), (left + width + drop // 2, top + height + drop), 0.6, -1
    )
    wall *= 1 - cv2.GaussianBlur(shadow, (0, 0), drop)[..., None]
    cv2.rectangle(wall, (left, top), (left + width - 1, top + height - 1), _FRAME_RGB, -1)
    inner = (left + frame, top + frame), (left + width - frame - 1, top + height - frame - 1)
    cv2.rectangle(wall, *inner, _MAT_RGB, -1)
    border = frame + mat
    size = (width - 2 * border, height - 2 * border)
    wall[top + border : top + height - border, left + border : left + width - border] = cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA
    )
