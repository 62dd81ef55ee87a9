"""People whom only the mask fields show: found where their cells point, kept apart from people with a pose."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from kdc_core.backends.base import NetworkOutputs
from kdc_core.coco_results import coco_results
from kdc_core.coco_scores import AnnotatedImage, score_keypoints
from kdc_core.decode.candidates import Candidates
from kdc_core.decode.grouping import Poses
from kdc_core.decode.mask_only import Centroids, find_mask_only
from kdc_core.decode.masks import MaskFields, MaskOptions, decode_masks
from kdc_core.draw import draw_people
from kdc_core.geometry import Letterbox, cell_centres_xy
from kdc_core.pipeline import MASK_ONLY_SCORE, Pipeline, PipelineOptions
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.spec import ModelSpec
from kdc_core.tracking import Tracker, TrackerOptions, TrackState
from kdc_core.tracking.options import SURE_SCORE

SIDE = 32  # cells of 4 px
NOBODY = Centroids(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
# Columns of cells (ends exclusive) of two people from row 4 to row 28, and where their cells point.
BODIES = ((4, 12), (18, 26))
GOALS = ((31.5, 63.5), (87.5, 63.5))
SIGMA_PX = 8.0


def fields(people: int = 2, probability: float = 0.9) -> MaskFields:
    person = np.zeros((SIDE, SIDE), np.float32)
    embedding = np.zeros((2, SIDE, SIDE), np.float32)
    centres = cell_centres_xy(SIDE, SIDE, 4)
    for (left, right), goal in list(zip(BODIES, GOALS))[:people]:
        person[4:28, left:right] = probability
        for axis in (0, 1):
            embedding[axis, :, left:right] = goal[axis] - centres[axis, :, left:right]
    return MaskFields(person, embedding, np.full((SIDE, SIDE), SIGMA_PX, np.float32), 4)


def pose_in(body: int) -> Poses:
    """A pose whose only keypoint lies in a body."""
    keypoints = np.zeros((1, NUM_KEYPOINTS, 2), np.float32)
    scores = np.zeros((1, NUM_KEYPOINTS), np.float32)
    keypoints[0, 0], scores[0, 0] = ((BODIES[body][0] + 4) * 4, 60.0), 0.8
    return Poses(keypoints, scores, np.array([0.5], np.float32))


NO_POSES = Poses(
    np.zeros((0, NUM_KEYPOINTS, 2), np.float32), np.zeros((0, NUM_KEYPOINTS), np.float32), np.zeros(0, np.float32)
)
LETTERBOX = Letterbox.fit((SIDE * 4, SIDE * 4), (SIDE * 4, SIDE * 4))


class Fields:
    """A network that sees nobody's pose, only these mask fields."""

    name = "fields"
    spec = ModelSpec(input_hw=(SIDE * 4, SIDE * 4), disk_radius_px=12.0)

    def __init__(self, masks: MaskFields) -> None:
        self.masks = masks

    def run(self, image: np.ndarray) -> NetworkOutputs:
        return NetworkOutputs(Candidates(np.zeros((NUM_KEYPOINTS, 32, NUM_KEYPOINTS, 3), np.float32)), self.masks)

    def close(self) -> None:
        pass


def seen(shown: MaskFields, **options: object) -> Pipeline:
    return Pipeline(Fields(shown), PipelineOptions(**options))  # type: ignore[arg-type]


def blank() -> np.ndarray:
    return np.zeros((SIDE * 4, SIDE * 4, 3), np.uint8)


def test_cells_that_point_at_one_place_are_one_person() -> None:
    x = np.array([10.0, 11.0, 9.0, 50.0, 51.0, 90.0], np.float32)
    y = np.full(6, 20.0, np.float32)
    person = np.array([0.9, 0.6, 0.6, 0.8, 0.8, 0.7], np.float32)
    found, group = find_mask_only(x, y, person, np.full(6, 2.0, np.float32), NOBODY, least=2, apart=0.4)
    assert group.tolist() == [0, 0, 0, 1, 1, -1], "a cell alone is nobody"
    assert found.centres_xy == pytest.approx(np.array([[10.0, 20.0], [50.5, 20.0]]), abs=1e-4)
    assert found.scale == pytest.approx([0.5 / 2.0**2] * 2)
    assert find_mask_only(x, y, person, np.full(6, 2.0, np.float32), NOBODY, least=4, apart=0.4)[1].max() == -1


