"""Small hand-made people for the tracker's unit tests."""

from __future__ import annotations

import numpy as np

from kdc_core.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS
from kdc_core.types import People

# Someone who faces the camera, 100 px tall, about the middle of the body: (x, y) of one side, mirrored for the other.
_SHAPE = {"nose": (0, -40), "eye": (3, -43), "ear": (6, -41), "shoulder": (14, -30), "elbow": (18, -12),
          "wrist": (19, 5), "hip": (8, 3), "knee": (9, 25), "ankle": (9, 46)}  # fmt: skip
TEMPLATE = np.zeros((NUM_KEYPOINTS, 2))
for _name, _k in KEYPOINT_INDEX.items():
    _x, _y = _SHAPE[_name.split("_")[-1]]
    TEMPLATE[_k] = (-_x if _name.startswith("right") else _x, _y)
HALF_WH = np.array([22.0, 50.0])


def people(*persons: dict) -> People:
    """People from keyword sets: x, y (px, the middle), height (100), score (0.9), hidden (joints without a score),
    mirrored (turned round)."""
    if not persons:
        return People.empty()
    xy, joint_scores, scores, boxes = [], [], [], []
    for person in persons:
        scale = person.get("height", 100) / 100
        shape = TEMPLATE * (-1, 1) if person.get("mirrored") else TEMPLATE
        middle = np.array([person["x"], person["y"]], float)
        visible = np.ones(NUM_KEYPOINTS)
        visible[list(person.get("hidden", ()))] = 0
        xy.append(middle + shape * scale)
        joint_scores.append(0.9 * visible)
        scores.append(person.get("score", 0.9))
        boxes.append([*(middle - HALF_WH * scale), *(middle + HALF_WH * scale)])
    return People(*(np.array(a, np.float32) for a in (xy, joint_scores, scores, boxes)))
