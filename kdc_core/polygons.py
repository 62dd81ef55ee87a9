"""Masks as outlines and back.

An outline runs through the centres of the mask's border pixels, so that every vertex is a pixel of the mask. A hole's
outline runs through the mask's pixels around the hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class Ring:
    """A closed outline: vertices_xy int32 (V, 2), and whether it is a hole in the ring before it that is none."""

    vertices_xy: np.ndarray
    hole: bool = False


def mask_to_rings(inside: np.ndarray, left_top: tuple[int, int] = (0, 0), tolerance_px: float = 0.0) -> list[Ring]:
    """Outlines of a mask, bool (h, w), each part followed by its holes.

    left_top:     column and row of the mask's first pixel in the image; the outlines are in the image's pixels.
    tolerance_px: how far a simplified outline may be from the true one; 0 = exact. Holes that vanish are left out.
    """
    if inside.size == 0:
        return []
    contours, tree = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=left_top)
    rings: list[Ring] = []
    part = 0 if contours else -1
    while part >= 0:
        following, _, hole, _ = tree[0][part].tolist()
        rings.append(Ring(_simplified(contours[part], tolerance_px)))
        while hole >= 0:
            vertices = _simplified(contours[hole], tolerance_px)
            if len(vertices) > 2:
                rings.append(Ring(vertices, hole=True))
            hole = int(tree[0][hole][0])
        part = following
    return rings


def _simplified(contour: np.ndarray, tolerance_px: float) -> np.ndarray:
    if tolerance_px > 0:
        contour = cv2.approxPolyDP(contour, tolerance_px, True)
    return contour.reshape(-1, 2)


def rings_to_mask(rings: Sequence[Ring], image_hw: tuple[int, int]) -> np.ndarray:
    """The mask of outlines, bool (H, W): the exact one where they were made with tolerance 0."""
    mask = np.zeros(image_hw, np.uint8)
    part = np.zeros(image_hw, np.uint8)
    for ring in rings:
        vertices = ring.vertices_xy.astype(np.int32).reshape(-1, 1, 2)
        if not ring.hole:
            mask |= part
            part[:] = 0
            cv2.drawContours(part, [vertices], 0, 1, cv2.FILLED)
            continue
        gap = np.zeros(image_hw, np.uint8)
        cv2.drawContours(gap, [vertices], 0, 1, cv2.FILLED)
        cv2.drawContours(gap, [vertices], 0, 0, 1)
        part[gap > 0] = 0
    return (mask | part) > 0
