"""Candidates -> poses: the surest candidate's walk is a person; whoever has the same joints is not (SPEC section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc_core.decode.candidates import Candidates
from kdc_core.skeleton import NUM_KEYPOINTS, OKS_SIGMAS

_TWO_SIGMAS = 2 * OKS_SIGMAS
_KINDS = np.arange(NUM_KEYPOINTS)
# Joints below this share of a pose's best one do not tell its size.
_TELLS_SIZE = 0.1
_LEAST_SIZE_PX = 8.0


@dataclass(frozen=True)
class GroupingOptions:
    """How candidates become people.

    seed_threshold: a candidate below this score starts no person.
    tolerance:      a candidate this many OKS kappas (2 sigma * size) from the same joint of a person found before is
                    that person's;
    slack_px:       plus this many network pixels, for very small people.
    """

    seed_threshold: float = 0.03
    tolerance: float = 0.2
    slack_px: float = 16.0


@dataclass(frozen=True, eq=False)
class Poses:
    """N poses in network pixels.

    keypoints_xy: float32 (N, K, 2);  keypoint_scores: float32 (N, K), 0 = not found;  scores: float32 (N,).
    """

    keypoints_xy: np.ndarray
    keypoint_scores: np.ndarray
    scores: np.ndarray


def group(candidates: Candidates, options: GroupingOptions | None = None, least_score: float = 0.0) -> Poses:
    """Choose the people among what the walks have found, best first.

    The surest candidate begins. Every candidate that lies on the same joint of a person chosen before is explained by
    that person; the surest of the others is the next one. Walks whose score is below `least_score` are not looked at:
    most of what a network returns is such clutter.
    """
    options = options or GroupingOptions()
    own = candidates.points
    scores = np.sqrt(np.square(candidates.people[..., 2]).mean(2))
    kind, index = np.nonzero((own[..., 2] >= options.seed_threshold) & (scores >= least_score))
    order = np.argsort(-own[kind, index, 2], kind="stable")
    kind, index = kind[order], index[order]
    walks = candidates.people[kind, index]
    seed_x, seed_y = own[kind, index, 0], own[kind, index, 1]
    sizes = _sizes(walks)
    chosen: list[int] = []
    free = np.ones(len(kind), bool)
    reach = options.tolerance * _TWO_SIGMAS
    for _ in range(len(kind)):
        best = int(free.argmax())
        if not free[best]:
            break
        chosen.append(best)
        pose = walks[best]
        near = (reach * sizes[best] + options.slack_px) ** 2
        across, down = pose[:, 0][kind] - seed_x, pose[:, 1][kind] - seed_y
        free &= across * across + down * down > near[kind]
        free[best] = False
    return _rank(walks[chosen], sizes[chosen], options)


def _sizes(poses: np.ndarray) -> np.ndarray:
    """Size of each of N poses (N, K, 3) in pixels: square root of the area around its likelier joints, float32 (N,)."""
    score = poses[..., 2]
    likely = (score >= _TELLS_SIZE * score.max(1, keepdims=True))[..., None]
    extent = np.where(likely, poses[..., :2], -np.inf).max(1) - np.where(likely, poses[..., :2], np.inf).min(1)
    return np.sqrt(np.maximum(extent.prod(1), _LEAST_SIZE_PX**2)).astype(np.float32)


def _rank(poses: np.ndarray, sizes: np.ndarray, options: GroupingOptions) -> Poses:
    """Best first; a pose's score is the root mean square over all K of the keypoints that nobody better has claimed."""
    order = np.argsort(-np.square(poses[..., 2]).sum(1), kind="stable")
    keypoints, confidences, sizes = poses[order, :, :2], poses[order, :, 2], sizes[order]
    across = keypoints[:, None, :, 0] - keypoints[None, :, :, 0]
    down = keypoints[:, None, :, 1] - keypoints[None, :, :, 1]
    near = (options.tolerance * _TWO_SIGMAS * sizes[:, None] + options.slack_px) ** 2
    place = np.arange(len(order))
    better = place[:, None] > place
    claimed = ((across * across + down * down <= near[None]) & better[..., None]).any(1)
    scores = np.sqrt(np.square(np.where(claimed, 0.0, confidences)).mean(1))
    ranked = np.argsort(-scores, kind="stable")
    return Poses(keypoints[ranked], confidences[ranked], scores[ranked].astype(np.float32))
