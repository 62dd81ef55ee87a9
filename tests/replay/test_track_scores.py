"""Tracking scores of sequences whose scores follow from the definitions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdc_replay.track_scores import FrameObjects, mask_similarity, score_tracks

pytest.importorskip("trackeval", reason="needs TrackEval")

HW = (40, 100)
LEFT, RIGHT, FAR = (10, 5, 20, 35), (50, 5, 60, 35), (80, 5, 90, 35)


def frame(*objects: tuple[int, tuple[int, int, int, int]]) -> FrameObjects:
    """Objects (id, box) whose masks are their boxes."""
    labels = np.zeros(HW, np.uint16)
    for i, (_, (x0, y0, x1, y1)) in enumerate(objects):
        labels[y0:y1, x0:x1] = i + 1
    boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
    return FrameObjects(np.array([number for number, _ in objects], np.int64), boxes, labels)


TWO = [frame((1, LEFT), (2, RIGHT))] * 10


@pytest.mark.parametrize("similarity", ["box", "mask"])
def test_perfect(similarity: str) -> None:
    found = [frame((70, RIGHT), (-5, LEFT))] * 10  # other names and another order mean nothing
    scores = score_tracks(TWO, found, similarity)  # type: ignore[arg-type]
    assert scores.hota == scores.deta == scores.assa == pytest.approx(1)
    assert scores.idf1 == scores.mota == 1
    assert (scores.id_switches, scores.fragmentations, scores.misses, scores.false_positives) == (0, 0, 0, 0)
    assert (scores.matches, scores.frames, scores.true_tracks, scores.found_tracks) == (20, 10, 2, 2)


def test_one_swap_halfway() -> None:
    """Two ids exchanged for the last half: both ids are right half of the time.

    AssA: each of the four pairs of ids has 5 true positives, 5 false negatives and 5 false positives: 5 / 15.
    """
    found = [frame((1, LEFT), (2, RIGHT))] * 5 + [frame((2, LEFT), (1, RIGHT))] * 5
    scores = score_tracks(TWO, found)
    assert scores.id_switches == 2
    assert scores.mota == pytest.approx(1 - 2 / 20)
    assert scores.idf1 == pytest.approx(0.5)
    assert scores.deta == pytest.approx(1)
    assert scores.assa == pytest.approx(1 / 3)
    assert scores.hota == pytest.approx(np.sqrt(1 / 3))


def test_a_new_id_after_a_break() -> None:
    """One of ten frames missed, then a new id: one switch, one fragmentation, one miss.

    IDF1 = 2 * 5 / (10 + 10): the better of the two ids holds for 5 frames.
    """
    truth = [frame((1, LEFT))] * 10
    # TrackEval's CLEAR takes a frame in which nothing at all is found as no break: something else is found there.
    found = [frame((1, LEFT))] * 5 + [frame((3, FAR))] + [frame((2, LEFT))] * 4
    scores = score_tracks(truth, found)
    assert (scores.id_switches, scores.fragmentations, scores.misses, scores.false_positives) == (1, 1, 1, 1)
    assert scores.idf1 == pytest.approx(2 * 5 / (10 + 10))
    assert scores.mota == pytest.approx(1 - 3 / 10)


def test_all_missed() -> None:
    scores = score_tracks(TWO, [frame()] * 10)
    assert (scores.hota, scores.idf1, scores.mota, scores.idr) == (0, 0, 0, 0)
    assert (scores.misses, scores.matches, scores.found_tracks) == (20, 0, 0)
    assert np.isnan(scores.idp)


def test_nobody_there_but_somebody_found() -> None:
    scores = score_tracks([frame()] * 10, TWO)
    assert (scores.hota, scores.idf1, scores.idp) == (0, 0, 0)
    assert scores.false_positives == 20
    assert np.isnan(scores.mota)


@pytest.mark.parametrize("frames", [0, 10])
def test_nothing_at_all(frames: int) -> None:
    scores = score_tracks([frame()] * frames, [frame()] * frames)
    assert np.isnan([scores.hota, scores.idf1, scores.mota]).all()
    assert (scores.id_switches, scores.misses, scores.frames) == (0, 0, frames)
    assert json.loads(json.dumps(scores.to_dict(), allow_nan=False))["hota"] is None


def test_empty_frames_between_cost_nothing() -> None:
    truth = [*TWO[:5], *[frame()] * 5, *TWO[:5]]
    scores = score_tracks(truth, truth, "mask")
    assert scores.hota == pytest.approx(1)
    assert (scores.idf1, scores.id_switches) == (1, 0)


def test_hota_falls_with_the_place_and_mota_does_not() -> None:
    """Boxes of IoU 2/3 match at the 13 thresholds 0.05 .. 0.65 of 19."""
    near = (12, 5, 22, 35)
    scores = score_tracks([frame((1, LEFT))] * 4, [frame((1, near))] * 4)
    assert scores.mota == 1
    assert scores.hota == pytest.approx(13 / 19)


def test_masks_of_every_form() -> None:
    """A label map against bool masks that overlap, in both forms, known by counting."""
    labels = np.zeros((4, 4), np.int32)
    labels[:, :2], labels[:, 2:] = 1, 2
    boxes = np.zeros((2, 4), np.float32)
    ids = np.array([1, 2])
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :, :3], masks[1, :2, 2:] = True, True
    a, b = FrameObjects(ids, boxes, labels), FrameObjects(ids, boxes, masks)
    expected = np.array([[8 / 12, 0], [4 / 16, 4 / 8]])
    np.testing.assert_allclose(mask_similarity(a, b), expected)
    np.testing.assert_allclose(mask_similarity(a, FrameObjects(ids, boxes, list(masks))), expected)
    np.testing.assert_allclose(mask_similarity(a, a), np.eye(2))
    strange = labels.copy()
    strange[0, 0] = 9  # a label of nobody
    np.testing.assert_allclose(mask_similarity(a, FrameObjects(ids, boxes, strange)), np.diag([7 / 8, 1]))


def test_what_does_not_fit_is_refused() -> None:
    ids, boxes = np.array([1, 2]), np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="once in a frame"):
        FrameObjects(np.array([1, 1]), boxes)
    with pytest.raises(ValueError, match="integers"):
        FrameObjects(np.array([1.0, 2.0]), boxes)
    with pytest.raises(ValueError, match="finite"):
        FrameObjects(ids, np.full((2, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="2 bool masks"):
        FrameObjects(ids, boxes, np.zeros((3, 4, 4), bool))
    with pytest.raises(ValueError, match="10 frames, found has 9"):
        score_tracks(TWO, TWO[:9])
    with pytest.raises(ValueError, match="needs masks"):
        score_tracks([FrameObjects(ids, boxes)], [FrameObjects(ids, boxes)], "mask")
    with pytest.raises(ValueError, match="different sizes"):
        score_tracks([FrameObjects(ids, boxes, np.zeros((4, 4), int))], TWO[:1], "mask")
