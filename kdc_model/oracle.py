"""Ground truth in place of the network, in whole or in part: what of the error is the network's, what the decoder's.

fields:    every field is ideal: what is lost is lost by targets, candidates and decoding.
keypoints: ideal keypoints, the network's mask fields: what the masks alone cost.
masks:     the network's keypoints, ideal mask fields: what the keypoints alone cost.

At people without masks (all of CrowdPose's) the mask fields stay the network's. Keypoints that a data set does not
annotate are nowhere: without CrowdPose's noses nothing joins left and right, and its people come out as halves.

`with_ideal` replaces single fields, which tells which of the network's outputs the error comes from; `ideal_scores`
leaves everything that was found and only ranks it by the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from kdc_core.backends.base import Backend, NetworkOutputs
from kdc_core.coco_scores import annotated_poses, annotation_mask, oks_matrix
from kdc_core.decode.candidates import find_candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.encode import GroundTruth, Targets, encode, ideal_fields
from kdc_core.fields import Fields
from kdc_core.geometry import Letterbox
from kdc_core.pipeline import Pipeline
from kdc_core.rle import to_coco
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.spec import ModelSpec
from kdc_model.data.augment import Warp, ground_truth
from kdc_model.data.coco import ImageRecord
from kdc_model.evaluate import TruthImage

ORACLES = ("fields", "keypoints", "masks")
IDEAL_FIELDS = ("heatmap", "offset", "displacement", "person", "embedding")


class OracleBackend:
    """A runtime that answers from an image's annotations, and asks the real one for the rest.

    `look_at` says which image comes next.
    """

    def __init__(self, network: Backend, oracle: str) -> None:
        if oracle not in ORACLES:
            raise ValueError(f"unknown oracle '{oracle}': choose one of {', '.join(ORACLES)}")
        self.spec = network.spec
        self.name = f"{network.name} with ground-truth {oracle}"
        self._network, self._oracle = network, oracle
        self._next: tuple[ImageRecord, Letterbox] | None = None

    def look_at(self, record: ImageRecord, letterbox: Letterbox) -> None:
        """The record of the next image, and how it is placed in the network's input."""
        self._next = record, letterbox

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Answer for the image that was announced; `image` is only for the network's part."""
        if self._next is None:
            raise RuntimeError("look_at must be called before run")
        record, letterbox = self._next
        if letterbox.input_hw != image.shape[:2]:
            raise RuntimeError(f"announced for an input of {letterbox.input_hw}, got {image.shape[:2]}")
        spec = self.spec
        # Crowds count in no score: nobody is found there, and only people without masks leave mask fields unknown.
        people = tuple(person for person in record.persons if not person.ignore)
        truth = ground_truth(dataclasses.replace(record, persons=people), _warp(letterbox))
        targets = encode(truth, spec.stride, spec.disk_radius_px)
        bank = spec.mask_mode == "bank"
        fields = ideal_fields(targets, spec.stride, bank)
        seen = dataclasses.replace(fields, person=_somebody(truth, targets, spec))
        candidates = find_candidates(seen, spec.disk_radius_px, spec.num_candidates)
        found = self._network.run(image)
        if self._oracle == "keypoints":
            return NetworkOutputs(candidates, found.masks)
        known = targets.person_valid
        masks = MaskFields(
            person=np.where(known, fields.person, found.masks.person),
            embedding=np.where(known & known_embedding(targets, bank), fields.embedding, found.masks.embedding),
            sigma=np.where(known, fields.sigma, found.masks.sigma),
            stride=spec.stride,
        )
        return NetworkOutputs(candidates if self._oracle == "fields" else found.candidates, masks)

    def close(self) -> None:
        """Free the network."""
        self._network.close()


def _somebody(truth: GroundTruth, targets: Targets, spec: ModelSpec) -> np.ndarray:
    """The person field that ideal candidates are weighed with, (h, w): 1 at the disks of people without masks, who have
    none of it otherwise. Not in their whole boxes: keypoints lie outside these, too."""
    person = targets.person.copy()
    maskless = dataclasses.replace(truth, labelled=truth.labelled & ~truth.has_mask[:, None])
    _, row, col = encode(maskless, spec.stride, spec.disk_radius_px).disk_index.T
    person[row, col] = 1
    return person


def with_oracle(pipeline: Pipeline, oracle: str) -> tuple[Pipeline, Callable[[TruthImage], None]]:
    """A pipeline like this one with ground truth in place of ORACLES, and what to call before each image.

    Closing it closes the network of the first one.
    """
    backend = OracleBackend(pipeline.backend, oracle)
    wrapped = Pipeline(backend, pipeline.options)
    wrapped.spec = pipeline.spec
    return wrapped, lambda image: backend.look_at(image.record, wrapped.spec.letterbox(image.image_hw))