def test_whoever_points_near_a_known_person_is_a_part_of_her() -> None:
    """phi of the known one at the group's centre: exp(-d^2 / 2 sigma^2) = 0.4 at d = 1.354 sigma."""
    x, y = np.full(20, 30.0, np.float32), np.full(20, 30.0, np.float32)
    person, sigma = np.full(20, 0.9, np.float32), np.full(20, 5.0, np.float32)
    for distance, number in ((0.95 * 1.354 * 5, 0), (1.05 * 1.354 * 5, 1)):
        known = Centroids(np.array([[30.0 + distance, 30.0]], np.float32), np.array([0.5 / 25.0], np.float32))
        assert len(find_mask_only(x, y, person, sigma, known, least=16, apart=0.4)[0].scale) == number


def test_a_body_without_a_pose_is_found_beside_one_with() -> None:
    for posed, other in ((0, 1), (1, 0)):
        masks = decode_masks(fields(), pose_in(posed), LETTERBOX, mask_only=10)
        assert len(masks.scores) == 2 and masks.centroids_xy == pytest.approx(np.array([GOALS[other]]), abs=0.01)
        for label, body in ((1, posed), (2, other)):
            rows, columns = np.nonzero(masks.labels == label)
            left, right = BODIES[body]
            assert (columns.min(), columns.max()) == (left * 4, right * 4 - 1)
            assert (rows.min(), rows.max()) == (16, 111)
        assert masks.scores[1] == pytest.approx(masks.scores[0], abs=1e-3)


def test_the_masks_of_people_with_a_pose_stay_as_they_are() -> None:
    """Also where the other body's cells point so near that they could win some of them."""
    near = fields()
    near.embedding[0, :, BODIES[1][0] :] -= GOALS[1][0] - GOALS[0][0] - 1.5 * SIGMA_PX
    alone = decode_masks(near, pose_in(0), LETTERBOX)
    both = decode_masks(near, pose_in(0), LETTERBOX, mask_only=10)
    assert len(both.scores) == 2 and both.scores[0] == alone.scores[0]
    assert np.array_equal(both.labels == 1, alone.labels == 1)


def touching(closeness: float) -> MaskFields:
    """The second body begins where the first ends, and points `closeness` sigmas beside where the first points."""
    masks = fields(1)
    centres = cell_centres_xy(SIDE, SIDE, 4)
    masks.person[4:28, 12:20] = 0.9
    goal = (GOALS[0][0] + closeness * SIGMA_PX, GOALS[0][1])
    for axis in (0, 1):
        masks.embedding[axis, :, 12:20] = goal[axis] - centres[axis, :, 12:20]
    return masks


def test_who_is_not_good_enough_takes_nothing_of_anybody() -> None:
    alone = decode_masks(touching(1.5), pose_in(0), LETTERBOX)
    refused = decode_masks(touching(1.5), pose_in(0), LETTERBOX, mask_only=10, least_score=0.99)
    assert len(refused.scores) == 1 and refused.scores[0] == alone.scores[0]
    assert np.array_equal(refused.labels, alone.labels)
    assert len(decode_masks(touching(1.5), pose_in(0), LETTERBOX, mask_only=10).scores) == 2


def test_cells_of_people_with_a_pose_stay_theirs() -> None:
    """Also where phi of the one without is the larger: a patch of her body points as near to the neighbour's place."""
    masks = touching(1.6)
    masks.embedding[0, 20:28, 4:12] += 1.05 * SIGMA_PX
    alone = decode_masks(masks, pose_in(0), LETTERBOX)
    both = decode_masks(masks, pose_in(0), LETTERBOX, mask_only=10, least_score=0.6)
    assert len(both.scores) == 2
    changed = np.nonzero((both.labels == 1) != (alone.labels == 1))[1]
    assert changed.min() >= 46 and changed.max() <= 49, "only the line between the bodies, at 47.5, within half a cell"


def test_nobody_twice() -> None:
    """The lower quarter of one body points beside the rest of it: a part, not a second person."""
    masks = fields(1)
    masks.embedding[0, 22:28, 4:12] += 1.3 * SIGMA_PX  # there phi of the first is 0.43
    for poses in (pose_in(0), NO_POSES):
        assert len(decode_masks(masks, poses, LETTERBOX, mask_only=10, least_score=0.6).scores) == 1


