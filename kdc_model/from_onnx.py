"""Start a network from a file that `kdc export` wrote: what users have to fine-tune is the ONNX file.

Exporting folds every batch norm into the convolution before it. Here the convolution takes the folded weights and
its norm becomes the identity plus the folded bias; `unfold_norms` then gives the norms the statistics of real
pictures, without changing what the network computes, so that training may go on with batch statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from kdc_model.network import KDCNet

_PREFIX = "network."


def load_exported(network: KDCNet, path: Path) -> None:
    """Copy the weights of an exported model into a network of the same shape; changes it in place.

    Raises FileNotFoundError, or ValueError when the file is no exported model or of another shape.
    """
    weights = _initialisers(path)
    norms = _norm_after(network)
    used: set[str] = set()

    def take(name: str, shape: torch.Size) -> Tensor:
        if name not in weights:
            raise ValueError(f"{path} was not exported from a network of this shape: it lacks '{name}'")
        if weights[name].shape != shape:
            raise ValueError(
                f"{path}: '{name}' has shape {tuple(weights[name].shape)}, the network needs {tuple(shape)}"
            )
        used.add(name)
        return weights[name]

    with torch.no_grad():
        for name, module in network.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            module.weight.copy_(take(f"{name}.weight", module.weight.shape))
            norm = norms.get(name)
            if module.bias is not None:
                module.bias.copy_(take(f"{name}.bias", module.bias.shape))
            elif norm is not None:
                norm.reset_parameters()
                norm.running_var.fill_(1.0 - norm.eps)  # type: ignore[union-attr]
                norm.bias.copy_(take(f"{name}.weight_bias", norm.bias.shape))
    left = [name for name in weights if name.endswith((".weight", ".bias", ".weight_bias")) and name not in used]
    if left:
        raise ValueError(f"{path} holds more than this network: {', '.join(sorted(left)[:3])} (of {len(left)})")


@torch.no_grad()
def unfold_norms(network: KDCNet, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the mean and variance of its input over batches of images (B, 3, H, W).

    Weight and bias change along, so that the network in evaluation mode computes what it did. In place.
    """
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {}

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        x = inputs[0].double()
        parts = [
            torch.tensor(x.numel() / x.shape[1], device=x.device), x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))
        ]  # fmt: skip
        sums[norm] = [a + b for a, b in zip(sums[norm], parts)] if norm in sums else parts

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    training = network.training
    network.eval()
    try:
        for images in batches:
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        variance = (squares / count - mean * mean).clamp(min=1e-8)
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        shift = norm.bias.double() - gain * norm.running_mean.double()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(gain * torch.sqrt(variance + norm.eps))
        norm.bias.copy_(shift + gain * mean)


def _initialisers(path: Path) -> dict[str, Tensor]:
    """The network's own weights in an exported file, by their names in the network."""
    if not path.is_file():
        raise FileNotFoundError(f"no pretrained weights at {path}")
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf raises its own kinds
        raise ValueError(f"{path} is not a readable ONNX file: {error}") from error
    return {
        item.name.removeprefix(_PREFIX): torch.from_numpy(numpy_helper.to_array(item).copy())
        for item in graph.initializer
        if item.name.startswith(_PREFIX)
    }


def _norm_after(network: KDCNet) -> dict[str, nn.BatchNorm2d]:
    """Name of each convolution followed by a batch norm in the same sequence -> that norm."""
    found = {}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        children = list(module.named_children())
        for (first, conv), (_, norm) in zip(children, children[1:]):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                found[f"{name}.{first}" if name else first] = norm
    return found
