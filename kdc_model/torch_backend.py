"""A network in torch behind the interface of the runtimes: for scoring it while it trains, without a file, and as the
reference that an exported file is held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kdc_core.backends.base import NetworkOutputs, checked_image, checked_outputs
from kdc_core.decode.candidates import find_candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.fields import Fields
from kdc_core.spec import ModelSpec
from kdc_model.candidate_graph import ExportedKDC
from kdc_model.config import TrainConfig
from kdc_model.network import FieldTensors, KDCNet


def model_spec(
    network: KDCNet,
    config: TrainConfig,
    long_side: int | None = None,
    num_candidates: int = 32,
    provenance: dict[str, Any] | None = None,
) -> ModelSpec:
    """What a runtime must know of a trained network. long_side: network pixels (default: the configuration's)."""
    side = long_side or config.long_side
    return ModelSpec(
        input_hw=(side, side),
        stride=config.stride,
        disk_radius_px=config.disk_radius_px,
        mask_mode=config.mask_mode,
        num_candidates=num_candidates,
        mean=network.trunk.mean,
        std=network.trunk.std,
        provenance=provenance or {},
    )


class TorchBackend:
    """Runs the very module that is exported. The network must be in evaluation mode."""

    def __init__(self, network: KDCNet, spec: ModelSpec) -> None:
        self.spec = spec
        self.name = f"torch {torch.__version__}"
        self._device = next(network.parameters()).device
        self._graph = ExportedKDC(network, spec).to(self._device)

    @torch.no_grad()
    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        outputs = self._graph(torch.from_numpy(np.ascontiguousarray(image)).to(self._device))
        arrays = {name: o.float().cpu().numpy() for name, o in zip(self.spec.output_names, outputs)}
        return checked_outputs(arrays, self.spec, image.shape[:2])

    def close(self) -> None:
        """Nothing to free: the network belongs to whoever made it."""


class ReferenceBackend:
    """The network's fields in torch, candidates by the reference decoder in numpy: what a graph must repeat.

    The network must be in evaluation mode.
    """

    def __init__(self, network: KDCNet, spec: ModelSpec) -> None:
        self.spec = spec
        self.name = f"torch {torch.__version__} and the reference decoder"
        self._network = network

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        fields = torch_fields(self._network, checked_image(image))
        candidates = find_candidates(fields, self.spec.disk_radius_px, self.spec.num_candidates)
        return NetworkOutputs(candidates, MaskFields(fields.person, fields.embedding, fields.sigma, self.spec.stride))

    def close(self) -> None:
        """Nothing to free: the network belongs to whoever made it."""


@torch.no_grad()
def torch_fields(network: KDCNet, image: np.ndarray) -> Fields:
    """The network's fields of one letterboxed image, uint8 (H', W', 3), in torch."""
    device = next(network.parameters()).device
    tensor = torch.from_numpy(np.ascontiguousarray(image)).to(device)
    return to_fields(network(tensor.float().permute(2, 0, 1)[None]), network.config.stride)


def to_fields(fields: FieldTensors, stride: int, sample: int = 0) -> Fields:
    """One sample of a batch of field tensors, as numpy."""
    return Fields(
        heatmap=torch.sigmoid(fields.heatmap[sample]).cpu().numpy(),
        offset=fields.offset[sample].cpu().numpy(),
        displacement=fields.displacement[sample].cpu().numpy(),
        person=torch.sigmoid(fields.person[sample]).cpu().numpy(),
        embedding=fields.embedding[sample].cpu().numpy(),
        sigma=torch.exp(fields.log_sigma[sample]).cpu().numpy(),
        stride=stride,
    )
