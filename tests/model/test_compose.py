"""Pasted people, mosaics and blur: pixels, keypoints, instances and ignore regions stay together."""

import dataclasses

import numpy as np
import pytest

from kdc_core.encode import GroundTruth
from kdc_core.skeleton import KEYPOINT_INDEX
from kdc_model.data.augment import WarpRange
from kdc_model.data.coco import load_records
from kdc_model.data.compose import mosaic, mosaic_tiles, motion_kernel, paste_person, pasteable, random_blur
from kdc_model.data.dataset import Mixing, PeopleDataset

NOSE, WRIST, KNEE = (KEYPOINT_INDEX[name] for name in ("nose", "left_wrist", "left_knee"))


def truth_of(hw, *people, ignore=None) -> GroundTruth:
    """people: (rows, columns, {joint: (x, y)}); rows and columns may be None for a person without a mask."""
    instance = np.zeros(hw, np.uint16)
    xy, labelled, has_mask = np.zeros((len(people), 17, 2), np.float32), np.zeros((len(people), 17), bool), []
    for n, (rows, columns, joints) in enumerate(people):
        if rows is not None:
            instance[rows, columns] = n + 1
        has_mask.append(rows is not None)
        for k, place in joints.items():
            xy[n, k], labelled[n, k] = place, True
    region = np.zeros(hw, bool) if ignore is None else ignore
    return GroundTruth(xy, labelled, instance, np.array(has_mask, bool), region, region.copy())


def test_a_pasted_person_brings_its_pixels_and_points_and_hides_what_is_behind():
    ignore = np.zeros((40, 60), bool)
    ignore[:20] = True
    behind = truth_of((40, 60), (np.s_[10:30], np.s_[5:25], {NOSE: (8, 12), WRIST: (22, 27)}), ignore=ignore)
    donor = truth_of(
        (40, 60),
        (np.s_[0:5], np.s_[0:5], {NOSE: (2, 2)}),
        (np.s_[15:40], np.s_[15:40], {NOSE: (30, 18), WRIST: (35, 30), KNEE: (50, 5)}),
    )
    image, other = np.full((40, 60, 3), 50, np.uint8), np.full((40, 60, 3), 200, np.uint8)
    mixed, truth = paste_person(image, behind, other, donor, 1)
    assert (mixed[18:37, 18:37] == 200).all() and (mixed[:12, :12] == 50).all() and (mixed[:, 45:] == 50).all()
    assert (truth.instance[15:40, 15:40] == 2).all()
    assert (truth.instance[10:15, 5:25] == 1).all() and (truth.instance[:5, :5] == 0).all()
    assert np.argwhere(truth.labelled).tolist() == [[0, NOSE], [1, NOSE], [1, WRIST]]
    # (one wrist is covered now, and the knee was hidden in the donor)
    np.testing.assert_array_equal(truth.keypoints_xy[1], donor.keypoints_xy[1])
    assert truth.keypoint_ignore[:15].all() and not truth.keypoint_ignore[15:20, 15:40].any()
    assert behind.labelled[0, WRIST] and (behind.instance[15:30, 15:25] == 1).all()  # the input is untouched


def test_what_is_not_known_of_a_pasted_person_comes_along():
    unknown = np.zeros((40, 60), bool)
    unknown[20:, 20:50] = True
    donor = truth_of((40, 60), (np.s_[15:40], np.s_[15:40], {NOSE: (30, 18)}), ignore=unknown)
    blank = np.zeros((40, 60, 3), np.uint8)
    _, truth = paste_person(blank, truth_of((40, 60)), blank, donor, 0)
    expected = np.zeros((40, 60), bool)
    expected[20:, 20:40] = True  # of the donor's uncertain region, the part that was cut out
    np.testing.assert_array_equal(truth.keypoint_ignore, expected)
    assert not truth.mask_ignore.any()  # its outline is known


def test_a_person_wholly_covered_is_gone():
    behind = truth_of((40, 60), (np.s_[16:30], np.s_[16:30], {NOSE: (2, 2)}))  # a point beyond its mask
    donor = truth_of((40, 60), (np.s_[15:40], np.s_[15:40], {NOSE: (30, 18)}))
    blank = np.zeros((40, 60, 3), np.uint8)
    _, truth = paste_person(blank, behind, blank, donor, 0)
    assert sorted(np.unique(truth.instance)) == [0, 2] and not truth.labelled[0].any()


