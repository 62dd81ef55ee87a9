"""Reading what `kdc train` saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdc_model.config import ConfigError, TrainConfig
from kdc_model.network import KDCNet, NetworkConfig

# What gives a network's outputs their meaning; those of others cannot be decoded, nor averaged, together.
MEANING = (*(f.name for f in dataclasses.fields(NetworkConfig)), "disk_radius_px")


class CheckpointError(ValueError):
    """A file that is no checkpoint of `kdc train`, or a broken one."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, running no code from it: at least its `config`, `step` and `average`.

    Raises FileNotFoundError, CheckpointError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        # The first sentence says what is wrong; the rest advises to load the file without checks.
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason or type(error).__name__}") from error
    if not isinstance(checkpoint, dict) or "average" not in checkpoint or "config" not in checkpoint:
        raise CheckpointError(f"{path} is not a checkpoint of `kdc train`")
    for name, kind in (("config", dict), ("step", int), ("average", dict)):
        if not isinstance(value := checkpoint.get(name), kind):
            raise CheckpointError(f"{path}: its '{name}' must be {kind.__name__}, got {type(value).__name__}")
    return checkpoint


def checkpoint_config(checkpoint: dict[str, Any], path: Path) -> TrainConfig:
    """The configuration in what `load_checkpoint` read from a file. Raises CheckpointError."""
    try:
        return TrainConfig.from_dict(checkpoint["config"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: its 'config': {error}") from error


def load_part(network: nn.Module, checkpoint: dict[str, Any], name: str, path: Path) -> None:
    """The weights under a name in what `load_checkpoint` read from a file. Raises CheckpointError."""
    state, own = checkpoint.get(name), network.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: its '{name}' must map names to tensors")
    misfits = sorted(
        str(key) for key in own.keys() | state.keys()
        if key not in own or key not in state or own[key].shape != state[key].shape
    )  # fmt: skip
    if misfits:
        raise CheckpointError(
            f"{path}: its '{name}' is not of the network in its 'config': {', '.join(misfits[:3])} (of {len(misfits)}) "
            "do not fit"
        )
    network.load_state_dict(state)


def network_from_checkpoint(path: Path) -> tuple[KDCNet, TrainConfig, int]:
    """The averaged network of a checkpoint in evaluation mode, its configuration and its step.

    Raises FileNotFoundError, CheckpointError.
    """
    checkpoint = load_checkpoint(path)
    config = checkpoint_config(checkpoint, path)
    network = KDCNet(config.network())
    load_part(network, checkpoint, "average", path)
    return network.eval(), config, checkpoint["step"]


def mean_network(paths: Sequence[Path]) -> tuple[KDCNet, TrainConfig, int]:
    """The mean of several checkpoints' averaged networks in evaluation mode, configuration and step of the last.

    Where a run went on from another's end, the mean of both ends may be better than either (Wortsman et al., Model
    soups, ICML 2022). Raises CheckpointError for networks of different shapes, or whose outputs mean different things.
    """
    mean, config, step = network_from_checkpoint(paths[-1])
    states = []
    for path in paths[:-1]:
        network, other, _ = network_from_checkpoint(path)
        for name in config.differences(other):
            if name in (*MEANING, "disk_radius_range"):
                raise CheckpointError(
                    f"{path} and {paths[-1]} have different networks ({name} {getattr(other, name)} and "
                    f"{getattr(config, name)}): there is no mean of them"
                )
        states.append(network.state_dict())
    for name, value in mean.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.stack([*(state[name] for state in states), value]).mean(0))
    return mean, config, step
