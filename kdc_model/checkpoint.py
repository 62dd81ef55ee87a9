"""Reading what `kdc train` saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdc_model.config import TrainConfig
from kdc_model.network import KDCNet


class CheckpointError(ValueError):
    """A file that is no checkpoint of `kdc train`, or a broken one."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, running no code from it. Raises FileNotFoundError, CheckpointError."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or "average" not in checkpoint or "config" not in checkpoint:
        raise CheckpointError(f"{path} is not a checkpoint of `kdc train`")
    return checkpoint


def network_from_checkpoint(path: Path) -> tuple[KDCNet, TrainConfig, int]:
    """The averaged network of a checkpoint in evaluation mode, its configuration and its step."""
    checkpoint = load_checkpoint(path)
    config = TrainConfig.from_dict(checkpoint["config"])
    network = KDCNet(config.network())
    network.load_state_dict(checkpoint["average"])
    return network.eval(), config, int(checkpoint["step"])


def mean_network(paths: Sequence[Path]) -> tuple[KDCNet, TrainConfig, int]:
    """The mean of several checkpoints' averaged networks in evaluation mode, configuration and step of the last.

    Where a run went on from another's end, the mean of both ends may be better than either (Wortsman et al., Model
    soups, ICML 2022). Raises CheckpointError for networks of different shapes.
    """
    networks = [network_from_checkpoint(path)[0] for path in paths[:-1]]
    mean, config, step = network_from_checkpoint(paths[-1])
    states = [network.state_dict() for network in (*networks, mean)]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    for path, shape in zip(paths, shapes):
        if shape != shapes[-1]:
            raise CheckpointError(f"{path} and {paths[-1]} have different networks: there is no mean of them")
    for name, value in states[-1].items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name] for state in states]).mean(0))
    return mean, config, step
