"""One warp moves image, keypoints, boxes and masks together."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from kdc_core.geometry import PAD_VALUE, Letterbox
from kdc_core.skeleton import FLIP_INDEX, KEYPOINT_INDEX
from kdc_model.data.augment import Warp, WarpRange, ground_truth, plain_warp, random_colour, random_warp
from kdc_model.data.coco import ImageRecord, Person

LEFT, RIGHT = KEYPOINT_INDEX["left_wrist"], KEYPOINT_INDEX["right_wrist"]


def warp_of(hw, scale, angle_deg, flipped, input_hw, centre=None) -> Warp:
    """A warp that puts `centre` (default: the picture's) on the input's centre."""
    angle = np.deg2rad(angle_deg)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flipped:
        linear = linear @ np.diag([-1.0, 1.0])
    centre = np.array([hw[1] - 1, hw[0] - 1]) / 2 if centre is None else np.asarray(centre)
    shift = (np.array(input_hw[::-1]) - 1) / 2 - linear @ centre
    return Warp(np.column_stack([linear, shift]), input_hw, flipped)


def record_of(hw, *persons: Person, **extra) -> ImageRecord:
    return ImageRecord(1, Path("none.png"), hw[0], hw[1], persons, **extra)


def person_of(box=(0.0, 0.0, 4.0, 4.0), segmentation=None, ignore=False, **places) -> Person:
    keypoints = np.zeros((17, 3), np.float32)
    for name, (x, y) in places.items():
        keypoints[KEYPOINT_INDEX[name]] = (x, y, 2)
    return Person(keypoints, box, segmentation, ignore)


def rle_of(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def centroid(weight: np.ndarray) -> np.ndarray:
    assert weight.sum() > 0, "nothing arrived"
    ys, xs = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()


def change(warp: Warp, hw, rows, cols) -> np.ndarray:
    """What a white patch on black becomes, without the grey around the picture."""
    black = np.zeros((*hw, 3), np.uint8)
    white = black.copy()
    white[rows, cols] = 255
    return np.abs(warp.image(white).astype(float) - warp.image(black)).sum(2)


@settings(max_examples=120, deadline=None)
@example(hw=(20, 20), scale=0.625, angle=56.0, flipped=True, at=(0.5, 0.5))
@given(
    hw=st.tuples(st.integers(20, 150), st.integers(20, 150)),
    scale=st.floats(0.3, 3.0),
    angle=st.floats(-180, 180),
    flipped=st.booleans(),
    at=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
)
def test_white_pixel_and_keypoint_land_together(hw, scale, angle, flipped, at):
    x, y = int(at[0] * hw[1]), int(at[1] * hw[0])
    # The keypoint's pixel is brought near the input's centre, wherever in the picture it lies.
    warp = warp_of(hw, scale, angle, flipped, (48, 56), centre=(x + 1.3, y - 0.8))
    landed = centroid(change(warp, hw, y, x))
    place = warp.points(np.array([x, y], float))
    assert np.abs(landed - place).max() < 0.5
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[LEFT] = (x, y, 2)
    moved, labelled = warp.keypoints(keypoints)
    k = RIGHT if flipped else LEFT
    np.testing.assert_allclose(moved[k], place, atol=1e-3)
    assert np.flatnonzero(labelled).tolist() == [k]


@pytest.mark.parametrize("side", [333, 427, 500, 640])
@pytest.mark.parametrize("scale", [0.2, 0.3, 0.37, 0.5, 0.59])
def test_strong_shrinking_keeps_the_far_corner_in_place(side, scale):
    # Shrinking goes over an intermediate picture of whole pixels; its rounding must not move anything.
    side_out = int(side * scale) + 2
    shift = 0.5 * scale - 0.5
    warp = Warp(np.array([[scale, 0, shift], [0, scale, shift]]), (side_out, side_out), False)
    middle = side - 15
    landed = centroid(change(warp, (side, side), *[slice(middle - 7, middle + 8)] * 2))
    assert np.abs(landed - warp.points(np.array([middle, middle], float))).max() < 0.12


def test_fine_detail_averages_out_when_shrinking():
    checks = np.zeros((300, 300, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    inside = warp_of((300, 300), 0.31, 0, False, (60, 60)).image(checks)
    assert inside.std() < 15 and abs(inside.mean() - 127) < 4


@pytest.mark.parametrize("hw", [(1, 200), (200, 1), (1, 1), (3, 900)])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 2.0])
def test_pictures_of_one_pixel_height_or_width(hw, scale):
    out = warp_of(hw, scale, 10.0, True, (32, 32)).image(np.zeros((*hw, 3), np.uint8))
    assert out.shape == (32, 32, 3) and (out[0, 0] == PAD_VALUE).all()


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0.25, 3.0), angle=st.floats(-45, 45), flipped=st.booleans(), polygon=st.booleans())
def test_mask_and_polygon_follow_the_picture(scale, angle, flipped, polygon):
    hw = (90, 120)
    rows, cols = slice(30, 66), slice(50, 80)
    mask = np.zeros(hw, np.uint8)
    mask[rows, cols] = 1
    # COCO's polygons have pixel edges at integers: columns 50..79 are covered from 50 to 80.
    shape = [[50.0, 30.0, 80.0, 30.0, 80.0, 66.0, 50.0, 66.0]] if polygon else rle_of(mask)
    person = person_of((50, 30, 30, 36), shape, nose=(64.5, 47.5))
    warp = warp_of(hw, scale, angle, flipped, (160, 160))
    truth = ground_truth(record_of(hw, person), warp)
    landed = truth.instance == 1
    place = warp.points(np.array([64.5, 47.5]))  # the mask's middle
    assert np.abs(centroid(landed) - place).max() < 0.5
    np.testing.assert_allclose(truth.keypoints_xy[0, 0], place, atol=1e-3)
    if np.abs(warp.points(np.array([[50, 30], [80, 66], [50, 66], [80, 30]])) - 79.5).max() < 79:
        assert landed.sum() == pytest.approx(30 * 36 * scale**2, rel=0.03 + 0.12 / scale)
    picture = change(warp, hw, rows, cols) > 3 * 127
    overlap = (picture & landed).sum() / (picture | landed).sum()
    assert overlap > 1 - 0.12 / scale


def test_polygon_is_what_coco_paints():
    rng = np.random.default_rng(0)
    turn = np.sort(rng.uniform(0, 2 * np.pi, 12))
    outline = np.stack([60 + 40 * np.cos(turn) * rng.uniform(0.5, 1, 12), 45 + 30 * np.sin(turn)], 1)
    flat = [outline.ravel().tolist()]
    coco = coco_mask.decode(coco_mask.frPyObjects(flat, 90, 120))[..., 0] > 0
    still = warp_of((90, 120), 1, 0, False, (90, 120))
    mine = ground_truth(record_of((90, 120), person_of((0, 0, 120, 90), flat)), still).instance == 1
    assert (mine & coco).sum() / (mine | coco).sum() > 0.96
    assert np.abs(centroid(mine) - centroid(coco)).max() < 0.15


def test_overlapping_polygons_of_one_person_leave_no_hole():
    flat = [[10, 10, 40, 10, 40, 40, 10, 40], [30, 30, 60, 30, 60, 60, 30, 60]]
    person = person_of((10, 10, 50, 50), [[float(v) for v in p] for p in flat])
    truth = ground_truth(record_of((64, 64), person), warp_of((64, 64), 1, 0, False, (64, 64)))
    assert (truth.instance[31:39, 31:39] == 1).all()


def test_flip_swaps_left_and_right_joints_and_their_labels():
    person = person_of(left_wrist=(10, 20), right_ankle=(30, 40), nose=(5, 6))
    plain = warp_of((64, 64), 1, 0, False, (64, 64))
    mirror = warp_of((64, 64), 1, 0, True, (64, 64))
    xy, labelled = plain.keypoints(person.keypoints)
    flipped_xy, flipped = mirror.keypoints(person.keypoints)
    assert labelled[[LEFT, KEYPOINT_INDEX["right_ankle"], 0]].all() and labelled.sum() == 3
    assert flipped[[RIGHT, KEYPOINT_INDEX["left_ankle"], 0]].all() and flipped.sum() == 3
    assert flipped_xy[RIGHT].tolist() == [53, 20]
    # Flipping again brings everything back.
    again = np.column_stack([flipped_xy, flipped * 2.0])
    back, back_labelled = mirror.keypoints(again)
    assert (back_labelled == labelled).all()
    np.testing.assert_allclose(back[labelled], xy[labelled], atol=1e-4)
    assert FLIP_INDEX[LEFT] == RIGHT


def test_keypoints_that_leave_the_input_are_no_longer_labelled():
    person = person_of(nose=(31.4, 10), left_eye=(31.6, 10), right_eye=(-0.4, -0.4), left_ear=(5, 40))
    _, labelled = Warp(np.eye(2, 3), (32, 32), False).keypoints(person.keypoints)
    assert np.flatnonzero(labelled).tolist() == [KEYPOINT_INDEX["nose"], KEYPOINT_INDEX["right_eye"]]


RANGES = WarpRange(long_side=100, scale=(0.5, 2.0), rotation_deg=20.0, flip=0.3)


def draws(record: ImageRecord, count: int, ranges: WarpRange = RANGES) -> list[Warp]:
    rng = np.random.default_rng(0)
    return [random_warp(record, (64, 64), ranges, rng) for _ in range(count)]


def test_scale_augmentation_really_scales():
    # A known fault of published code: one factor cancels another and every picture comes at the same scale.
    record = record_of((100, 200))
    lengths = []
    for warp in draws(record, 1200):
        a, b = warp.points(np.array([[50.0, 50.0], [150.0, 50.0]]))  # half the longer side apart
        lengths.append(np.hypot(*(a - b)) / 50.0)
    scales = np.array(lengths)
    assert 0.5 <= scales.min() < 0.52 and 1.92 < scales.max() <= 2.0 + 1e-9
    share, _ = np.histogram(np.log2(scales), 8, (-1, 1))
    assert (np.abs(share / len(scales) - 1 / 8) < 0.035).all()


def test_scaled_picture_is_really_larger():
    # Measured in the pictures themselves: the area of a disc.
    disc = np.zeros((100, 100, 3), np.uint8)
    cv2.circle(disc, (50, 50), 10, (255, 255, 255), -1)
    record = record_of((100, 100), person_of((45, 45, 10, 10), nose=(50, 50)))
    ranges = WarpRange(100, (0.4, 1.6), 0.0, 0.0)
    radii = []
    for warp in draws(record, 60, ranges):
        if np.abs(warp.points(np.array([50.0, 50.0])) - 31.5).max() < 15:
            radii.append(np.sqrt((warp.image(disc)[..., 0] > 180).sum() / np.pi) / 10)
    assert len(radii) > 15
    assert min(radii) < 0.6 and max(radii) > 1.3


def test_windows_prefer_people_with_keypoints():
    square = rle_of(np.pad(np.ones((20, 20), np.uint8), ((0, 80), (0, 180))))  # outlined only, far left
    posed = person_of((180, 80, 10, 10), nose=(185, 85))
    ranges = WarpRange(400, (1.0, 1.0), 0.0, 0.0)

    def seen(*persons: Person) -> float:
        centres = [warp.points(np.array([185.0, 85.0])) for warp in draws(record_of((100, 200), *persons), 200, ranges)]
        return float(np.mean([(np.abs(xy - 31.5) < 32).all() for xy in centres]))

    outlined = person_of((0, 0, 20, 20), square)
    assert seen(outlined, posed) == seen(posed) > 0.7
    assert seen(outlined) < 0.1


@pytest.mark.parametrize(("side", "low", "high"), [(200, 0.25, 1.0), (80, 0.625, 1.2), (30, 1.2, 1.2)])
def test_a_picture_is_enlarged_no_further_than_allowed(side, low, high):
    # Scale 0.5 to 2 around 100 px, and 1.2 times its own pixels at most: a small picture is all at that limit.
    ranges = WarpRange(100, (0.5, 2.0), 20.0, 0.5, enlargement=1.2)
    warps = draws(record_of((side // 2, side)), 300, ranges)
    factors = np.sqrt(np.abs([np.linalg.det(warp.matrix[:, :2]) for warp in warps]))
    assert low - 1e-9 <= factors.min() < low * 1.05 and high * 0.95 < factors.max() <= high + 1e-9


def test_rotation_flip_and_place_cover_their_ranges():
    person = person_of((150, 70, 20, 20), nose=(160, 80))
    warps = draws(record_of((100, 200), person), 600)
    flips = np.array([w.flipped for w in warps])
    assert 0.24 < flips.mean() < 0.36
    assert all((np.linalg.det(w.matrix[:, :2]) < 0) == w.flipped for w in warps)
    angles = np.rad2deg([np.arctan2(w.matrix[1, 1], -w.matrix[0, 1]) - np.pi / 2 for w in warps])
    assert -20.01 < angles.min() < -18 and 18 < angles.max() < 20.01
    seen = [w.keypoints(person.keypoints)[1].any() for w in warps]
    assert 0.6 < np.mean(seen) < 1.0  # the person is in most windows, though not in all


def test_window_stays_on_the_picture():
    for warp in draws(record_of((100, 200)), 200, WarpRange(300, (1.0, 1.0), 0.0, 0.5)):
        # At 150 % of its size the picture is larger than the window: no grey but half a pixel at its border.
        assert (warp.image(np.full((100, 200, 3), 7, np.uint8))[1:-1, 1:-1] == 7).all()


def test_plain_warp_is_the_letterbox():
    box = Letterbox.fit((96, 128), (64, 64))
    warp = plain_warp(record_of((96, 128)), (64, 64))
    points = np.array([[0.0, 0.0], [127.0, 95.0], [40.5, 7.25]])
    np.testing.assert_allclose(warp.points(points), box.to_input(points), atol=1e-4)


IDENTITY = Warp(np.eye(2, 3), (64, 64), False)
SQUARE = np.zeros((64, 64), np.uint8)
SQUARE[10:30, 10:30] = 1


def test_crowd_counts_in_no_loss():
    crowd = person_of((10, 10, 20, 20), rle_of(SQUARE), ignore=True)
    truth = ground_truth(record_of((64, 64), crowd), IDENTITY)
    assert len(truth.keypoints_xy) == 0 and not truth.instance.any()
    assert (truth.keypoint_ignore == (SQUARE > 0)).all() and (truth.mask_ignore == (SQUARE > 0)).all()


def test_person_without_keypoints_is_ignored_by_the_heatmap_only():
    truth = ground_truth(record_of((64, 64), person_of((10, 10, 20, 20), rle_of(SQUARE))), IDENTITY)
    assert (truth.keypoint_ignore == (SQUARE > 0)).all() and not truth.mask_ignore.any()
    assert (truth.instance == SQUARE).all() and truth.has_mask.tolist() == [True]


def test_a_keypoint_that_nobody_looked_for_is_no_negative():
    """Of a person whose labels are not all there, what is labelled counts, and nothing else within its mask."""
    whole = person_of((10, 10, 20, 20), rle_of(SQUARE), nose=(15, 15))
    partly = replace(whole, all_keypoints=False)
    for person, ignored in ((whole, np.zeros_like(SQUARE)), (partly, SQUARE)):
        truth = ground_truth(record_of((64, 64), person), IDENTITY)
        assert np.flatnonzero(truth.labelled[0]).tolist() == [KEYPOINT_INDEX["nose"]]
        assert (truth.keypoint_ignore == (ignored > 0)).all() and not truth.mask_ignore.any()


def test_person_without_mask_leaves_its_box_uncertain_but_for_known_people():
    known = person_of((10, 10, 20, 20), rle_of(SQUARE), nose=(15, 15))
    unknown = person_of((20, 20, 30, 20), nose=(40, 30))
    truth = ground_truth(record_of((64, 64), known, unknown), IDENTITY)
    box = np.zeros((64, 64), bool)
    box[20:40, 20:50] = True
    uncertain = truth.mask_ignore
    assert not uncertain[SQUARE > 0].any()
    assert (uncertain == (box & (SQUARE == 0))).all()
    assert not truth.keypoint_ignore.any() and truth.has_mask.tolist() == [True, False]


@pytest.mark.parametrize("box", [(10, 10, 1, 1), (11, 11, 1, 1), (10, 13, 4, 4), (11, 10, 4, 3), (0, 0, 32, 32)])
@pytest.mark.parametrize(("scale", "flipped"), [(1, False), (1, True), (2, False)])
def test_a_box_covers_its_pixels_and_no_others(box, scale, flipped):
    x, y, width, height = box
    pixels = np.zeros((32, 32), bool)
    pixels[y : y + height, x : x + width] = True
    expected = np.kron(pixels[:, ::-1] if flipped else pixels, np.ones((scale, scale), bool))
    warp = warp_of((32, 32), scale, 0, flipped, (32 * scale, 32 * scale))
    truth = ground_truth(record_of((32, 32), person_of(box, ignore=True)), warp)
    np.testing.assert_array_equal(truth.mask_ignore, expected)
    np.testing.assert_array_equal(truth.keypoint_ignore, expected)


@pytest.mark.parametrize("far", [1e4, 1e7])
def test_a_box_far_beyond_the_picture_covers_it(far):
    person = person_of((-far, -far, 2 * far, 2 * far), ignore=True)
    assert ground_truth(record_of((64, 64), person), warp_of((64, 64), 3, 10, False, (64, 64))).mask_ignore.all()


def test_smaller_person_is_in_front():
    small = np.zeros((64, 64), np.uint8)
    small[15:20, 15:20] = 1
    for order in (1, -1):
        people = [person_of(segmentation=rle_of(SQUARE)), person_of(segmentation=rle_of(small))][::order]
        truth = ground_truth(record_of((64, 64), *people), IDENTITY)
        number = 2 if order == 1 else 1
        assert (truth.instance == number).sum() == 25


def test_people_out_of_view_are_left_out_but_a_hand_in_view_counts():
    warp = Warp(np.column_stack([np.eye(2), [-32.0, 0.0]]), (64, 32), False)
    gone = person_of((10, 10, 20, 20), rle_of(SQUARE), nose=(15, 15))
    # Its mask ends left of the window, its wrist lies in it: no negative example there.
    hand = person_of((10, 10, 25, 20), rle_of(SQUARE), nose=(15, 15), left_wrist=(34, 20))
    assert len(ground_truth(record_of((64, 64), gone), warp).keypoints_xy) == 0
    truth = ground_truth(record_of((64, 64), gone, hand), warp)
    assert np.argwhere(truth.labelled).tolist() == [[0, LEFT]]
    assert truth.keypoints_xy[0, LEFT].tolist() == [2, 20]


def test_colour_changes_values_and_moves_nothing():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    assert random_colour(image, 0.0, rng) is image
    outs = [random_colour(image, 0.4, np.random.default_rng(s)) for s in range(40)]
    assert all(o.shape == image.shape and o.dtype == np.uint8 for o in outs)
    means = np.array([o.mean() for o in outs])
    assert means.min() < 0.8 * image.mean() and means.max() > 1.15 * image.mean()
    spot = np.full((40, 50, 3), 60, np.uint8)
    spot[12, 33] = 180
    for seed in range(10):
        out = random_colour(spot, 0.4, np.random.default_rng(seed)).sum(2)
        assert np.unravel_index(out.argmax(), out.shape) == (12, 33)
