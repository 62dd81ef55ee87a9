"""A network asked twice, about the picture and about its mirror image: slower, and surer (flip at test time)."""

from __future__ import annotations

import numpy as np

from kdc_core.backends.base import Backend, NetworkOutputs
from kdc_core.decode.candidates import Candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.skeleton import FLIP_INDEX
from kdc_core.spec import ModelSpec

_FLIP = list(FLIP_INDEX)
# Two candidates, or two places of a joint, this near to each other are the same.
_SAME_CELLS = 3.0


class MirroredBackend:
    """Runs another backend on every image and on its mirror image.

    Keypoints that both runs find are averaged, scores and mask fields too. Takes twice the time. Owns the backend.
    """

    def __init__(self, backend: Backend) -> None:
        self.spec: ModelSpec = backend.spec
        self.name = f"{backend.name}, each picture and its mirror image"
        self._backend = backend

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        seen = self._backend.run(image)
        mirrored = unmirrored(self._backend.run(np.ascontiguousarray(image[:, ::-1])), image.shape[1])
        people = averaged(seen.candidates.people, mirrored.candidates.people, _SAME_CELLS * seen.masks.stride)
        a, b = seen.masks, mirrored.masks
        masks = MaskFields(
            0.5 * (a.person + b.person), 0.5 * (a.embedding + b.embedding), np.sqrt(a.sigma * b.sigma), a.stride
        )
        return NetworkOutputs(Candidates(people), masks)

    def close(self) -> None:
        """Free the network."""
        self._backend.close()


def averaged(a: np.ndarray, b: np.ndarray, same_px: float) -> np.ndarray:
    """The candidates of two runs (K, M, K, 3) as one list (K, 2M, K, 3): as if their heatmaps were averaged.

    A candidate of one run is paired with the nearest of the other within `same_px`; what has no partner counts half.
    """
    kinds = np.arange(len(a))
    merged = []
    for own, other in ((a, b), (b, a)):
        root, its = own[kinds, :, kinds], other[kinds, :, kinds]
        distance = np.linalg.norm(root[:, :, None, :2] - its[:, None, :, :2], axis=3)
        distance[np.broadcast_to(its[:, None, :, 2] <= 0, distance.shape)] = np.inf
        partner = np.take_along_axis(other, distance.argmin(2)[..., None, None], 1)
        paired = ((distance.min(2) <= same_px) & (root[..., 2] > 0))[..., None]
        agree = paired & (np.linalg.norm(own[..., :2] - partner[..., :2], axis=3) <= same_px)
        weight = own[..., 2] / np.maximum(own[..., 2] + partner[..., 2], 1e-6)
        # Where they differ the surer place is taken, at half its score.
        weight = np.where(agree, weight, np.where(paired & (partner[..., 2] > own[..., 2]), 0.0, 1.0))
        places = own[..., :2] * weight[..., None] + partner[..., :2] * (1 - weight[..., None])
        surest = np.maximum(own[..., 2], np.where(paired, partner[..., 2], 0.0))
        scores = np.where(agree, own[..., 2] + partner[..., 2], surest) / 2
        merged.append(np.concatenate([places, scores[..., None]], axis=3).astype(np.float32))
    return np.concatenate(merged, axis=1)


def unmirrored(outputs: NetworkOutputs, width: int) -> NetworkOutputs:
    """What was found in a mirror image `width` network pixels wide, as it lies in the image itself."""
    # A left wrist in the mirror is a right wrist, both as the root of a walk and as one of its joints.
    people = outputs.candidates.people[_FLIP][:, :, _FLIP].copy()
    people[..., 0] = width - 1 - people[..., 0]
    masks = outputs.masks
    embedding = masks.embedding.reshape(-1, 2, *masks.person.shape)[..., ::-1].copy()
    embedding[:, 0] *= -1
    if len(embedding) == len(_FLIP):
        embedding = embedding[_FLIP]
    return NetworkOutputs(
        Candidates(people),
        MaskFields(
            masks.person[:, ::-1],
            embedding.reshape(masks.embedding.shape),
            masks.sigma[:, ::-1],
            masks.stride,
        ),
    )