@pytest.mark.parametrize("rows_of_the_body", [24, 6], ids=["fewer cells", "more cells"])
def test_who_makes_no_mask_makes_nobody_a_part_of_them(rows_of_the_body: int) -> None:
    """64 loose cells, surer than a body's, that point beside it: nobody, and the body is somebody all the same."""
    masks = fields(1, probability=0.85)
    masks.person[4 + rows_of_the_body :, 4:12] = 0.0
    alone = decode_masks(masks, NO_POSES, LETTERBOX, mask_only=10)
    centres = cell_centres_xy(SIDE, SIDE, 4)
    rows, columns = slice(2, 32, 4), slice(16, 31, 2)
    masks.person[rows, columns] = 0.9
    for axis, place in enumerate((GOALS[0][0] + 1.3 * SIGMA_PX, GOALS[0][1])):
        masks.embedding[axis, rows, columns] = place - centres[axis, rows, columns]
    found = decode_masks(masks, NO_POSES, LETTERBOX, mask_only=10, least_score=0.6)
    assert found.centroids_xy == pytest.approx(np.array([GOALS[0]]), abs=0.01)
    assert np.array_equal(found.labels, alone.labels) and found.scores == pytest.approx(alone.scores)


def test_somebody_without_a_pixel_is_nobody() -> None:
    """Loose cells that smoothing takes away, beside a whole body; a picture of one pixel that shows nobody half."""
    masks = fields(2)
    masks.person[:, BODIES[1][0] :] = 0.0
    masks.person[4:28:2, BODIES[1][0] : BODIES[1][1] : 2] = 0.93
    found = decode_masks(masks, NO_POSES, LETTERBOX, mask_only=10)
    assert len(found.scores) == 1 and found.centroids_xy == pytest.approx(np.array([GOALS[0]]), abs=0.01)
    assert set(np.unique(found.labels)) == {0, 1}
    people = seen(fields(2))(np.zeros((1, 1, 3), np.uint8)).people
    assert len(people) == 0 and people.mask_labels is not None and people.mask_labels.tolist() == [[0]]


def test_cells_beside_the_picture_do_not_count() -> None:
    """Sixteen cells are somebody; of these twenty only four lie in a picture of 128 x 64 px."""

    class Narrow(Fields):
        spec = dataclasses.replace(Fields.spec, dynamic_input=False)

    centres = cell_centres_xy(SIDE, SIDE, 4)
    masks = fields(0)
    masks.person[15:20, 8:12] = 0.95
    for axis, place in enumerate((40.0, 70.0)):
        masks.embedding[axis] = place - centres[axis]
    pipeline = Pipeline(Narrow(masks), PipelineOptions(person_threshold=0.01))  # type: ignore[arg-type]
    assert len(pipeline(np.zeros((64, 128, 3), np.uint8)).people) == 0
    assert len(pipeline(np.zeros((128, 128, 3), np.uint8)).people) == 1


@pytest.mark.parametrize(
    "wrong", [{"mask_only_cells": 0}, {"iterations": -1}, {"mask_only_apart": 1.1}, {"person_threshold": float("nan")}]
)
def test_options_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MaskOptions(**wrong)  # type: ignore[arg-type]


def test_the_best_are_taken() -> None:
    both = fields()
    both.person[:, : BODIES[0][1]] *= 0.7
    masks = decode_masks(both, NO_POSES, LETTERBOX, mask_only=10)
    assert masks.centroids_xy == pytest.approx(np.array([GOALS[1], GOALS[0]]), abs=0.01), "best first"
    assert masks.scores[0] > masks.scores[1]
    one = decode_masks(both, NO_POSES, LETTERBOX, mask_only=1)
    assert one.centroids_xy == pytest.approx(np.array([GOALS[1]]), abs=0.01) and set(np.unique(one.labels)) == {0, 1}
    least = float(masks.scores.mean())
    sure = decode_masks(both, NO_POSES, LETTERBOX, mask_only=10, least_score=least)
    assert np.array_equal(sure.labels, one.labels)
    assert len(decode_masks(both, NO_POSES, LETTERBOX, mask_only=0).scores) == 0


def test_bank_models_have_none() -> None:
    """Their cells say where each keypoint is; without a pose there is nothing to compare that with."""
    plain = fields()
    bank = dataclasses.replace(plain, embedding=np.zeros((2 * NUM_KEYPOINTS, SIDE, SIDE), np.float32))
    assert len(decode_masks(bank, NO_POSES, LETTERBOX, mask_only=10).scores) == 0
    assert len(decode_masks(bank, pose_in(0), LETTERBOX, mask_only=10).scores) == 1


def test_cells_that_point_nowhere_count_for_nothing() -> None:
    broken = fields(1)
    broken.embedding[:, 4:8, 4:8] = np.nan
    broken.embedding[:, 8:10, 4:8] = np.inf
    broken.sigma[10:12, 4:8] = np.nan
    masks = decode_masks(broken, NO_POSES, LETTERBOX, mask_only=10)
    assert masks.centroids_xy == pytest.approx(np.array([GOALS[0]]), abs=0.01)
    rows, columns = np.nonzero(masks.labels)
    assert rows.max() == 111 and columns.max() == BODIES[0][1] * 4 - 1
    assert not masks.labels[16:40, 16:28].any(), "but for the edge of what is whole"


