"""One person of kdc as REP-155's messages (hri_msgs): region, 18-point skeleton, cropped picture."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from kdc.msg import Keypoint, PersonPose
from std_msgs.msg import Header

# REP-155's order, OpenPose's 18 points; the neck (None) is made of the shoulders.
SKELETON_ORDER: tuple[int | None, ...] = (
    Keypoint.NOSE,
    None,
    Keypoint.RIGHT_SHOULDER,
    Keypoint.RIGHT_ELBOW,
    Keypoint.RIGHT_WRIST,
    Keypoint.LEFT_SHOULDER,
    Keypoint.LEFT_ELBOW,
    Keypoint.LEFT_WRIST,
    Keypoint.RIGHT_HIP,
    Keypoint.RIGHT_KNEE,
    Keypoint.RIGHT_ANKLE,
    Keypoint.LEFT_HIP,
    Keypoint.LEFT_KNEE,
    Keypoint.LEFT_ANKLE,
    Keypoint.LEFT_EYE,
    Keypoint.RIGHT_EYE,
    Keypoint.LEFT_EAR,
    Keypoint.RIGHT_EAR,
)


def skeleton_points(person: PersonPose, image_hw: tuple[int, int]) -> np.ndarray:
    """The 18 points, float64 (18, 3): x and y as parts of the image's width and height (0..1), confidence.

    hri_msgs wants every coordinate within 0..1. So a point that was not found, or lies outside the image, is (0, 0)
    with confidence 0. The neck is the middle of the shoulders with the lower of their confidences.
    """
    found = np.array([(k.x, k.y, k.score) for k in person.keypoints])
    shoulders = found[[Keypoint.RIGHT_SHOULDER, Keypoint.LEFT_SHOULDER]]
    neck = np.array([*shoulders[:, :2].mean(axis=0), shoulders[:, 2].min()])
    points = np.array([neck if k is None else found[k] for k in SKELETON_ORDER])
    height, width = image_hw
    points[:, :2] = (points[:, :2] + 0.5) / (width, height)
    with np.errstate(invalid="ignore"):
        usable = (points[:, 2] > 0) & ((points[:, :2] >= 0) & (points[:, :2] <= 1)).all(axis=1)
    points[~usable] = 0
    return points


def skeleton_to_message(person: PersonPose, header: Header, image_hw: tuple[int, int], messages: ModuleType) -> Any:
    """hri_msgs/Skeleton2D of a person. messages: `hri_msgs.msg`."""
    points = skeleton_points(person, image_hw).tolist()
    skeleton = [messages.NormalizedPointOfInterest2D(x=x, y=y, c=c) for x, y, c in points]
    return messages.Skeleton2D(header=header, skeleton=skeleton)


def region_to_message(person: PersonPose, header: Header, image_hw: tuple[int, int], messages: ModuleType) -> Any:
    """hri_msgs/NormalizedRegionOfInterest2D of a person: the part of the box that lies in the image."""
    left, top, right, bottom = _box_in_image(person, image_hw).tolist()
    height, width = image_hw
    return messages.NormalizedRegionOfInterest2D(
        header=header, xmin=left / width, ymin=top / height, xmax=right / width, ymax=bottom / height, c=person.score
    )


def crop(image: np.ndarray, person: PersonPose) -> np.ndarray:
    """The person's box cut out of the image, uint8 (h, w, 3): every pixel that it touches; maybe without any pixel."""
    left, top, right, bottom = _box_in_image(person, (image.shape[0], image.shape[1]))
    return image[int(np.floor(top)) : int(np.ceil(bottom)), int(np.floor(left)) : int(np.ceil(right))]


def _box_in_image(person: PersonPose, image_hw: tuple[int, int]) -> np.ndarray:
    """Left, top, right and bottom of the box within the image, counted from the image's corner, float64 (4,)."""
    box = np.array([person.x_min, person.y_min, person.x_max, person.y_max], np.float64) + 0.5
    height, width = image_hw
    return np.clip(np.nan_to_num(box), 0, [width, height, width, height])
