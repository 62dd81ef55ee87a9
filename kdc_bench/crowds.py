"""Made crowds: what the network would return for N people, with the clutter that a real network adds.

The people are the articulated figures of `kdc_model.data.figures`, standing in rows and partly before each other, so
that every one of them has a mask of a person's shape and is found. Their fields are the ideal ones (`encode`), and the
candidates come out of the same code as in the exported graph. The same seed makes the same crowd.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.backends.base import NetworkOutputs
from kdc_core.decode.candidates import Candidates, find_candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.encode import GroundTruth, encode, ideal_fields
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_model.data.figures import Body

STRIDE, RADIUS_PX = 4, 12.0
# Scores of what a network adds where nobody is. Harder than the shipped one on photographs: there four in five of all
# candidates lie below 0.02, here somewhat more than half of the clutter does.
_CLUTTER_MEAN_SCORE = 0.025
_FILL = 0.62  # height of a figure over the height of its place
_TRIES = 30


@dataclass(frozen=True, eq=False)
class Crowd:
    """A made network answer. people: how many are in it; network_hw: size of the network's input in pixels."""

    people: int
    network_hw: tuple[int, int]
    outputs: NetworkOutputs


def make_crowd(
    people: int, network_hw: tuple[int, int], candidates: int = 32, clutter: bool = True, seed: int = 0
) -> Crowd:
    """N people in a network input of this size (multiples of the stride), each with its keypoints and mask.

    `candidates` of each keypoint type, more where there are more people. With `clutter` the places that the people
    leave free hold weak candidates all over the picture, as a network's top-k always does; without they have score 0.
    """
    outputs = outputs_of(made_truth(people, network_hw, seed), candidates, clutter, seed)
    return Crowd(people, network_hw, outputs)


def outputs_of(truth: GroundTruth, candidates: int = 32, clutter: bool = True, seed: int = 0) -> NetworkOutputs:
    """What a network without error, but for the clutter, would return for these people."""
    people = len(truth.keypoints_xy)
    fields = ideal_fields(encode(truth, STRIDE, RADIUS_PX), STRIDE)
    found = find_candidates(fields, RADIUS_PX, max(candidates, people + people // 4))
    if clutter:
        found = _cluttered(np.random.default_rng(seed), found, truth.instance.shape)
    return NetworkOutputs(found, MaskFields(fields.person, fields.embedding, fields.sigma, STRIDE))


def made_truth(people: int, network_hw: tuple[int, int], seed: int = 0) -> GroundTruth:
    """Figures in rows, the lower ones in front: keypoints and masks of N people."""
    rng = np.random.default_rng(seed)
    height, width = network_hw
    instance = np.zeros(network_hw, np.uint16)
    keypoints = np.zeros((people, NUM_KEYPOINTS, 2), np.float32)
    labelled = np.zeros((people, NUM_KEYPOINTS), bool)
    for n, (centre, size) in enumerate(_places(people, network_hw)):
        body = _standing_body(rng, size)
        outline = np.concatenate([shape for _, shape in body.shapes])
        shift = centre - (outline.min(0) + outline.max(0)) / 2 + rng.uniform(-0.03, 0.03, 2) * size
        for _, shape in body.shapes:
            cv2.fillPoly(instance, [np.round(shape + shift).astype(np.int32)], n + 1)
        keypoints[n] = body.keypoints[:, :2] + shift
        inside = ((keypoints[n] >= 0) & (keypoints[n] < (width, height))).all(1)
        labelled[n] = inside & (body.keypoints[:, 2] > 0)
    nowhere = np.zeros(network_hw, bool)
    return GroundTruth(keypoints, labelled, instance, np.ones(people, bool), nowhere, nowhere)


def _places(people: int, network_hw: tuple[int, int]) -> list[tuple[np.ndarray, float]]:
    """Centre (x, y) and a body's height for each of so many people, row by row."""
    height, width = network_hw
    if people == 0:
        return []
    rows = max(1, round(float(np.sqrt(people * height / width / 2.2))))
    columns = -(-people // rows)
    size = min(_FILL * height / rows, 1.6 * width / columns)
    places = []
    for n in range(people):
        row, column = divmod(n, columns)
        in_row = min(columns, people - row * columns)
        centre = np.array([(column + 0.5 + 0.25 * (row % 2)) * width / (in_row + 0.25), (row + 0.5) * height / rows])
        places.append((centre, size))
    return places


def _standing_body(rng: np.random.Generator, size: float) -> Body:
    """A random body that stands upright and shows most of its joints."""
    for _ in range(_TRIES):
        body = Body(rng, size)
        outline = np.concatenate([shape for _, shape in body.shapes])
        wide, tall = outline.max(0) - outline.min(0)
        if tall > 1.6 * wide and (body.keypoints[:, 2] > 0).sum() >= 14:
            return body
    return body


def _cluttered(rng: np.random.Generator, found: Candidates, network_hw: tuple[int, ...]) -> Candidates:
    """The unused places filled with weak candidates, their joints strewn around them."""
    people = found.people.copy()
    limit = np.array([network_hw[1], network_hw[0]], np.float32)
    for k in range(NUM_KEYPOINTS):
        free = np.flatnonzero(people[k, :, k, 2] <= 0)
        places = rng.uniform(0, limit, (len(free), 1, 2))
        joints = places + rng.normal(0.0, 0.1 * float(limit.min()), (len(free), NUM_KEYPOINTS, 2))
        joints[:, k] = places[:, 0]
        scores = rng.exponential(_CLUTTER_MEAN_SCORE, (len(free), NUM_KEYPOINTS)).clip(1e-3, 0.9)
        scores[:, k] = np.sort(scores[:, k])[::-1]
        people[k, free] = np.concatenate([joints, scores[..., None]], axis=2)
    return Candidates(people)
