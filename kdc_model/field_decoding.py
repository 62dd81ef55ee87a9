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
from kdc_core.spec import ModelSpec
from kdc_model.network import KDCNet

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
    """

    keypoints: str = "both"
    pgo_high_variance: float = 0.4
    pgo_low_variance: float = 0.8
    body_heatmap: float = 0.0
    landings: int = LANDINGS
    person_scores: bool = True
    igo_cells: float = 0.5

    def __post_init__(self) -> None:
        if self.keypoints not in KEYPOINTS:
            raise ValueError(f"keypoints must be one of {', '.join(KEYPOINTS)}, got '{self.keypoints}'")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "person_scores":
                if not isinstance(value, bool):
                    raise ValueError(f"person_scores must be true or false, got {value!r}")
            elif field.name != "keypoints" and not (isinstance(value, (int, float)) and 0 <= value < np.inf):
                raise ValueError(f"{field.name} must be a number from 0 on, got {value!r}")
        if not isinstance(self.landings, int) or self.landings < 1:
            raise ValueError(f"landings must be a whole number from 1 on, got {self.landings!r}")
        if self.body_heatmap > 1:
            raise ValueError(f"body_heatmap must be within 0..1, got {self.body_heatmap}")


class FieldBackend:
    """A network in torch behind the interface of the runtimes, decoded by the reference with switches."""

    def __init__(self, network: KDCNet, spec: ModelSpec, switches: DecodingSwitches) -> None:
        self.spec, self.name = spec, f"torch {torch.__version__}, decoded by the reference"
        self._network, self._switches = network.eval(), switches
        self._device = next(network.parameters()).device

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
