"""Drawing: what must and what must not change in the image."""

import numpy as np
import pytest

from kdc_core.draw import colour_of, draw_people
from kdc_core.skeleton import KEYPOINT_INDEX
from kdc_core.types import People


def one_person(image_hw: tuple[int, int], scale: float = 1.0, masks: bool = True) -> People:
    """A standing person in the left half of the image, `scale` of its height tall."""
    height, width = image_hw
    keypoints = np.zeros((1, 17, 2), np.float32)
    heights = [
        0.1,
        0.08,
        0.08,
        0.09,
        0.09,
        0.25,
        0.25,
        0.4,
        0.4,
        0.5,
        0.5,
        0.55,
        0.55,
        0.75,
        0.75,
        0.95,
        0.95,
    ]
    keypoints[0, :, 1] = np.array(heights) * scale * (height - 1)
    sides = np.array([0] + [1, -1] * 8)
    keypoints[0, :, 0] = width * (0.25 + 0.08 * sides)
    labels = np.zeros(image_hw, np.uint16)
    labels[: round(scale * height), round(0.15 * width) : round(0.35 * width)] = 1
    box = [[0.15 * width, 0, 0.35 * width, scale * (height - 1)]]
    return People(
        keypoints,
        np.full((1, 17), 0.9, np.float32),
        np.array([0.8], np.float32),
        np.array(box, np.float32),
        labels if masks else None,
    )


def test_colours_are_stable_bright_and_apart() -> None:
    colours = np.array([colour_of(i) for i in range(200)])
    assert colours.min() >= 0 and colours.max() <= 255
    assert colour_of(3) == colour_of(3)
    luminance = colours @ (0.2126, 0.7152, 0.0722)
    assert luminance.min() > 110
    for i in range(len(colours) - 4):
        distances = np.linalg.norm(colours[i + 1 : i + 5] - colours[i], axis=1)
        assert distances.min() > 60, f"ids {i} and {i + 1 + distances.argmin()} look alike"


@pytest.mark.parametrize("image_hw", [(150, 200), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("masks", [True, False])
def test_draws_on_the_person_only_and_on_a_copy(image_hw: tuple[int, int], masks: bool) -> None:
    image = np.full((*image_hw, 3), 90, np.uint8)
    before = image.copy()
    out = draw_people(image, one_person(image_hw, masks=masks))
    np.testing.assert_array_equal(image, before)
    assert out.dtype == np.uint8 and out.shape == image.shape
    changed = (out != image).any(2)
    assert changed[:, : image_hw[1] // 3].any()
    assert not changed[:, image_hw[1] // 2 :].any()


def test_nobody_changes_nothing() -> None:
    image = np.full((40, 50, 3), 90, np.uint8)
    np.testing.assert_array_equal(draw_people(image, People.empty((40, 50))), image)
    np.testing.assert_array_equal(draw_people(image, People.empty()), image)


def test_low_joints_are_left_out() -> None:
    people = one_person((480, 640), masks=False)
    wrist = KEYPOINT_INDEX["left_wrist"]
    people.keypoint_scores[0, wrist] = 0.19
    people.keypoints_xy[0, wrist] = 550, 240  # far from everything else
    image = np.full((480, 640, 3), 90, np.uint8)
    assert not (draw_people(image, people) != image)[:, 400:].any()
    assert (draw_people(image, people, keypoint_threshold=0.1) != image)[:, 400:].any()
    people.keypoint_scores[0, wrist] = 0.0  # not found: never drawn, whatever the threshold
    assert not (draw_people(image, people, keypoint_threshold=0.0) != image)[:, 400:].any()


def test_sides_differ() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    people = one_person((480, 640), masks=False)
    out = draw_people(image, people)
    left, right = (
        tuple(out[round(float(y)), round(float(x))])
        for x, y in (people.keypoints_xy[0, KEYPOINT_INDEX[f"{side}_ankle"]] for side in ("left", "right"))
    )
    assert left != right


def test_same_id_same_colour_wherever_the_person_is_listed() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    one = one_person((480, 640))
    two = People(
        *(
            np.concatenate([getattr(one, n)] * 2)
            for n in ("keypoints_xy", "keypoint_scores", "scores", "boxes_xyxy")
        ),
        mask_labels=one.mask_labels * 2,  # the mask is the second person's now
    )
    y, x = 310, 110  # inside the mask, off the limbs
    tint = tuple(draw_people(image, one, np.array([7]))[y, x].tolist())
    assert tint == tuple(draw_people(image, two, np.array([3, 7]))[y, x].tolist())
    assert tint != tuple(draw_people(image, one, np.array([8]))[y, x].tolist())
    assert tint != (0, 0, 0)


def test_wild_coordinates_and_borders_do_not_fail() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    people = one_person((60, 80))
    people.keypoints_xy[0, 3] = 1e9, -1e9
    people.keypoints_xy[0, 4] = np.nan
    people.boxes_xyxy[0] = -50, -50, 200, 200
    assert draw_people(image, people).shape == image.shape
    for hw in ((1, 1), (3, 500), (500, 3)):
        assert draw_people(np.zeros((*hw, 3), np.uint8), one_person(hw)).shape == (*hw, 3)


def test_wrong_arguments() -> None:
    people = one_person((60, 80))
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_people(np.zeros((60, 80), np.uint8), people)
    with pytest.raises(ValueError, match="do not fit"):
        draw_people(np.zeros((61, 80, 3), np.uint8), people)
    with pytest.raises(ValueError, match="track ids"):
        draw_people(np.zeros((60, 80, 3), np.uint8), people, np.array([1, 2]))
