"""The decoder gives exactly the people of the plain one (`plain_decode`), on crowds, clutter and nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_bench.crowds import Crowd, make_crowd
from kdc_core.decode.candidates import Candidates
from kdc_core.decode.fragments import join_fragments
from kdc_core.decode.grouping import GroupingOptions, Poses, group
from kdc_core.decode.masks import MaskFields, MaskOptions, decode_masks
from kdc_core.encode import encode, ideal_fields
from kdc_core.geometry import Letterbox
from kdc_core.label_map import label_rois
from kdc_core.rle import encode_counts, encode_labels
from tests.core import plain_decode
from tests.core.made_people import made_truth

NETWORK_HW = (240, 320)


def assert_same_poses(fast: Poses, plain: Poses) -> None:
    np.testing.assert_array_equal(fast.keypoints_xy, plain.keypoints_xy)
    np.testing.assert_array_equal(fast.keypoint_scores, plain.keypoint_scores)
    np.testing.assert_allclose(fast.scores, plain.scores, rtol=1e-6)


@pytest.fixture(scope="module", params=[(0, True), (1, False), (5, True), (20, False), (40, True)], ids=str)
def crowd(request: pytest.FixtureRequest) -> Crowd:
    people, clutter = request.param
    return make_crowd(people, NETWORK_HW, clutter=clutter, seed=people)


def test_poses_of_crowds(crowd: Crowd) -> None:
    fast = group(crowd.outputs.candidates)
    assert_same_poses(fast, plain_decode.group(crowd.outputs.candidates))
    assert len(fast.scores) >= crowd.people


@pytest.mark.parametrize("seed", range(12))
def test_poses_of_nonsense(seed: int) -> None:
    """Joints anywhere, so close together that everybody has everybody's."""
    rng = np.random.default_rng(seed)
    room = rng.choice((20.0, 60.0, 300.0))
    people = rng.uniform(-0.2 * room, 1.2 * room, (17, 12, 17, 3)).astype(np.float32)
    people[..., 2] = rng.uniform(0, 1, people.shape[:3]) ** 3
    for options in (GroupingOptions(), GroupingOptions(0.01, 0.5, 1.0), GroupingOptions(0.3, 6.0, 30.0)):
        candidates = Candidates(people)
        for least in (0.0, 0.45):
            assert_same_poses(group(candidates, options, least), plain_decode.group(candidates, options, least))


@pytest.mark.parametrize("source_hw", [(240, 320), (357, 501), (1080, 1440)], ids=str)
def test_masks_of_crowds(crowd: Crowd, source_hw: tuple[int, int]) -> None:
    masks = crowd.outputs.masks
    poses = join_fragments(group(crowd.outputs.candidates), masks, 0.1, 0.5)
    letterbox = Letterbox.fit(source_hw, NETWORK_HW)
    for options in (MaskOptions(), MaskOptions(person_threshold=0.5, iterations=2, smoothing_cells=0.0)):
        decoded = decode_masks(masks, poses, letterbox, options)
        fast = decoded.labels
        plain = plain_decode.decode_masks(masks, poses, letterbox, options)
        # Sums in another order move a border by a rounding error: a pixel in ten thousand may tip over.
        assert (fast != plain).sum() <= 1e-4 * fast.size
        assert len(np.unique(fast)) > 0.9 * crowd.people
        seen = np.isin(np.arange(len(poses.scores)) + 1, fast)
        assert (decoded.scores[seen] > 0.1).all() and (decoded.scores <= 1).all()


def test_masks_of_the_bank_form() -> None:
    truth = made_truth([(80.0, 30.0, 190.0), (160.0, 40.0, 190.0), (170.0, 45.0, 170.0)], NETWORK_HW)
    fields = ideal_fields(encode(truth, 4, 12.0), 4, bank=True)
    masks = MaskFields(fields.person, fields.embedding, fields.sigma, 4)
    poses = Poses(truth.keypoints_xy, truth.labelled.astype(np.float32), np.ones(3, np.float32))
    letterbox = Letterbox.fit((480, 640), NETWORK_HW)
    fast = decode_masks(masks, poses, letterbox).labels
    assert np.array_equal(fast, plain_decode.decode_masks(masks, poses, letterbox))
    assert set(np.unique(fast)) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(40))
def test_all_run_lengths_at_once(seed: int) -> None:
    """Small maps hold every case: absent people, runs over a column's end, people of one pixel, of the whole map."""
    rng = np.random.default_rng(seed)
    height, width, count = rng.integers(1, 9, 3)
    labels = rng.integers(0, count + 1, (height, width)).astype(np.uint16)
    if seed % 3 == 0:
        labels = np.sort(labels, axis=seed % 2)
    rois, counts = encode_labels(labels, count)
    np.testing.assert_array_equal(rois, label_rois(labels, count))
    for n, (x, y, w, h) in enumerate(rois.tolist()):
        rows, columns = np.nonzero(labels == n + 1)
        if len(rows) == 0:
            assert (w, h) == (0, 0) and len(counts[n]) == 0
            continue
        assert (x, y, x + w - 1, y + h - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
        np.testing.assert_array_equal(counts[n], encode_counts(labels[y : y + h, x : x + w] == n + 1))


def test_labels_beyond_the_people_are_refused() -> None:
    with pytest.raises(ValueError, match="label 3 in a map of 2 people"):
        encode_labels(np.array([[0, 3]], np.uint16), 2)
    rois, counts = encode_labels(np.zeros((0, 5), np.uint16), 2)
    assert not rois.any() and [len(c) for c in counts] == [0, 0]
