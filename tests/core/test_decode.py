"""decode(encode(truth)) gives the people back; and hand-made fields with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.decode.candidates import Candidates, find_candidates
from kdc_core.decode.grouping import GroupingOptions, Poses, group
from kdc_core.decode.masks import MaskFields, MaskOptions, decode_masks, expected_iou
from kdc_core.encode import GroundTruth, encode, ideal_fields
from kdc_core.fields import Fields
from kdc_core.geometry import Letterbox
from kdc_core.skeleton import DIRECTED_EDGES, KEYPOINT_INDEX
from tests.core.made_people import made_truth

STRIDE, RADIUS_PX, COUNT = 4, 12.0, 32
INPUT_HW = (256, 320)

SCENES = {
    "nobody": [],
    "one": [(150.0, 20.0, 200.0)],
    "small": [(60.0, 60.0, 60.0), (200.0, 100.0, 48.0)],
    "side_by_side": [(60.0, 30.0, 180.0), (160.0, 40.0, 190.0), (255.0, 35.0, 170.0)],
    "overlapping": [(130.0, 20.0, 210.0), (175.0, 50.0, 190.0)],
    "cropped": [(10.0, 40.0, 190.0), (310.0, 120.0, 220.0)],
}


def fields_of(truth: GroundTruth, bank: bool = False) -> Fields:
    return ideal_fields(encode(truth, STRIDE, RADIUS_PX), STRIDE, bank)


def decode(fields: Fields, letterbox: Letterbox) -> tuple[Poses, np.ndarray]:
    poses = group(find_candidates(fields, RADIUS_PX, COUNT))
    masks = MaskFields(fields.person, fields.embedding, fields.sigma, STRIDE)
    return poses, decode_masks(masks, poses, letterbox).labels


def matched(truth: GroundTruth, poses: Poses) -> list[int]:
    """For each true person the pose nearest to its labelled joints."""
    out = []
    for joints, labelled in zip(truth.keypoints_xy, truth.labelled):
        distance = np.linalg.norm(poses.keypoints_xy - joints, axis=2)
        out.append(int(distance[:, labelled].mean(1).argmin()))
    return out


@pytest.mark.parametrize("bank", [False, True], ids=["centroid", "bank"])
@pytest.mark.parametrize("name", SCENES)
def test_round_trip(name: str, bank: bool) -> None:
    truth = made_truth(SCENES[name], INPUT_HW)
    poses, labels = decode(fields_of(truth, bank), Letterbox.fit(INPUT_HW, INPUT_HW))
    assert len(poses.scores) == len(SCENES[name])
    found = matched(truth, poses) if len(poses.scores) else []
    assert sorted(found) == list(range(len(found)))
    for n, pose in enumerate(found):
        labelled = truth.labelled[n]
        error = np.linalg.norm(poses.keypoints_xy[pose] - truth.keypoints_xy[n], axis=1)
        # A joint hidden under a neighbour's nearer one of the same type shares its disk: allow a cell.
        assert error[labelled].max() < STRIDE
        assert np.median(error[labelled]) < 0.2
        assert (poses.keypoint_scores[pose][labelled] > 0.3).all()
        truly, got = truth.instance == n + 1, labels == pose + 1
        assert (truly & got).sum() / (truly | got).sum() > (0.85 if SCENES[name][n][2] > 100 else 0.6)


def test_missing_keypoints_score_zero() -> None:
    truth = made_truth([(150.0, 20.0, 200.0)], INPUT_HW)
    truth.labelled[0, [KEYPOINT_INDEX["left_wrist"], KEYPOINT_INDEX["right_ankle"]]] = False
    poses, _ = decode(fields_of(truth), Letterbox.fit(INPUT_HW, INPUT_HW))
    assert len(poses.scores) == 1
    missing = ~truth.labelled[0]
    assert (poses.keypoint_scores[0][missing] == 0).all()
    assert (poses.keypoint_scores[0][~missing] > 0.3).all()


def test_limb_beyond_a_missing_joint_is_kept() -> None:
    """The elbow has no candidate, but the shoulder's edge says where it is and the wrist's edge agrees."""
    truth = made_truth([(150.0, 20.0, 200.0)], INPUT_HW)
    fields = fields_of(truth)
    elbow, wrist = KEYPOINT_INDEX["left_elbow"], KEYPOINT_INDEX["left_wrist"]
    fields.heatmap[elbow] *= 0.015
    poses, _ = decode(fields, Letterbox.fit(INPUT_HW, INPUT_HW))
    assert len(poses.scores) == 1
    assert np.linalg.norm(poses.keypoints_xy[0, elbow] - truth.keypoints_xy[0, elbow]) < 2.0
    assert 0 < poses.keypoint_scores[0, elbow] < 0.02
    assert np.linalg.norm(poses.keypoints_xy[0, wrist] - truth.keypoints_xy[0, wrist]) < 0.5
    assert poses.keypoint_scores[0, wrist] > 0.3


def test_candidate_is_refined_by_its_offsets() -> None:
    """One disk: its votes all point at (101.3, 57.8), between cell centres."""
    truth = made_truth([(150.0, 20.0, 200.0)], INPUT_HW)
    truth.labelled[:] = False
    truth.labelled[0, 0] = True
    truth.keypoints_xy[0, 0] = (101.3, 57.8)
    fields = fields_of(truth)
    fields.person[:] = 1.0  # the place is beside the figure
    candidates = find_candidates(fields, RADIUS_PX, COUNT)
    best = candidates.points[0, 0]
    assert best[:2] == pytest.approx((101.3, 57.8), abs=0.05)
    assert best[2] > 0.9
    assert (candidates.points[1:, :, 2] == 0).all()


def test_every_candidate_finds_the_whole_person() -> None:
    """From the nose as from an ankle: the walk along the tree ends at the same joints."""
    truth = made_truth([(150.0, 20.0, 200.0)], INPUT_HW)
    candidates = find_candidates(fields_of(truth), RADIUS_PX, COUNT)
    for kind in range(17):
        best = int(candidates.points[kind, :, 2].argmax())
        person = candidates.people[kind, best]
        error = np.linalg.norm(person[:, :2] - truth.keypoints_xy[0], axis=1)
        assert error[truth.labelled[0]].max() < 0.5, kind
        assert (person[truth.labelled[0], 2] > 0.3).all()


def test_the_walk_goes_on_from_where_it_landed() -> None:
    """An edge that misses by eight pixels is put right by the KeyCentroids of the disk it hits, joint after joint."""
    truth = made_truth([(150.0, 20.0, 200.0)], INPUT_HW)
    fields = fields_of(truth)
    fields.displacement[:] += np.array([6.0, -5.0], np.float32)[:, None, None]
    person = find_candidates(fields, RADIUS_PX, COUNT).people[0, 0]
    error = np.linalg.norm(person[:, :2] - truth.keypoints_xy[0], axis=1)
    assert error[truth.labelled[0]].max() < 0.5


def test_a_joint_out_of_view_scores_zero() -> None:
    truth = made_truth([(150.0, 20.0, 200.0)], INPUT_HW)
    fields = fields_of(truth)
    nose, eye = KEYPOINT_INDEX["nose"], KEYPOINT_INDEX["left_eye"]
    edge = DIRECTED_EDGES.index((nose, eye))
    fields.displacement[edge, 0] += 1000.0
    fields.offset[eye, :] = 0.0
    fields.offset[eye, 0, :, -1] = 30.0
    person = find_candidates(fields, RADIUS_PX, COUNT).people[nose, 0]
    assert person[eye, 0] > INPUT_HW[1] - 0.5
    assert person[eye, 2] == 0


def test_scores_need_a_person_where_the_keypoint_is() -> None:
    truth = made_truth([(150.0, 20.0, 200.0)], INPUT_HW)
    fields = fields_of(truth)
    whole = find_candidates(fields, RADIUS_PX, COUNT)
    fields.person[:] *= 0.5
    half = find_candidates(fields, RADIUS_PX, COUNT)
    assert half.points[:, 0, 2] == pytest.approx(0.5 * whole.points[:, 0, 2], rel=1e-3)


def two_noses(distance_px: float) -> Candidates:
    """Two people of whom nothing but the nose is seen; the rest of each is far away."""
    people = np.zeros((17, COUNT, 17, 3), np.float32)
    for place, (x, score) in enumerate(((100.0, 0.9), (100.0 + distance_px, 0.5))):
        people[0, place, :, 0] = 1e4 * (place + 1)
        people[0, place, 0] = (x, 100.0, score)
    return Candidates(people)


def test_two_people_of_one_joint_each() -> None:
    poses = group(two_noses(60.0))
    assert len(poses.scores) == 2
    assert poses.scores == pytest.approx([0.9 / 17**0.5, 0.5 / 17**0.5], abs=1e-6)
    assert poses.keypoints_xy[:, 0].tolist() == [[100, 100], [160, 100]]
    assert (poses.keypoint_scores[:, 1:] == 0).all()


def test_a_second_peak_on_the_same_joint_is_no_person() -> None:
    assert len(group(two_noses(1.0)).scores) == 1


def test_seed_threshold() -> None:
    assert len(group(two_noses(60.0), GroupingOptions(seed_threshold=0.6)).scores) == 1


def test_no_candidates_no_people() -> None:
    empty = Candidates(np.zeros((17, COUNT, 17, 3), np.float32))
    poses = group(empty)
    assert poses.keypoints_xy.shape == (0, 17, 2)
    masks = decode_masks(
        MaskFields(np.zeros((8, 8), np.float32), np.zeros((2, 8, 8), np.float32), np.ones((8, 8), np.float32), 4),
        poses,
        Letterbox.fit((50, 40), (32, 32)),
    )
    assert masks.labels.shape == (50, 40) and not masks.labels.any()
    assert masks.scores.shape == (0,) and masks.scores.dtype == np.float32


def test_the_score_counts_only_joints_nobody_better_has() -> None:
    """Upright people side by side share no joint; the score is the root mean square of all 17."""
    truth = made_truth(SCENES["side_by_side"], INPUT_HW)
    poses, _ = decode(fields_of(truth), Letterbox.fit(INPUT_HW, INPUT_HW))
    assert poses.scores == pytest.approx(np.sqrt(np.square(poses.keypoint_scores).mean(1)), abs=1e-6)


def test_a_joint_that_a_better_person_has_does_not_count() -> None:
    """Two people who share the nose's place, and nothing else."""
    people = np.zeros((17, COUNT, 17, 3), np.float32)
    for place, score in enumerate((0.8, 0.6)):
        people[1, place, :, 0] = 100.0 * np.arange(17) + 1e4 * place
        people[1, place, :, 2] = score
        people[1, place, 0] = (500.0, 500.0, score)
    poses = group(Candidates(people))
    assert poses.scores == pytest.approx([0.8, 0.6 * (16 / 17) ** 0.5], abs=1e-6)


