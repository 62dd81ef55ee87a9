"""Whose rules a score follows: COCO's, OCHuman's, CrowdPose's (SPEC section 8).

COCO:      17 keypoints, OKS .50:.05:.95, 20 detections an image; person masks with 100.
OCHuman:   COCO's tools on OCHuman's files (val or test). A person's area is its box's; people who are in a picture
           but not annotated count as false positives. Of the three protocols in use this is the one for models
           trained on COCO, given nothing but the picture.
CrowdPose: 14 keypoints (no face; top of the head and neck instead) with their own sigmas, area 0.53 w h; besides all
           images, those with a crowd index below 0.1 (easy), from 0.1 to 0.8 (medium) and above 0.8 (hard), each as
           an image subset of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdc_core.coco_scores import complete_annotation
from kdc_core.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, OKS_SIGMAS, PERSON_AREA_SHARE

CROWDPOSE_NAMES = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
    "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
)  # fmt: skip
CROWDPOSE_SIGMAS = np.array([79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89, 79, 79], np.float32) / 1000.0

_SHOULDERS = [KEYPOINT_INDEX["left_shoulder"], KEYPOINT_INDEX["right_shoulder"]]
_FACE = [KEYPOINT_INDEX[name] for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")]
# The crown lies about this much further from the neck than the middle of the face (mean of adults' proportions:
# neck to eye line 0.6 of neck to crown).
_CROWN = 1.65


@dataclass(frozen=True)
class Protocol:
    """One data set's rules.

    names, sigmas: its keypoints and their OKS sigmas.
    annotation:    a raw annotation -> what COCO's tools expect, by this data set's rules.
    keypoints:     the 17 found keypoints, (17, 3) x, y, score -> this data set's, (K', 3).
    subsets:       names and tests of an image record: image subsets that are scored besides all images.
    masks:         whether person masks are scored.
    """

    name: str
    names: tuple[str, ...]
    sigmas: np.ndarray
    annotation: Callable[[dict[str, Any]], dict[str, Any]]
    keypoints: Callable[[np.ndarray], np.ndarray]
    subsets: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = ()
    masks: bool = True


def crowdpose_keypoints(points: np.ndarray) -> np.ndarray:
    """17 keypoints (17, 3) -> CrowdPose's 14: the neck midway between the shoulders, the top of the head beyond the
    face; both with the lower score of what they are made from, and not found (score 0) without it."""
    out = np.zeros((len(CROWDPOSE_NAMES), 3), points.dtype)
    for i, name in enumerate(CROWDPOSE_NAMES):
        if name in KEYPOINT_INDEX:
            out[i] = points[KEYPOINT_INDEX[name]]
    neck = points[_SHOULDERS].mean(0)
    neck[2] = points[_SHOULDERS, 2].min()
    face = points[_FACE]
    weight = face[:, 2] / max(float(face[:, 2].sum()), 1e-9)
    middle = weight @ face[:, :2] if face[:, 2].any() else face[:, :2].mean(0)
    out[-1] = neck
    out[-2, :2] = neck[:2] + _CROWN * (middle - neck[:2])
    out[-2, 2] = min(neck[2], face[:, 2].max())
    return out


def _ochuman_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    return complete_annotation({**annotation, "area": width * height})


def _crowdpose_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    return complete_annotation({**annotation, "area": PERSON_AREA_SHARE * width * height}, len(CROWDPOSE_NAMES))


def _crowding(low: float, high: float) -> Callable[[dict[str, Any]], bool]:
    return lambda image: low <= float(image.get("crowdIndex", -1.0)) <= high


PROTOCOLS = {
    "coco": Protocol("coco", KEYPOINT_NAMES, OKS_SIGMAS, complete_annotation, lambda points: points),
    "ochuman": Protocol("ochuman", KEYPOINT_NAMES, OKS_SIGMAS, _ochuman_annotation, lambda points: points),
    "crowdpose": Protocol(
        "crowdpose",
        CROWDPOSE_NAMES,
        CROWDPOSE_SIGMAS,
        _crowdpose_annotation,
        crowdpose_keypoints,
        (
            ("easy", _crowding(0.0, np.nextafter(0.1, 0))),
            ("medium", _crowding(0.1, 0.8)),
            ("hard", _crowding(np.nextafter(0.8, 1), 1.0)),
        ),
        masks=False,
    ),
}
