"""Run-length encoding against pycocotools, the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from kdc_core import rle

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
MASKS = hnp.arrays(bool, SHAPES)


def reference(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    """Masks with long runs: a rectangle in a picture large enough for numbers of several groups of bits."""
    height, width = draw(st.integers(1, 700)), draw(st.integers(1, 300))
    mask = np.zeros((height, width), bool)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    mask[top : draw(st.integers(top, height)), left : draw(st.integers(left, width))] = True
    return mask


@settings(deadline=None, max_examples=150)
@given(st.one_of(MASKS, blobs()))
def test_same_as_pycocotools(mask: np.ndarray) -> None:
    encoded = rle.to_coco(mask)
    assert encoded == reference(mask)
    np.testing.assert_array_equal(rle.from_coco(encoded), mask)
    np.testing.assert_array_equal(coco_mask.decode(encoded).astype(bool), mask)


@settings(deadline=None, max_examples=100)
@given(MASKS)
def test_counts_round_trip(mask: np.ndarray) -> None:
    counts = rle.encode_counts(mask)
    assert counts.dtype == np.uint32 and counts.sum() == mask.size
    np.testing.assert_array_equal(rle.decode_counts(counts, *mask.shape), mask)
    np.testing.assert_array_equal(rle.decode_counts(counts.tolist(), *mask.shape), mask)
    uncompressed = {"size": list(mask.shape), "counts": counts.tolist()}
    np.testing.assert_array_equal(rle.from_coco(uncompressed), mask)
    assert rle.expand_counts(rle.compress_counts(counts)) == counts.tolist()


@settings(deadline=None, max_examples=100)
@given(MASKS, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_roi_is_the_whole_image_encoding(
    crop: np.ndarray, left: int, top: int, right: int, bottom: int
) -> None:
    whole = np.pad(crop, ((top, bottom), (left, right)))
    assert rle.roi_to_coco(crop, (left, top), whole.shape) == reference(whole)


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        (np.zeros((3, 4), bool), [12]),
        (np.ones((3, 4), bool), [0, 12]),
        (np.eye(2, dtype=bool), [0, 1, 2, 1]),
        (np.ones((1, 1), bool), [0, 1]),
        (np.zeros((1, 1), bool), [1]),
        (np.zeros((0, 0), bool), []),
        (np.zeros((0, 7), bool), []),
        # Column-major: the second pixel is the one BELOW the first.
        (np.array([[False, False], [True, False]]), [1, 1, 2]),
    ],
)
def test_small_masks(mask: np.ndarray, counts: list[int]) -> None:
    assert rle.encode_counts(mask).tolist() == counts
    np.testing.assert_array_equal(rle.decode_counts(counts, *mask.shape), mask)


@pytest.mark.parametrize("crop_hw", [(0, 0), (0, 3), (3, 0)])
def test_empty_roi_in_an_image(crop_hw: tuple[int, int]) -> None:
    empty = np.zeros(crop_hw, bool)
    assert rle.encode_roi_counts(empty, (2, 1), (5, 6)).tolist() == [30]
    assert rle.roi_to_coco(empty, (2, 1), (5, 6)) == reference(np.zeros((5, 6), bool))


@pytest.mark.parametrize("left_top", [(-1, 0), (0, -1), (4, 0), (0, 3)])
def test_roi_beyond_the_image(left_top: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="leaves the image"):
        rle.encode_roi_counts(np.ones((3, 3), bool), left_top, (5, 6))


@pytest.mark.parametrize(
    "counts",
    [
        [11],
        [13],
        [],
        [-1, 13],
        [6.0, 6.0],
        [2**40, 1],
        np.array([2**63, 2**63, 12], np.uint64),
        np.array([[12]]),
        ["12"],
    ],
)
def test_bad_counts(counts: list) -> None:
    with pytest.raises(ValueError, match="RLE counts"):
        rle.decode_counts(counts, 3, 4)


@pytest.mark.parametrize(
    "broken",
    [
        {"size": [3, 4]},
        {"counts": "<"},
        {"size": [3], "counts": "<"},
        {"size": [3, 4], "counts": "é"},
        {"size": [3, 4], "counts": "P"},
        {"size": [3, 4], "counts": ""},
        {"size": [3, 4], "counts": "0"},
    ],
)
def test_broken_coco_rle(broken: dict) -> None:
    with pytest.raises(ValueError):
        rle.from_coco(broken)
