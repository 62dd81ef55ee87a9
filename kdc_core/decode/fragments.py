"""Pieces of one person that the walk could not join: told by where their pixels point.

The walk goes astray where a joint is hidden (a leg behind a table), and a weak second peak can start a person of its
own. Both kinds of piece lie on pixels whose MaskCentroid embedding points at a person found before: KDC's dynamic
centroid says who belongs together, not only which pixels do.
"""

from __future__ import annotations

import numpy as np

from kdc_core.decode.grouping import Poses
from kdc_core.decode.masks import MaskFields, dynamic_centroids

# A joint below this score is missing: a fragment's surer one takes its place.
_MISSING = 0.05


def join_fragments(poses: Poses, fields: MaskFields, confidence: float, membership: float) -> Poses:
    """Each pose whose centroid falls on a better one's goes; what it has and the better one lacks moves over.

    poses come and go best first. `confidence`: keypoints below it do not help to place the centroid; `membership`:
    phi of the better pose at the fragment's centroid from which it joins (1 joins nothing). The bank form has no
    common centre, so its poses stay as they are.
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
        taken = (scores[home] < _MISSING) & (scores[n] > scores[home])
        keypoints[home, taken], scores[home, taken] = keypoints[n, taken], scores[n, taken]
    return Poses(keypoints[kept], scores[kept], poses.scores[kept])