def one_pose(xy: tuple[float, float], others: tuple[tuple[float, float], ...] = ()) -> Poses:
    places = [xy, *others]
    keypoints = np.tile(np.array(places, np.float32)[:, None], (1, 17, 1))
    scores = np.zeros((len(places), 17), np.float32)
    scores[:, 0] = 0.9
    return Poses(keypoints, scores, np.full(len(places), 0.9, np.float32))


def mask_fields(person: np.ndarray, centre_xy: np.ndarray, sigma: float) -> MaskFields:
    """Every cell's embedding points at the place given for it (2, h, w)."""
    from kdc_core.geometry import cell_centres_xy

    height, width = person.shape
    offset = centre_xy - cell_centres_xy(height, width, STRIDE)
    return MaskFields(person, offset.astype(np.float32), np.full((height, width), sigma, np.float32), STRIDE)


def test_mask_cut_is_at_1_18_sigma() -> None:
    """phi > 0.5 is a distance below 1.1774 sigma: embeddings 10 px off join at sigma 9, not at sigma 8."""
    person = np.ones((16, 16), np.float32)
    centre = np.full((2, 16, 16), 30.0, np.float32)
    centre[0, :, 8:] += 10.0
    letterbox = Letterbox.fit((64, 64), (64, 64))
    options = MaskOptions(iterations=0, smoothing_cells=0.0)
    for sigma, share in ((9.0, 1.0), (8.0, 0.5)):
        labels = decode_masks(mask_fields(person, centre, sigma), one_pose((10.0, 10.0)), letterbox, options).labels
        assert (labels == 1).mean() == pytest.approx(share, abs=0.04)