def test_loose_cells_do_not_hide_a_group() -> None:
    """A hundred cells that agree with nobody are likelier people than the twenty that do."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 10_000, (2, 120)).astype(np.float32)
    x[100:], y[100:] = 5000.0 + rng.normal(0, 0.5, (2, 20)).astype(np.float32)
    person = np.where(np.arange(120) < 100, 0.95, 0.6).astype(np.float32)
    found, group = find_mask_only(x, y, person, np.full(120, 4.0, np.float32), NOBODY, least=16, apart=0.4)
    assert len(found.scale) == 1 and (group[100:] == 0).all() and (group[:100] == -1).sum() >= 99


def test_the_pipeline_reports_people_without_keypoints() -> None:
    people = seen(fields())(blank()).people
    assert len(people) == 2 and not people.keypoint_scores.any()
    assert people.mask_scores is not None
    assert people.scores == pytest.approx(MASK_ONLY_SCORE * people.mask_scores)
    order = np.argsort(people.boxes_xyxy[:, 0])
    expected = [[left * 4, 16, right * 4 - 1, 111] for left, right in BODIES]
    assert people.boxes_xyxy[order].tolist() == expected, "around the mask alone"
    assert people.keypoints_xy[order, 0] == pytest.approx(np.array(GOALS), abs=0.01)


def test_the_options_that_hold() -> None:
    assert len(seen(fields(), mask_only=False)(blank()).people) == 0
    assert len(seen(fields(), masks=False)(blank()).people) == 0
    assert len(seen(fields(), max_people=1)(blank()).people) == 1
    assert len(seen(fields(probability=0.5))(blank()).people) == 0, "not sure enough for a threshold of 0.15"
    assert len(seen(fields(probability=0.5), person_threshold=0.05)(blank()).people) == 2
    assert len(seen(fields(), mask=MaskOptions(mask_only_cells=193))(blank()).people) == 0, "they have 192"


def test_they_claim_no_pose_where_poses_are_scored() -> None:
    people = seen(fields())(blank()).people
    truth = {
        "id": 1, "image_id": 1, "category_id": 1, "keypoints": [30, 60, 2] * NUM_KEYPOINTS, "num_keypoints": 17,
        "bbox": [16, 16, 32, 96], "area": 3072.0, "iscrowd": 0, "has_mask": False,
    }  # fmt: skip
    image = AnnotatedImage(1, (SIDE * 4, SIDE * 4), [truth])
    right = {**coco_results(people, 1)[0], "keypoints": [30.0, 60.0, 0.9] * NUM_KEYPOINTS, "score": 0.02}
    scores = score_keypoints([image], [right, *coco_results(people, 1)]).metrics
    assert scores["AP"] == pytest.approx(1.0), "though both are surer"


def test_they_carry_a_track_on_but_begin_none() -> None:
    assert MASK_ONLY_SCORE < SURE_SCORE
    known = seen(fields(1))(blank()).people
    posed = dataclasses.replace(known, scores=np.array([0.6], np.float32))
    for first, state in ((posed, TrackState.TRACKED), (known, TrackState.TENTATIVE)):
        tracker = Tracker(TrackerOptions(high_score=SURE_SCORE))
        ids = [int(tracker.frame(first, 0.1 * n).ids[0]) for n in range(4)]
        after = [tracker.frame(known, 0.1 * n) for n in range(4, 12)]
        assert {int(frame.ids[0]) for frame in after} == set(ids), "one id"
        assert {int(frame.states[0]) for frame in after} == {state}


def test_they_are_drawn() -> None:
    people = seen(fields())(blank()).people
    picture = draw_people(blank(), people)
    for left, right in BODIES:
        assert picture[60, (left + right) * 2].any()
    assert not picture[60, 4].any()


def test_fields_that_agree_nowhere_take_no_long_time() -> None:
    rng = np.random.default_rng(0)
    wild = MaskFields(
        np.full((160, 160), 0.9, np.float32),
        rng.uniform(-400, 400, (2, 160, 160)).astype(np.float32),
        np.full((160, 160), 3.0, np.float32),
        4,
    )
    letterbox = Letterbox.fit((640, 640), (640, 640))
    start = time.process_time()
    decode_masks(wild, NO_POSES, letterbox, mask_only=100)
    assert time.process_time() - start < 2.0  # seeds without an end would take a minute
