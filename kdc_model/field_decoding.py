"""Decoding from the dense fields with every part switchable: for ablations, not for speed.

The exported graph has the parts fixed (`kdc_model.candidate_graph`); here the numpy reference decodes what the network
in torch returns.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from kdc_core.backends.base import NetworkOutputs
from kdc_core.decode.candidates import LANDINGS, find_candidates, smoothing_sigmas
from kdc_core.decode.masks import MaskFields
from kdc_core.fields import Fields
from kdc_core.geometry import Letterbox
from kdc_core.spec import ModelSpec
from kdc_model.data.coco import ImageRecord
from kdc_model.evaluate import TruthImage
from kdc_model.network import KDCNet
from kdc_model.oracle import IDEAL_FIELDS, with_ideal

KEYPOINTS = ("both", "heatmap", "keycentroid")


@dataclass(frozen=True)
class DecodingSwitches:
    """What the decoder uses.

    keypoints:  "both"; "heatmap": the KeyCentroids count as zero; "keycentroid": the heatmap only says where a disk is
                (above 0.5), the place and the order of the candidates are the KeyCentroids'.
    pgo_high_variance, pgo_low_variance: sigma of the point-wise Gaussian in cells, for wrists, elbows, knees and
                ankles, and for the rest; below 0.3 none (PGO).
    body_heatmap: alpha of the body heat map, c' = 1 - (1 - c)(1 - alpha B) with B the sum of the other keypoints'
                maps, at most 1 (BHM); 0 = none.
    landings:   KeyCentroids followed at the far end of each edge of the walk, at least 1.
    person_scores: whether keypoint scores are the heatmap's times the person field's.
    igo_cells:  sigma of the instance-wise Gaussian of the soft masks in cells; below 0.3 none (IGO).
    mask_only:  whether people are added whom only the mask fields show.
    ideal:      fields that come from the annotations instead of the network (`kdc_model.oracle.IDEAL_FIELDS`).
    """

    keypoints: str = "both"
    pgo_high_variance: float = 0.4
    pgo_low_variance: float = 0.8
    body_heatmap: float = 0.0
    landings: int = LANDINGS
    person_scores: bool = True
    igo_cells: float = 0.5
    mask_only: bool = True
    ideal: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.keypoints not in KEYPOINTS:
            raise ValueError(f"keypoints must be one of {', '.join(KEYPOINTS)}, got '{self.keypoints}'")
        if not isinstance(self.ideal, (list, tuple)) or not set(self.ideal) <= set(IDEAL_FIELDS):
            raise ValueError(f"ideal must be a list of some of {', '.join(IDEAL_FIELDS)}, got {self.ideal!r}")
        for name in ("person_scores", "mask_only"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        for name in ("pgo_high_variance", "pgo_low_variance", "body_heatmap", "igo_cells"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 <= value < np.inf):
                raise ValueError(f"{name} must be a number from 0 on, got {value!r}")
        if not isinstance(self.landings, int) or self.landings < 1:
            raise ValueError(f"landings must be a whole number from 1 on, got {self.landings!r}")
        if self.body_heatmap > 1:
            raise ValueError(f"body_heatmap must be within 0..1, got {self.body_heatmap}")


class FieldBackend:
    """A network in torch behind the interface of the runtimes, decoded by the reference with switches.

    With ideal fields among them, `look_at` must say which image comes next.
    """

    def __init__(self, network: KDCNet, spec: ModelSpec, switches: DecodingSwitches) -> None:
        self.spec, self.name = spec, f"torch {torch.__version__}, decoded by the reference"
        self._network, self._switches = network.eval(), switches
        self._device = next(network.parameters()).device
        self._next: tuple[ImageRecord, Letterbox] | None = None

    def look_at(self, image: TruthImage) -> None:
        """The next image's annotations."""
        self._next = image.record, self.spec.letterbox(image.image_hw)

    @torch.no_grad()
    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3)."""
        tensor = torch.from_numpy(np.ascontiguousarray(image)).to(self._device)
        found = self._network(tensor.permute(2, 0, 1)[None].float())
        fields = Fields(
            heatmap=torch.sigmoid(found.heatmap[0]).cpu().numpy(),
            offset=found.offset[0].cpu().numpy(),
            displacement=found.displacement[0].cpu().numpy(),
            person=torch.sigmoid(found.person[0]).cpu().numpy(),
            embedding=found.embedding[0].cpu().numpy(),
            sigma=torch.exp(found.log_sigma[0]).cpu().numpy(),
            stride=self.spec.stride,
        )
        switches = self._switches
        if switches.ideal:
            if self._next is None:
                raise RuntimeError("ideal fields need look_at before run")
            record, letterbox = self._next
            fields = with_ideal(fields, switches.ideal, record, letterbox, self.spec.disk_radius_px)
        sigmas = smoothing_sigmas(switches.pgo_high_variance, switches.pgo_low_variance)
        candidates = find_candidates(
            switched(fields, switches), self.spec.disk_radius_px, self.spec.num_candidates, sigmas, switches.landings
        )
        return NetworkOutputs(
            candidates, MaskFields(fields.person, fields.embedding, fields.sigma, self.spec.stride)
        )

    def close(self) -> None:
        """Nothing to free: the network belongs to whoever made it."""


def switched(fields: Fields, switches: DecodingSwitches) -> Fields:
    """The fields as the switches want the search for candidates to see them."""
    heatmap, offset = fields.heatmap, fields.offset
    person = fields.person if switches.person_scores else np.ones_like(fields.person)
    if switches.body_heatmap > 0:
        others = np.clip(heatmap.sum(0, keepdims=True) - heatmap, 0, 1)
        heatmap = 1 - (1 - heatmap) * (1 - np.float32(switches.body_heatmap) * others)
    if switches.keypoints == "heatmap":
        offset = np.zeros_like(offset)
    elif switches.keypoints == "keycentroid":
        heatmap = (heatmap > 0.5).astype(np.float32)
    return dataclasses.replace(fields, heatmap=heatmap, offset=offset, person=person)
