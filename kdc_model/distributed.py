"""Training in several processes, by PyTorch's own engine: `torchrun --nproc_per_node=N -m kdc_cli train ...`.

Each process takes its share of every global batch. Losses divide by counts over the whole global batch, so that the
gradient (which DistributedDataParallel averages) is that of one process with the same global batch. Without torchrun
everything here is the identity.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, if it did; leave them at the end.

    NCCL between GPUs, gloo between CPUs.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what gathers objects uses the current device
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 for the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_device(name: str | None) -> torch.device:
    """The device named, or else this process's own GPU, or the CPU; "cuda" is this process's own GPU, too.

    Raises ConfigError for a device that is no CPU or CUDA GPU, or not there.
    """
    from kdc_model.config import ConfigError  # which imports the losses, and they this

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = f"cpu, or one of this machine's {count} CUDA GPUs as torch sees it (cuda, cuda:1 ...)"
    try:
        device = torch.device(name or ("cuda" if count else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"there is no device '{name}': {here}") from error
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device.type != "cpu" and (device.type != "cuda" or device.index >= count):
        raise ConfigError(f"there is no device '{device}': {here}")
    return device


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """A number's mean over all processes (no gradient passes); itself when there is one."""
    if world_size() == 1:
        return value
    value = value.detach().clone().to(torch.float64)
    dist.all_reduce(value)
    return value / world_size()


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether it holds in any process: all must leave the loop at the same step."""
    if world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def gathered(value: Any) -> list[Any]:
    """Everybody's value, in the order of their ranks, in every process."""
    if world_size() == 1:
        return [value]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, value)
    return out


@torch.no_grad()
def from_first(module: torch.nn.Module) -> None:
    """Give every process rank 0's parameters and buffers."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)
