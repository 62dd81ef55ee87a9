"""Pieces of one person that the walk could not join: told by where their pixels point.

The tree breaks where a joint is hidden (an ear without its eye, a leg behind a table), and a weak second peak can
start a person of its own. Both kinds of piece lie on pixels whose MaskCentroid embedding points at a person found
before: KDC's dynamic centroid says who belongs together, not only which pixels do.
"""

from __future__ import annotations

import numpy as np

from kdc_core.decode.grouping import Poses
from kdc_core.decode.masks import MaskFields, dynamic_centroids
from kdc_core.skeleton import NUM_KEYPOINTS


def join_fragments(poses: Poses, fields: MaskFields, confidence: float, membership: float) -> Poses:
    """Give each pose's joints to the better pose whose centroid its own falls on; poses come and go best first.

    A joint moves where the better pose has found none, or one less likely. `confidence`: keypoints below it do not
    help to place the centroid; `membership`: phi of the better pose at the fragment's centroid from which it joins
    (1 joins nothing). The bank form has no common centre, so its poses stay as they are.
    """
    count = len(poses.scores)
    if count < 2 or fields.embedding.shape[0] != 2:
        return poses
    centres, sigmas = dynamic_centroids(fields, poses, confidence)
    squared = ((centres[:, None] - centres[None]) ** 2).sum(2)
    phi = np.exp(-0.5 * squared / sigmas[None] ** 2)
    keypoints, scores = poses.keypoints_xy.copy(), poses.keypoint_scores.copy()
    joins = np.tril(phi > membership, -1)
    kept = np.ones(count, bool)
    for n in np.flatnonzero(joins.any(1)):
        homes = np.flatnonzero(joins[n] & kept)
        if len(homes) == 0:
            continue
        home, kept[n] = homes[0], False
        better = scores[n] > scores[home]
        keypoints[home, better], scores[home, better] = keypoints[n, better], scores[n, better]
    totals = np.maximum(poses.scores[kept], scores[kept].sum(1) / NUM_KEYPOINTS)
    order = np.argsort(-totals, kind="stable")
    chosen = np.flatnonzero(kept)[order]
    return Poses(keypoints[chosen], scores[chosen], totals[order].astype(np.float32))