def with_ideal(
    fields: Fields, names: Sequence[str], record: ImageRecord, letterbox: Letterbox, radius_px: float
) -> Fields:
    """A network's fields with some of IDEAL_FIELDS taken from the annotations, as far as these tell.

    The heatmap stays the network's in ignored regions, offsets and displacements outside their disks, the person field
    where masks are missing, the embedding (MaskCentroid, with its sigma) outside the annotated people.
    """
    targets = encode(ground_truth(record, _warp(letterbox)), fields.stride, radius_px)
    bank = fields.embedding.shape[0] > 2
    ideal = ideal_fields(targets, fields.stride, bank)
    changed: dict[str, Any] = {}
    if "heatmap" in names:
        known = (targets.heatmap_valid & targets.annotated_types[:, None, None]) | (ideal.heatmap > 0)
        changed["heatmap"] = np.where(known, ideal.heatmap, fields.heatmap)
    if "offset" in names:
        kind, row, col = targets.disk_index.T
        changed["offset"] = fields.offset.copy()
        changed["offset"][kind, :, row, col] = targets.disk_offset
    if "displacement" in names:
        edge, row, col = targets.edge_index.T
        changed["displacement"] = fields.displacement.copy()
        changed["displacement"][edge, :, row, col] = targets.edge_offset
    if "person" in names:
        changed["person"] = np.where(targets.person_valid, ideal.person, fields.person)
    if "embedding" in names:
        inside = (targets.instance > 0) & np.isfinite(ideal.embedding).all(0)
        known = inside & known_embedding(targets, bank)
        changed["embedding"] = np.where(known, ideal.embedding, fields.embedding)
        changed["sigma"] = np.where(inside, ideal.sigma, fields.sigma)
    return dataclasses.replace(fields, **changed)


def known_embedding(targets: Targets, bank: bool) -> np.ndarray:
    """Where the annotations tell the embedding, bool (channels, h, w): a bank's not of joints that nobody labelled."""
    channels = 2 * NUM_KEYPOINTS if bank else 2
    known = np.ones((channels, *targets.instance.shape), bool)
    if bank:
        for person, labelled in enumerate(targets.labelled):
            known[:, targets.instance == person + 1] = np.repeat(labelled, 2)[:, None]
    return known


def ideal_scores(
    truth: Sequence[TruthImage], results: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Result entries scored by what they are worth: OKS with an annotated pose, and IoU with an annotated mask.

    Every annotation is shared out once, so that the sum is largest; what gets none scores 0. The distance to the
    scores of the entries as they are is what the order costs.
    """
    of_image: dict[int, list[int]] = {image.image_id: [] for image in truth}
    for place, entry in enumerate(results):
        of_image[entry["image_id"]].append(place)
    oks, iou = np.zeros(len(results)), np.zeros(len(results))
    for image in truth:
        places = of_image[image.image_id]
        entries = [results[place] for place in places]
        oks[places] = _shared_out(_oks(image, entries))
        iou[places] = _shared_out(_iou(image, entries))
    return (
        [{**entry, "score": float(value)} for entry, value in zip(results, oks)],
        [{**entry, "score": float(value), "mask_score": float(value)} for entry, value in zip(results, iou)],
    )


def _shared_out(similarity: np.ndarray) -> np.ndarray:
    """Of each of N entries, its similarity to the one of M annotations that it gets, (N,), from (M, N)."""
    out = np.zeros(similarity.shape[1])
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    out[columns] = similarity[rows, columns]
    return out


def _oks(image: TruthImage, entries: list[dict[str, Any]]) -> np.ndarray:
    """OKS of an image's annotated poses with entries, (M, N)."""
    found = np.array([e["keypoints"] for e in entries], np.float64).reshape(-1, NUM_KEYPOINTS, 3)
    return oks_matrix(*annotated_poses(image), found[..., :2])


def _iou(image: TruthImage, entries: list[dict[str, Any]]) -> np.ndarray:
    """IoU of an image's annotated masks with those of entries, (M, N); 0 for an entry without one."""
    masked = [a for a in image.annotations if a["has_mask"] and not a["iscrowd"]]
    out = np.zeros((len(masked), len(entries)))
    columns = [n for n, e in enumerate(entries) if e.get("segmentation") is not None]
    if masked and columns:
        true = [to_coco(annotation_mask(a["segmentation"], image.image_hw)) for a in masked]
        out[:, columns] = coco_mask.iou(true, [entries[n]["segmentation"] for n in columns], [0] * len(columns))
    return out


def _warp(letterbox: Letterbox) -> Warp:
    """The letterbox as an affine map."""
    scale = letterbox.scale_xy
    return Warp(np.column_stack([np.diag(scale), 0.5 * scale - 0.5]), letterbox.input_hw, flipped=False)