def test_masks_go_to_the_nearer_centroid() -> None:
    person = np.ones((16, 16), np.float32)
    centre = np.full((2, 16, 16), 20.0, np.float32)
    centre[0, :, 8:] = 40.0
    poses = one_pose((10.0, 10.0), ((50.0, 10.0),))
    labels = decode_masks(mask_fields(person, centre, 30.0), poses, Letterbox.fit((64, 64), (64, 64))).labels
    assert (labels[:, :31] == 1).all() and (labels[:, 33:] == 2).all()


def test_mask_reaches_the_border_and_keeps_out_of_the_padding() -> None:
    """A person who fills a 48 x 64 picture inside a 64 x 64 input: every pixel is theirs."""
    person = np.zeros((16, 16), np.float32)
    person[:12] = 1.0
    centre = np.full((2, 16, 16), 30.0, np.float32)
    letterbox = Letterbox.fit((96, 128), (64, 64))
    assert letterbox.scaled_hw == (48, 64)
    labels = decode_masks(mask_fields(person, centre, 10.0), one_pose((30.0, 20.0)), letterbox).labels
    assert labels.shape == (96, 128) and (labels == 1).all()


def test_a_mask_beside_a_narrow_picture_is_nobodys() -> None:
    """The grey beside a picture of 4 x 64 belongs to no pixel of it, whatever the network sees there."""
    person = np.zeros((16, 16), np.float32)
    person[4:12, 8:14] = 1.0
    centre = np.broadcast_to(np.array([40.0, 32.0])[:, None, None], (2, 16, 16))
    letterbox = Letterbox.fit((64, 4), (64, 64))
    labels = decode_masks(mask_fields(person, centre, 20.0), one_pose((40.0, 32.0)), letterbox).labels
    assert labels.shape == (64, 4) and not labels.any()


