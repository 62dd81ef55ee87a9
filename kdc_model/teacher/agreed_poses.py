"""Keypoints for people whom nobody labelled: those on which two networks agree.

A network of ours sees the whole picture, MoveNet SinglePose one person at a time. Where both put a keypoint in the same
place it is right more often than either's, and better placed than ours; where they do not, nobody learns anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_core.skeleton import NUM_KEYPOINTS, OKS_SIGMAS
from kdc_core.types import People
from kdc_model.data.coco import ImageRecord, Person
from kdc_model.data.dataset import read_image
from kdc_model.teacher.movenet_pose import SinglePose

# How our network looks at a picture, mirrored too: finer than at work, and doubting less.
_SEEN_PX, _SEEN_SCORE = 544, 0.05
# A person's area over that of its box, as COCO's people have it on average.
_AREA_OF_BOX = 0.53
# Whose box it is: the boxes' IoU times the share of the person's keypoints (by score) in the box and this margin.
_OWN, _MARGIN, _COUNTED_SCORE = 0.45, 0.1, 0.1


@dataclass(frozen=True)
class AgreementOptions:
    """Which keypoints count: OKS between the two at least `oks`, scores at least `ours` and `other`.

    Fewer than `keypoints` of a person are none. `weight` is the other network's share in the place. `least_side_px`
    is the longer side of the smallest boxes that are looked at.
    """

    oks: float = 0.4
    ours: float = 0.1
    other: float = 0.2
    keypoints: int = 4
    weight: float = 0.67
    least_side_px: float = 40.0


def seeing_pipeline(model: Path) -> Pipeline:
    """Our own network as it looks for poses to agree on. Raises ModelLoadError."""
    options = PipelineOptions(person_threshold=_SEEN_SCORE, mask_only=False)
    return Pipeline.load(model, options=options, long_side=_SEEN_PX, flip=True)


def agreed_keypoints(
    ours: np.ndarray, other: np.ndarray, box_area: float, options: AgreementOptions = AgreementOptions()
) -> np.ndarray:
    """COCO keypoints float64 (K, 3), v 2 or 0, from two opinions (K, 3), x, y, score, on a person of that box."""
    square = ((ours[:, :2] - other[:, :2]).astype(np.float64) ** 2).sum(1)
    variance = (2.0 * OKS_SIGMAS.astype(np.float64)) ** 2
    oks = np.exp(-square / (2 * variance * max(_AREA_OF_BOX * box_area, 1.0)))
    agreed = (oks > options.oks) & (ours[:, 2] > options.ours) & (other[:, 2] > options.other)
    out = np.zeros((NUM_KEYPOINTS, 3))
    if agreed.sum() >= options.keypoints:
        out[agreed, :2] = ((1 - options.weight) * ours[:, :2] + options.weight * other[:, :2])[agreed]
        out[agreed, 2] = 2
    return out


def owners(people: People, boxes_xywh: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of a person found and the box, float (B, 4), that is theirs; each of them in one pair at most."""
    if not len(people) or not len(boxes_xywh):
        return []
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    found_low, found_high = people.boxes_xyxy[:, None, :2], people.boxes_xyxy[:, None, 2:]
    overlap = (np.minimum(found_high, high) - np.maximum(found_low, low)).clip(0).prod(-1)
    area = (people.boxes_xyxy[:, 2:] - people.boxes_xyxy[:, :2]).prod(-1)
    iou = overlap / np.maximum(area[:, None] + boxes_xywh[:, 2:].prod(-1) - overlap, 1e-6)
    margin = _MARGIN * boxes_xywh[:, 2:]
    points = people.keypoints_xy[:, None]
    inside = ((points > (low - margin)[:, None]) & (points < (high + margin)[:, None])).all(-1)  # (people, boxes, K)
    weight = np.where(people.keypoint_scores > _COUNTED_SCORE, people.keypoint_scores, 0)[:, None]
    merit = iou * (inside * weight).sum(-1) / np.maximum(weight.sum(-1), 1e-6)
    pairs = []
    while merit.max() > _OWN:
        person, box = (int(n) for n in np.unravel_index(merit.argmax(), merit.shape))
        pairs.append((person, box))
        merit[person], merit[:, box] = 0, 0
    return pairs


def agreed_poses(
    record: ImageRecord, seeing: Pipeline, second: SinglePose, options: AgreementOptions = AgreementOptions()
) -> dict[int, np.ndarray]:
    """COCO keypoints (K, 3) by annotation id, for the people of a picture who have a box and no keypoints."""
    wanted = [p for p in record.persons if _wanted(p, options)]
    if not wanted:
        return {}
    image = read_image(record)
    boxes = np.array([p.box_xywh for p in wanted], np.float64)
    people = seeing(image).people
    pairs = owners(people, boxes)
    second_opinions = second.poses(image, [boxes[box].tolist() for _, box in pairs])
    out = {}
    for (person, box), other in zip(pairs, second_opinions):
        ours = np.column_stack([people.keypoints_xy[person], people.keypoint_scores[person]])
        keypoints = agreed_keypoints(ours, other, float(boxes[box, 2:].prod()), options)
        high = np.array([record.width, record.height]) - 1
        if keypoints.any() and (number := wanted[box].annotation_id) is not None:
            keypoints[((keypoints[:, :2] < 0) | (keypoints[:, :2] > high)).any(1)] = 0
            out[number] = keypoints
    return out


def _wanted(person: Person, options: AgreementOptions) -> bool:
    return (
        not person.crowd
        and not person.has_keypoints
        and person.annotation_id is not None
        and max(person.box_xywh[2:]) >= options.least_side_px
    )
