"""A network asked twice, about the picture and about its mirror image: slower, and surer (flip at test time)."""

from __future__ import annotations

import numpy as np

from kdc_core.backends.base import Backend, NetworkOutputs
from kdc_core.decode.candidates import Candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.skeleton import FLIP_INDEX
from kdc_core.spec import ModelSpec

_FLIP = list(FLIP_INDEX)


class MirroredBackend:
    """Runs another backend on every image and on its mirror image.

    Both runs' candidates compete for the people; the mask fields are averaged. Takes twice the time. Owns the backend.
    """

    def __init__(self, backend: Backend) -> None:
        self.spec: ModelSpec = backend.spec
        self.name = f"{backend.name}, each picture and its mirror image"
        self._backend = backend

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        seen = self._backend.run(image)
        mirrored = unmirrored(self._backend.run(np.ascontiguousarray(image[:, ::-1])), image.shape[1])
        people = np.concatenate([seen.candidates.people, mirrored.candidates.people], axis=1)
        a, b = seen.masks, mirrored.masks
        masks = MaskFields(
            0.5 * (a.person + b.person), 0.5 * (a.embedding + b.embedding), np.sqrt(a.sigma * b.sigma), a.stride
        )
        return NetworkOutputs(Candidates(people), masks)

    def close(self) -> None:
        """Free the network."""
        self._backend.close()


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
