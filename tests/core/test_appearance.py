"""Colour histograms of masks: known colours, what they forgive, and what they say nothing about."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.appearance import SIZE, colour_histograms
from kdc_core.pipeline import Pipeline, PipelineOptions
from tests.core.test_pipeline import SPEC, TWO, Oracle

RED, NAVY, GREY = (180, 40, 40), (25, 35, 90), (128, 128, 128)


def dressed(*colours: tuple[int, int, int], hw: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy green picture with one upright rectangle of each colour: image and labels."""
    rng = np.random.default_rng(0)
    image = np.clip(np.array((60, 140, 60)) + rng.normal(0, 8, (*hw, 3)), 0, 255).astype(np.uint8)
    labels = np.zeros(hw, np.uint16)
    width = hw[1] // (2 * len(colours))
    for i, colour in enumerate(colours):
        window = np.s_[hw[0] // 4 : -hw[0] // 4, 2 * i * width : (2 * i + 1) * width]
        image[window] = np.clip(image[window].astype(int) - (60, 140, 60) + colour, 0, 255)
        labels[window] = i + 1
    return image, labels


def cosines(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    return unit @ unit.T


def test_the_same_clothes_look_alike_and_others_do_not() -> None:
    rows = colour_histograms(*dressed(RED, NAVY, RED, GREY), 4)
    assert rows.dtype == np.uint8 and rows.shape == (4, SIZE)
    assert np.allclose(np.linalg.norm(rows.astype(float), axis=1), 255, atol=3)
    alike = cosines(rows)
    assert alike[0, 2] > 0.99
    assert max(alike[0, 1], alike[0, 3], alike[1, 3]) < 0.8


def test_one_plain_colour_is_shared_out_between_the_nearest_bins() -> None:
    """A grey of L = 100 * 3 / 8 lies in the middle of the second of four bins of lightness, and in the middle of a and
    b between two: a quarter in each of four cells."""
    image = np.full((40, 40, 3), 89, np.uint8)  # L* 37.8
    (row,) = colour_histograms(image, np.ones((40, 40), np.uint16), 1)
    cells = (row.reshape(4, 4, 4) / 255.0) ** 2
    assert cells.sum() == pytest.approx(1, abs=0.02)
    assert cells[1, 1:3, 1:3].sum() > 0.7
    assert cells[[0, 3]].sum() < 0.3 and cells[:, [0, 3]].sum() < 0.3 and cells[:, :, [0, 3]].sum() < 0.3


def test_a_little_more_light_changes_little() -> None:
    image, labels = dressed(RED, NAVY)
    brighter = np.clip(image * 1.08, 0, 255).astype(np.uint8)
    before, after = colour_histograms(image, labels, 2), colour_histograms(brighter, labels, 2)
    alike = cosines(np.concatenate([before, after]))
    assert alike[0, 2] > 0.96 and alike[1, 3] > 0.96
    assert alike[0, 3] < 0.8 and alike[1, 2] < 0.8


def test_the_pictures_size_hardly_matters() -> None:
    small = colour_histograms(*dressed(RED, NAVY), 2)
    large = colour_histograms(*dressed(RED, NAVY, hw=(1080, 1920)), 2)
    alike = cosines(np.concatenate([small, large]))
    assert alike[0, 2] > 0.98 and alike[1, 3] > 0.98


def test_whoever_is_hardly_seen_has_no_colours() -> None:
    image, labels = dressed(RED)
    labels[:] = 0
    labels[10:14, 10:14] = 1  # 16 pixels
    labels[40:80, 40:80] = 3
    rows = colour_histograms(image, labels, 3)
    assert not rows[0].any() and not rows[1].any() and rows[2].any()
    assert colour_histograms(image, np.zeros_like(labels), 0).shape == (0, SIZE)
    assert not colour_histograms(image, np.zeros_like(labels), 2).any()
    assert colour_histograms(np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.uint16), 1).shape == (1, SIZE)


def test_image_and_masks_must_belong_together() -> None:
    with pytest.raises(ValueError, match=r"\(120, 160\).*\(60, 80\)"):
        colour_histograms(np.zeros((120, 160, 3), np.uint8), np.zeros((60, 80), np.uint16), 1)


def test_the_pipeline_adds_them_where_they_are_asked_for() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    image[:, :160], image[:, 160:] = RED, NAVY
    assert Pipeline(Oracle(TWO, SPEC))(image).people.appearance is None
    assert Pipeline(Oracle(TWO, SPEC), PipelineOptions(appearance=True, masks=False))(image).people.appearance is None
    people = Pipeline(Oracle(TWO, SPEC), PipelineOptions(appearance=True))(image).people
    assert people.appearance is not None and people.mask_labels is not None
    np.testing.assert_array_equal(people.appearance, colour_histograms(image, people.mask_labels, len(people)))
    assert cosines(people.appearance)[0, 1] < 0.8  # one stands before the red half, one before the blue one
