"""The half-pixel rule, and the letterbox with its exact inverse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdc_core.geometry import PAD_VALUE, Letterbox, cell_centres_xy

sides = st.integers(1, 3000)


def centroid_of_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where two pictures differ: centroid x, y of the difference."""
    weight = np.abs(after.astype(np.float64) - before).sum(axis=2)
    assert weight.sum() > 0, "the pixel was lost"
    ys, xs = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()


def test_cell_centres_follow_the_half_pixel_rule():
    x, y = cell_centres_xy(3, 5, 4)
    assert x[0].tolist() == [1.5, 5.5, 9.5, 13.5, 17.5]
    assert y[:, 0].tolist() == [1.5, 5.5, 9.5]
    # The centre of a cell is the mean of the centres of its pixels.
    assert x[0, 1] == np.mean([4, 5, 6, 7])
    assert cell_centres_xy(2, 2, 1).tolist() == [[[0, 1], [0, 1]], [[0, 0], [1, 1]]]
    assert cell_centres_xy(0, 3, 4).shape == (2, 0, 3)
    assert cell_centres_xy(2, 3, 4).dtype == np.float32


@settings(max_examples=150, deadline=None)
@given(sides, sides, st.integers(32, 1024), st.data())
def test_to_source_undoes_to_input(height, width, long_side, data):
    fixed = (data.draw(st.integers(32, 800)), data.draw(st.integers(32, 800)))
    for box in (
        Letterbox.fit_long_side((height, width), long_side, 32),
        Letterbox.fit((height, width), fixed),
    ):
        x, y = data.draw(st.floats(-0.5, width - 0.5)), data.draw(st.floats(-0.5, height - 0.5))
        back = box.to_source(box.to_input(np.array([x, y])))
        # float32 between, and a side that was scaled down to one pixel magnifies its rounding.
        np.testing.assert_allclose(back, [x, y], atol=1e-6 * max(height, width, 1000))
        # The picture's corners are the corners of its place in the network input.
        np.testing.assert_allclose(box.to_input(np.array([-0.5, -0.5])), [-0.5, -0.5], atol=1e-6)
        corner = box.to_input(np.array([width - 0.5, height - 0.5]))
        np.testing.assert_allclose(corner, np.array(box.scaled_hw[::-1]) - 0.5, rtol=1e-6)


@settings(max_examples=150, deadline=None)
@given(sides, sides, st.integers(32, 1024), st.sampled_from([16, 32, 64]))
def test_long_side_is_as_asked_and_the_input_just_large_enough(height, width, long_side, multiple):
    box = Letterbox.fit_long_side((height, width), long_side, multiple)
    assert max(box.scaled_hw) == long_side
    for scaled, padded in zip(box.scaled_hw, box.input_hw):
        assert scaled >= 1 and padded % multiple == 0 and 0 <= padded - scaled < multiple
    # The aspect is kept up to rounding to whole pixels.
    ideal = np.array([height, width]) * long_side / max(height, width)
    assert np.abs(np.array(box.scaled_hw) - np.maximum(ideal, 1)).max() <= 0.5 + 1e-9


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.integers(32, 1024), st.integers(32, 1024))
def test_fixed_input_is_filled_along_one_axis(height, width, input_height, input_width):
    box = Letterbox.fit((height, width), (input_height, input_width))
    assert box.input_hw == (input_height, input_width)
    assert all(1 <= s <= i for s, i in zip(box.scaled_hw, box.input_hw))
    assert box.scaled_hw[0] == input_height or box.scaled_hw[1] == input_width


@pytest.mark.parametrize("source_hw", [(90, 120), (93, 131), (240, 180), (37, 41), (64, 64)])
@pytest.mark.parametrize("long_side", [64, 96, 160])
def test_white_pixel_and_keypoint_land_together(source_hw, long_side):
    box = Letterbox.fit_long_side(source_hw, long_side, 32)
    black = np.zeros((*source_hw, 3), np.uint8)
    base = box.apply(black)
    height, width = source_hw
    for x, y in ((2, 3), (width - 3, height - 4), (width // 2, height // 3)):
        image = black.copy()
        image[y, x] = 255
        at = centroid_of_change(base, box.apply(image))
        assert np.abs(at - box.to_input(np.array([x, y]))).max() < 0.5


def test_large_blob_lands_to_a_tenth_of_a_pixel():
    # More than one pixel, so that eight-bit rounding does not blur the answer.
    box = Letterbox.fit_long_side((301, 517), 224, 32)
    image = np.zeros((301, 517, 3), np.uint8)
    base = box.apply(image)
    image[280:291, 490:511] = 255
    at = centroid_of_change(base, box.apply(image))
    np.testing.assert_allclose(at, box.to_input(np.array([500.0, 285.0])), atol=0.1)


def test_padding_is_grey_and_the_picture_top_left():
    box = Letterbox.fit_long_side((20, 40), 64, 32)
    out = box.apply(np.full((20, 40, 3), 200, np.uint8))
    assert box.scaled_hw == (32, 64) and out.shape == (32, 64, 3) and (out == 200).all()
    out = Letterbox.fit((20, 40), (64, 64)).apply(np.full((20, 40, 3), 200, np.uint8))
    assert (out[:32] == 200).all() and (out[32:] == PAD_VALUE).all()


def test_same_size_is_a_copy_not_the_callers_picture():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    out = Letterbox.fit_long_side((32, 64), 64, 32).apply(image)
    assert np.array_equal(out, image) and not np.shares_memory(out, image)


@pytest.mark.parametrize("source_hw", [(1, 500), (500, 1), (1, 1), (1, 64), (3, 1000)])
def test_pictures_of_one_pixel_height_or_width(source_hw):
    box = Letterbox.fit_long_side(source_hw, 64, 32)
    stripes = np.zeros((*source_hw, 3), np.uint8)
    stripes[::2, ::2] = 255
    out = box.apply(stripes)
    assert out.shape == (*box.input_hw, 3)
    if max(source_hw) >= 500:
        # Fine stripes average out when shrinking; sampling points would show a pattern that is not there.
        inside = out[: box.scaled_hw[0], : box.scaled_hw[1]].astype(float)
        assert inside.std() < 30


@pytest.mark.parametrize("source_hw", [(0, 10), (10, 0), (0, 0)])
def test_picture_without_pixels_is_refused(source_hw):
    for make in (
        lambda: Letterbox.fit(source_hw, (64, 64)),
        lambda: Letterbox.fit_long_side(source_hw, 64, 32),
    ):
        with pytest.raises(ValueError, match="nothing in it"):
            make()


def test_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(20, 40\), image is \(40, 20\)"):
        Letterbox.fit((20, 40), (64, 64)).apply(np.zeros((40, 20, 3), np.uint8))