def test_the_score_of_a_mask_is_the_iou_to_be_expected() -> None:
    """A sure person of 6 x 6 cells beside one of whom a half is unsure, and a person without a cell."""
    person = np.zeros((16, 24), np.float32)
    person[4:10, 3:9] = 1.0
    person[4:10, 14:17] = 1.0
    person[4:10, 17:20] = 0.3  # not enough, and no background either
    place = np.full((2, 16, 24), 20.0, np.float32)
    place[0, :, 12:] = 65.0
    poses = one_pose((22.0, 26.0), ((66.0, 26.0), (62.0, 60.0)))
    letterbox = Letterbox.fit((64, 96), (64, 96))
    options = MaskOptions(person_threshold=0.4, iterations=0, smoothing_cells=0.0)
    fields = mask_fields(person, place, 10.0)
    fields.embedding[:, 15, 15] += 500.0  # the third one's own cell points elsewhere
    masks = decode_masks(fields, poses, letterbox, options)
    # Below its threshold of 0.4 a probability of 0.3 counts 0.375: 18 cells, and 12 within two of them.
    assert masks.scores == pytest.approx([1.0, 18 / (18 + 12 * 0.375), 0.0], abs=1e-3)
    assert masks.scores.dtype == np.float32
    assert [(masks.labels == n).any() for n in (1, 2, 3)] == [True, True, False]


def test_cells_that_two_people_want_make_both_masks_less_sure() -> None:
    person = np.ones((16, 16), np.float32)
    letterbox = Letterbox.fit((64, 64), (64, 64))
    options = MaskOptions(iterations=0, smoothing_cells=0.0)

    def scores(distance: float) -> np.ndarray:
        place = np.full((2, 16, 16), 24.0, np.float32)
        place[0, :, 8:] += distance
        poses = one_pose((10.0, 30.0), ((50.0, 30.0),))
        return decode_masks(mask_fields(person, place, 10.0), poses, letterbox, options).scores

    assert scores(200.0) == pytest.approx([1.0, 1.0], abs=1e-3)
    apart, near = scores(20.0), scores(8.0)
    assert (near < apart - 0.05).all() and (apart < 1).all()


@pytest.mark.parametrize(
    ("soft", "expected"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], 1.0),
        ([[0.8, 0.8], [0.0, 0.0]], 0.8),
        ([[0.8, 0.8], [0.4, 0.2]], 1.6 / 2.6),
        ([[0.5, 0.4], [0.0, 0.0]], 0.0),
    ],
)
def test_expected_iou(soft: list[list[float]], expected: float) -> None:
    assert expected_iou(np.array(soft, np.float32)) == pytest.approx(expected)


def test_what_lies_beside_the_picture_does_not_count_for_a_mask() -> None:
    """The lower half of the input is grey; what the network sees there is not the person's."""
    person = np.full((16, 16), 0.35, np.float32)
    person[:8] = 1.0
    place = np.full((2, 16, 16), 30.0, np.float32)
    letterbox = Letterbox.fit((32, 64), (64, 64))
    masks = decode_masks(mask_fields(person, place, 10.0), one_pose((30.0, 20.0)), letterbox)
    assert masks.scores == pytest.approx([1.0])
