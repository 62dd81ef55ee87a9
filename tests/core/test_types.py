"""People and FrameResult: what they accept, and the rectangles of a label map."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kdc_core.types import FrameResult, People, label_rois


def two_people() -> People:
    labels = np.zeros((4, 6), np.uint16)
    labels[1, 1:3] = 1
    labels[3, 5] = 2
    return People(
        keypoints_xy=np.ones((2, 17, 2), np.float32),
        keypoint_scores=np.full((2, 17), 0.5, np.float32),
        scores=np.array([0.9, 0.2], np.float32),
        boxes_xyxy=np.zeros((2, 4), np.float32),
        mask_labels=labels,
    )


def test_masks_of_each_person():
    people = two_people()
    assert len(people) == 2
    assert np.argwhere(people.mask(0)).tolist() == [[1, 1], [1, 2]]
    assert np.argwhere(people.mask(1)).tolist() == [[3, 5]]
    assert people.mask_rois().tolist() == [[1, 1, 2, 1], [5, 3, 1, 1]]


@pytest.mark.parametrize("person", [-1, 2])
def test_no_mask_beyond_the_people(person):
    # -1 + 1 is the background's label: it must not come out as somebody's mask.
    with pytest.raises(IndexError, match=f"person {person} of 2"):
        two_people().mask(person)


def test_nobody_is_an_ordinary_value():
    nobody = People.empty((3, 5))
    assert len(nobody) == 0
    assert nobody.keypoints_xy.shape == (0, 17, 2)
    assert nobody.mask_labels is not None and nobody.mask_labels.shape == (3, 5)
    assert nobody.mask_rois().shape == (0, 4)
    assert nobody.mask_scores is not None and nobody.mask_scores.shape == (0,)
    assert FrameResult(nobody, (3, 5)).stage_ms == {}


def test_masks_not_asked_for():
    people = People.empty()
    for ask in (people.mask_rois, lambda: people.mask(0)):
        with pytest.raises(ValueError, match="no masks"):
            ask()


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("scores", np.zeros(2, np.float64), TypeError),
        ("scores", [0.9, 0.2], TypeError),
        ("keypoints_xy", np.zeros((2, 16, 2), np.float32), ValueError),
        ("keypoints_xy", np.zeros((2, 17, 3), np.float32), ValueError),
        ("keypoint_scores", np.zeros((1, 17), np.float32), ValueError),
        ("boxes_xyxy", np.zeros((2, 4), np.float64), TypeError),
        ("boxes_xyxy", np.zeros((3, 4), np.float32), ValueError),
        ("mask_labels", np.zeros((4, 6), np.uint8), TypeError),
        ("mask_labels", np.zeros((4, 6, 1), np.uint16), ValueError),
        ("mask_labels", np.full((4, 6), 3, np.uint16), ValueError),
        ("mask_scores", np.zeros(2, np.float64), TypeError),
        ("mask_scores", np.zeros(3, np.float32), ValueError),
    ],
)
def test_refuses_what_does_not_fit_and_names_it(field, value, error):
    with pytest.raises(error, match=field):
        dataclasses.replace(two_people(), **{field: value})


def test_full_label_map_fits():
    # The highest label of uint16 is a person too.
    labels = np.array([[65535]], np.uint16)
    assert label_rois(labels, 65535)[-1].tolist() == [0, 0, 1, 1]


@settings(max_examples=60, deadline=None)
@given(labels=arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4)))
def test_rois_are_those_of_each_mask_by_itself(labels):
    for person, roi in enumerate(label_rois(labels, 4)):
        ys, xs = np.nonzero(labels == person + 1)
        expected = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1] if len(xs) else [0, 0, 0, 0]
        assert roi.tolist() == expected


def test_rois_of_other_memory_layouts_and_of_nothing():
    labels = np.zeros((5, 7), np.uint16)
    labels[1:4, 2:6] = 2
    assert label_rois(np.asfortranarray(labels), 2).tolist() == [[0, 0, 0, 0], [2, 1, 4, 3]]
    assert label_rois(labels[:, ::-1], 2)[1].tolist() == [1, 1, 4, 3]
    assert label_rois(np.zeros((0, 7), np.uint16), 2).tolist() == [[0] * 4] * 2
    with pytest.raises(ValueError, match="label 2 in a map of 1 people"):
        label_rois(labels, 1)