def test_what_is_left_of_somebody_who_is_gone_counts_in_no_loss():
    behind = truth_of((40, 60), (np.s_[16:30], np.s_[14:30], {NOSE: (20, 20)}), (np.s_[0:9], np.s_[0:9], {}))
    donor = truth_of((40, 60), (np.s_[15:40], np.s_[15:40], {NOSE: (30, 18)}))
    blank = np.zeros((40, 60, 3), np.uint8)
    _, truth = paste_person(blank, behind, blank, donor, 0)
    left = np.zeros((40, 60), bool)
    left[16:30, 14] = True  # of 16 columns
    assert not truth.instance[left].any() and (truth.instance[:9, :9] == 2).all()
    np.testing.assert_array_equal(truth.mask_ignore, left)
    np.testing.assert_array_equal(truth.keypoint_ignore, left)


def test_pasting_refuses_what_cannot_be_cut_out():
    blank = np.zeros((40, 60, 3), np.uint8)
    person = truth_of((40, 60), (None, None, {NOSE: (2, 2)}))
    with pytest.raises(ValueError, match="no mask"):
        paste_person(blank, person, blank, person, 0)
    with pytest.raises(ValueError, match="different sizes"):
        paste_person(blank, person, blank[:20], person, 0)


def test_who_can_be_pasted():
    three = {0: (1, 1), 1: (2, 2), 2: (3, 3)}
    truth = truth_of(
        (40, 60),
        (np.s_[0:10], np.s_[0:10], three),
        (np.s_[20:30], np.s_[0:10], {NOSE: (3, 25)}),
        (np.s_[30:33], np.s_[30:33], three),
        (None, None, three),
    )
    assert pasteable(truth).tolist() == [0]


def test_a_mosaic_moves_a_pixel_and_its_keypoint_together():
    rng = np.random.default_rng(5)
    tiles = mosaic_tiles((64, 96), rng)
    assert sum(w * h for _, _, w, h in tiles) == 64 * 96
    parts = []
    for number, (_, _, width, height) in enumerate(tiles):
        image = np.zeros((height, width, 3), np.uint8)
        image[3 + number, 7] = 255
        parts.append((image, truth_of((height, width), (np.s_[3 + number], np.s_[7], {NOSE: (7, 3 + number)}))))
    image, truth = mosaic(parts, tiles, (64, 96))
    rows, columns = np.nonzero(image[..., 0])
    assert len(rows) == 4
    for n in range(4):
        x, y = truth.keypoints_xy[n, NOSE].astype(int)
        assert image[y, x, 0] == 255 and truth.instance[y, x] == n + 1
    with pytest.raises(ValueError, match="does not fill"):
        mosaic(parts[::-1], tiles, (64, 96))


def test_blur_keeps_a_pixel_where_it_is():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    for seed in range(20):
        blurred = random_blur(image, 6.0, np.random.default_rng(seed)).astype(float).sum(2)
        ys, xs = np.mgrid[:41, :41]
        centre = [(blurred * xs).sum() / blurred.sum(), (blurred * ys).sum() / blurred.sum()]
        np.testing.assert_allclose(centre, 20, atol=0.15)
    kernel = motion_kernel(8.0, 0.0)
    assert kernel.sum() == pytest.approx(1) and np.count_nonzero(kernel.sum(1) > 1e-6) == 1


def test_chances_of_zero_leave_the_samples_as_they_were_and_one_mixes_them(made_folder):
    records = load_records(made_folder / "annotations.json", made_folder / "images")
    ranges = WarpRange(96, (0.8, 1.2), 10.0, 0.5)

    def sample(mixing, index):
        return PeopleDataset(records, 64, 4, 8.0, ranges, 0.2, 3, mixing)[index]

    plain = [sample(None, i) for i in range(len(records))]
    for mixing in (Mixing(copy_paste=1.0), Mixing(mosaic=1.0), Mixing(blur=1.0)):
        mixed = [sample(mixing, i) for i in range(len(records))]
        again = [sample(mixing, i) for i in range(len(records))]
        assert any(not np.array_equal(a[0], b[0]) for a, b in zip(plain, mixed))
        for (image, targets), (image_again, targets_again) in zip(mixed, again):
            np.testing.assert_array_equal(image, image_again)
            for field in dataclasses.fields(targets):
                np.testing.assert_array_equal(getattr(targets, field.name), getattr(targets_again, field.name))
    off = [sample(Mixing(0.0, 0.0, 0.0), i) for i in range(len(records))]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(plain, off))
