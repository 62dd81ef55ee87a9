"""Made depth images of people: every distance is known."""

from __future__ import annotations

import cv2
import numpy as np

from kdc_core.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS
from kdc_core.types import People

IMAGE_HW = (480, 640)
WALL_M = 4.0
TRUNK_M = 2.5
ARM_M = 2.2  # stretched out towards the camera

# A person in the middle of the picture: (x, y) of the joints, in pixels. The right arm hangs before the trunk.
JOINTS = {
    "nose": (320, 100),
    "left_shoulder": (350, 150),
    "right_shoulder": (290, 150),
    "left_elbow": (400, 160),
    "left_wrist": (450, 165),
    "right_elbow": (300, 200),
    "right_wrist": (315, 230),
    "left_hip": (340, 270),
    "right_hip": (300, 270),
    "left_knee": (342, 350),
    "left_ankle": (344, 430),
}
LEFT_ARM = ("left_elbow", "left_wrist")
RIGHT_HAND = ("right_wrist",)


def one_person(arm_px: int = 7, mask_growth_px: int = 0) -> tuple[People, np.ndarray]:
    """Somebody before a wall, and the depth image: float32 (480, 640) in metres.

    arm_px: how thick the outstretched left arm is. mask_growth_px: by how much the mask spills onto the wall.
    """
    depth = np.full(IMAGE_HW, WALL_M, np.float32)
    body = np.zeros(IMAGE_HW, np.uint8)
    cv2.rectangle(body, (285, 140), (355, 290), 1, -1)  # trunk
    cv2.circle(body, (320, 100), 28, 1, -1)
    cv2.rectangle(body, (328, 280), (356, 445), 1, -1)  # left leg
    depth[body > 0] = TRUNK_M
    arm = np.zeros(IMAGE_HW, np.uint8)
    cv2.line(arm, (360, 152), (455, 165), 1, arm_px)
    depth[arm > 0] = ARM_M
    hand = np.zeros(IMAGE_HW, np.uint8)
    cv2.circle(hand, (315, 230), 6, 1, -1)
    depth[hand > 0] = ARM_M
    labels = body | arm | hand
    if mask_growth_px:
        labels = cv2.dilate(labels, np.ones((2 * mask_growth_px + 1,) * 2, np.uint8))
    return people_of([JOINTS], labels.astype(np.uint16)), depth


def people_of(joints: list[dict[str, tuple[float, float]]], labels: np.ndarray | None) -> People:
    """People from their joints' places and a label map."""
    xy = np.zeros((len(joints), NUM_KEYPOINTS, 2), np.float32)
    scores = np.zeros((len(joints), NUM_KEYPOINTS), np.float32)
    for i, places in enumerate(joints):
        for name, place in places.items():
            xy[i, KEYPOINT_INDEX[name]] = place
            scores[i, KEYPOINT_INDEX[name]] = 0.8
    found = scores > 0
    boxes = np.array(
        [[*xy[i][found[i]].min(0), *xy[i][found[i]].max(0)] for i in range(len(joints))], np.float32
    ).reshape(-1, 4)
    return People(xy, scores, np.ones(len(joints), np.float32), boxes, labels)
