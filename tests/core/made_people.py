"""Hand-made ground truth for decoder tests: upright figures with known joints and masks."""

from __future__ import annotations

import cv2
import numpy as np

from kdc_core.encode import GroundTruth

# A standing person in units of its height: x to the right of the body's axis, y from the top of the head.
STANDING = np.array(
    [
        (0.0, 0.09), (0.03, 0.07), (-0.03, 0.07), (0.06, 0.08), (-0.06, 0.08),
        (0.12, 0.20), (-0.12, 0.20), (0.17, 0.35), (-0.17, 0.35), (0.19, 0.49), (-0.19, 0.49),
        (0.08, 0.52), (-0.08, 0.52), (0.09, 0.74), (-0.09, 0.74), (0.10, 0.95), (-0.10, 0.95),
    ],
    np.float32,
)  # fmt: skip
OUTLINE = np.array(
    [(-0.07, 0.0), (0.07, 0.0), (0.22, 0.2), (0.24, 0.52), (0.15, 1.0), (-0.15, 1.0), (-0.24, 0.52), (-0.22, 0.2)]
)


def made_truth(placements: list[tuple[float, float, float]], input_hw: tuple[int, int]) -> GroundTruth:
    """Standing people at (x of the axis, y of the head's top, height) in network pixels; later ones are in front."""
    height, width = input_hw
    instance = np.zeros(input_hw, np.uint16)
    joints = np.zeros((len(placements), 17, 2), np.float32)
    labelled = np.zeros((len(placements), 17), bool)
    for n, (x, y, size) in enumerate(placements):
        joints[n] = STANDING * size + (x, y)
        labelled[n] = ((joints[n] >= 0) & (joints[n] < (width, height))).all(1)
        body = np.zeros(input_hw, np.uint8)
        cv2.fillPoly(body, [np.round(OUTLINE * size + (x, y)).astype(np.int32)], 1)
        instance[body > 0] = n + 1
    nowhere = np.zeros(input_hw, bool)
    return GroundTruth(joints, labelled, instance, np.ones(len(placements), bool), nowhere, nowhere)
