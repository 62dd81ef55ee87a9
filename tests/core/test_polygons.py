"""Masks to outlines and back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdc_core.polygons import Ring, mask_to_rings, rings_to_mask

HW = (60, 80)


def blobs(seed: int, size: float) -> np.ndarray:
    """A mask of random blobs with holes and islands in them."""
    noise = np.random.default_rng(seed).normal(size=HW).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), size) > 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [0.4, 1.5, 5.0])
def test_exact_outlines_are_the_mask(seed, size):
    mask = blobs(seed, size)
    assert np.array_equal(rings_to_mask(mask_to_rings(mask), HW), mask)


def test_parts_and_holes():
    mask = np.zeros(HW, bool)
    mask[10:50, 10:50] = True
    mask[20:40, 20:40] = False
    mask[28:32, 28:32] = True  # an island in the hole
    mask[5:8, 60:70] = True
    rings = mask_to_rings(mask)
    assert sum(not ring.hole for ring in rings) == 3
    assert sum(ring.hole for ring in rings) == 1
    before = rings[[ring.hole for ring in rings].index(True) - 1]
    assert before.vertices_xy.min(axis=0).tolist() == [10, 10]
    assert before.vertices_xy.max(axis=0).tolist() == [49, 49]


def test_a_crop_lies_in_its_image():
    mask = blobs(1, 3.0)
    whole = np.zeros((100, 120), bool)
    whole[30:90, 25:105] = mask
    assert np.array_equal(rings_to_mask(mask_to_rings(mask, (25, 30)), whole.shape), whole)


def test_a_tolerance_saves_vertices():
    mask = np.zeros(HW, np.uint8)
    cv2.ellipse(mask, (40, 30), (30, 20), 20, 0, 360, 1, -1)
    exact, rough = (mask_to_rings(mask > 0, tolerance_px=t) for t in (0.0, 1.0))
    assert len(rough[0].vertices_xy) < 0.5 * len(exact[0].vertices_xy)
    back = rings_to_mask(rough, HW)
    assert (back & (mask > 0)).sum() / (back | (mask > 0)).sum() > 0.95


def test_nothing_and_single_pixels():
    assert mask_to_rings(np.zeros(HW, bool)) == []
    assert mask_to_rings(np.zeros((0, 5), bool)) == []
    one = np.zeros(HW, bool)
    one[7, 9] = True
    [ring] = mask_to_rings(one, tolerance_px=1.0)
    assert ring.vertices_xy.tolist() == [[9, 7]]
    assert np.array_equal(rings_to_mask([Ring(ring.vertices_xy)], HW), one)
    assert not rings_to_mask([], HW).any()
