"""A network in torch behind the interface of the runtimes: for scoring it while it trains, without a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kdc_core.backends.base import NetworkOutputs, checked_outputs
from kdc_core.spec import ModelSpec
from kdc_model.candidate_graph import ExportedKDC
from kdc_model.config import TrainConfig
from kdc_model.network import KDCNet


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
        self._graph = ExportedKDC(network, spec.disk_radius_px, spec.num_candidates).to(self._device)

    @torch.no_grad()
    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        outputs = self._graph(torch.from_numpy(np.ascontiguousarray(image)).to(self._device))
        arrays = {name: o.float().cpu().numpy() for name, o in zip(self.spec.output_names, outputs)}
        return checked_outputs(arrays, self.spec, image.shape[:2])

    def close(self) -> None:
        """Nothing to free: the network belongs to whoever made it."""
