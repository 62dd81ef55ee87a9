"""The network's dense outputs of one image: one dataclass that encoder and decoder share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc_core.skeleton import NUM_DIRECTED_EDGES, NUM_KEYPOINTS


@dataclass(frozen=True, eq=False)
class Fields:
    """PoseNet's and SegNet's outputs, float32; h x w cells of `stride` network pixels, offsets in those too.

    heatmap:      (K, h, w) probability that the cell lies in the keypoint's disk.
    offset:       (K, 2, h, w) KeyCentroid: from the cell's centre to the keypoint, x then y.
    displacement: (E, 2, h, w) from the cell's centre to the far end of each directed edge.
    person:       (h, w) probability of a person.
    embedding:    (C, h, w) MaskCentroid offset, C = 2 (x, y), or 2K for the bank form (x, y by keypoint).
    sigma:        (h, w) radius within which the person's embeddings lie.
    """

    heatmap: np.ndarray
    offset: np.ndarray
    displacement: np.ndarray
    person: np.ndarray
    embedding: np.ndarray
    sigma: np.ndarray
    stride: int

    def __post_init__(self) -> None:
        height, width = self.person.shape
        for name, lead in (
            ("heatmap", (NUM_KEYPOINTS,)),
            ("offset", (NUM_KEYPOINTS, 2)),
            ("displacement", (NUM_DIRECTED_EDGES, 2)),
            ("sigma", ()),
        ):
            if getattr(self, name).shape != (*lead, height, width):
                raise ValueError(
                    f"Fields.{name} must be {(*lead, height, width)}, got {getattr(self, name).shape}"
                )
        if self.embedding.shape not in ((2, height, width), (2 * NUM_KEYPOINTS, height, width)):
            raise ValueError(f"Fields.embedding must have 2 or {2 * NUM_KEYPOINTS} channels")
