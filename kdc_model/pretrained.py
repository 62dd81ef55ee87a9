"""Pretrained weights: which file, into which part of the network.

`.npz` files are numpy archives (no pickle). MobileNetV1 files of the BodyPix / PoseNet family also start the
coarse heads; torchvision's state dicts (`.pth`, loaded with `weights_only`) and `.npz` files in its names
start the trunks of MobileNetV2 and ResNet; MoveNet MultiPose's graph model (`.json`, TensorFlow.js) starts
trunk and pyramid. A file that `kdc export` wrote (`.onnx`) and a checkpoint of `kdc train` (`.pt`: its averaged
network) start the whole network. The slim form of MoveNet's trunk starts from the wide one (`kdc_model.slim`).
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdc_core.skeleton import DIRECTED_EDGES, KEYPOINT_INDEX, NUM_DIRECTED_EDGES, NUM_KEYPOINTS
from kdc_model.checkpoint import load_checkpoint
from kdc_model.from_onnx import load_exported
from kdc_model.network import KDCNet, MoveNetPyramid
from kdc_model.slim import Batches, slim_trunk
from kdc_model.tfjs import load_graph_weights
from kdc_model.trunks.mobilenet_v1 import MobileNetV1, load_published
from kdc_model.trunks.movenet import MoveNetTrunk

logger = logging.getLogger(__name__)

# The order of the published displacement head's edges (backbones' README).
_PUBLISHED_EDGES = (
    (0, 1), (1, 3), (0, 2), (2, 4), (0, 5), (5, 7), (7, 9), (5, 11),
    (11, 13), (13, 15), (0, 6), (6, 8), (8, 10), (6, 12), (12, 14), (14, 16),
)  # fmt: skip
# Published cell i at stride 16 is centred on pixel 16 i; with our padding on 16 i + 10, and the half-pixel
# rule says 16 i + 7.5: an offset read there is too short by the difference.
_GRID_SHIFT_PX = 2.5
# Torso joints whose mean is the first guess of a person's centre in the embedding.
_TORSO = tuple(KEYPOINT_INDEX[n] for n in ("left_shoulder", "right_shoulder", "left_hip", "right_hip"))

# Our names of a block's convolutions, and MoveNet's graph's.
_MOVENET_BLOCK = (("expand", "expand/Conv2D"), ("dw", "depthwise/depthwise"), ("project", "project/Conv2D"))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a weights file, float32. Raises FileNotFoundError, or ValueError when it is not such a file."""
    if not path.is_file():
        raise FileNotFoundError(f"no pretrained weights at {path}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: torch.from_numpy(archive[name].astype(np.float32)) for name in archive.files}
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (
        ValueError, OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise ValueError(f"{path} is not a readable weights file: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"{path} is not a state dict: expected a mapping of names to tensors")
    return weights


def initialise(network: KDCNet, path: Path, batches: Batches | None = None) -> None:
    """Start a network from a pretrained file, as far as the file goes.

    batches: images as the network takes them, float32 (B, 3, H, W), the same at each call; the slim trunk needs some
    where the file has the wide one.

    Raises ValueError when the trunk misfits.
    """
    trunk = network.trunk
    if isinstance(trunk, MoveNetTrunk) and trunk.slim and (wide := _wide_network(network, path)):
        if batches is None:
            raise ValueError(f"{path} has the wide trunk: pictures are needed to choose the slim one's channels")
        initialise(wide, path)
        _slim(network, wide, batches)
        return
    if path.suffix == ".onnx":
        load_exported(network, path)
        return
    if path.suffix == ".pt":
        _load_checkpoint(network, path)
        return
    if path.suffix == ".json":
        if not isinstance(trunk, MoveNetTrunk):
            raise ValueError(f"{path} is MoveNet's: it starts the trunk movenet, not {network.config.trunk}")
        _load_movenet(network, load_graph_weights(path))
        return
    weights = load_weights(path)
    if isinstance(trunk, MobileNetV1):
        load_published(trunk, weights)
        if "head_heatmap.weight" in weights:
            _load_published_heads(network, weights)
        return
    own = trunk.state_dict()
    usable = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    missing = [k for k in own if k not in usable and not k.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{path} does not fit {network.config.trunk}: it lacks {missing[:3]} (of {len(missing)})"
        )
    trunk.load_state_dict(usable, strict=False)


def _wide_network(network: KDCNet, path: Path) -> KDCNet | None:
    """A network for what the file has, where that is the wide trunk's."""
    if path.suffix == ".json" or (path.suffix == ".pt" and load_checkpoint(path)["config"].get("trunk") == "movenet"):
        return KDCNet(dataclasses.replace(network.config, trunk="movenet"))
    return None


def _slim(network: KDCNet, wide: KDCNet, batches: Batches) -> None:
    """Everything of the wide network, but its trunk's first blocks narrowed."""
    for (name, target), (_, source) in zip(network.named_children(), wide.named_children()):
        if name != "trunk":
            target.load_state_dict(source.state_dict())
    assert isinstance(wide.trunk, MoveNetTrunk) and isinstance(network.trunk, MoveNetTrunk)
    slim_trunk(wide.trunk, network.trunk, lambda: ((i.cpu() - wide.mean) / wide.std for i in batches()))


def _load_checkpoint(network: KDCNet, path: Path) -> None:
    average = load_checkpoint(path)["average"]
    own = network.state_dict()
    misfits = sorted(k for k in own.keys() | average.keys() if k not in own or k not in average
                     or own[k].shape != average[k].shape)  # fmt: skip
    if misfits:
        raise ValueError(f"{path} is of another network: {misfits[:3]} (of {len(misfits)}) do not fit")
    network.load_state_dict(average)


def _load_published_heads(network: KDCNet, weights: dict[str, Tensor]) -> None:
    """Copy the heads of BodyPix / PoseNet into the coarse ones; their long offsets start the embedding."""
    half = len(_PUBLISHED_EDGES)
    with torch.no_grad():
        pose, seg = network.pose.coarse, network.seg.coarse
        for part in ("weight", "bias"):
            target = getattr(pose, part)
            target[:NUM_KEYPOINTS] = weights[f"head_heatmap.{part}"]
            short = weights[f"head_short.{part}"]
            middle = weights[f"head_mid.{part}"]
            for k in range(NUM_KEYPOINTS):
                at = NUM_KEYPOINTS + 2 * k
                target[at], target[at + 1] = short[NUM_KEYPOINTS + k], short[k]
            for e in range(NUM_DIRECTED_EDGES):
                a, b = DIRECTED_EDGES[e]
                forward = (a, b) in _PUBLISHED_EDGES
                index = _PUBLISHED_EDGES.index((a, b) if forward else (b, a)) + (0 if forward else 2 * half)
                at = 3 * NUM_KEYPOINTS + 2 * e
                target[at], target[at + 1] = middle[index + half], middle[index]
        assert pose.bias is not None and seg.bias is not None
        pose.bias[NUM_KEYPOINTS:] += _GRID_SHIFT_PX
        if "head_person.weight" not in weights:
            logger.info("no person head in the weights (PoseNet): SegNet starts from scratch")
            return
        for part in ("weight", "bias"):
            target = getattr(seg, part)
            target[0] = weights[f"head_person.{part}"][0]
            long = weights[f"head_long.{part}"]
            to_xy = torch.stack([long[NUM_KEYPOINTS:], long[:NUM_KEYPOINTS]], dim=1)
            if network.config.mask_mode == "bank":
                target[1:-1] = to_xy.flatten(0, 1)
            else:
                target[1:-1] = to_xy[list(_TORSO)].mean(0)
        seg.bias[1:-1] += _GRID_SHIFT_PX


def _load_movenet(network: KDCNet, weights: dict[str, Tensor]) -> None:
    """MoveNet MultiPose's trunk and pyramid; the pyramid's further channels add nothing to the published ones.

    What it computes in the published channels is what the published graph computes. Raises ValueError naming
    the first weight that is missing or does not fit.
    """
    by_end = {name.partition("feature_extractor/model_1/")[2]: value for name, value in weights.items()}

    def take(name: str, target: Tensor) -> None:
        """Into the target's first channels, from (kh, kw, in, out) or, depthwise, (kh, kw, channels, 1)."""
        if name not in by_end:
            raise ValueError(f"the graph model has no '{name}': is it MoveNet MultiPose?")
        value = by_end[name]
        if value.ndim == 4:
            depthwise = target.shape[1] == 1 and value.shape[3] == 1 and value.shape[2] > 1
            value = value.permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        if value.ndim != target.ndim or any(a > b for a, b in zip(value.shape, target.shape)):
            raise ValueError(f"'{name}' is {tuple(value.shape)}, the network has room for {tuple(target.shape)}")
        if value.ndim == 4:
            # Published channels do not look at the others, which start at random, as strong as these.
            ours = target[len(value) :]
            ours *= value.flatten(1).norm(dim=1).mean() / ours.flatten(1).norm(dim=1, keepdim=True)[..., None, None]
            target[: len(value), value.shape[1] :] = 0.0
            target[: len(value), : value.shape[1]] = value
        else:
            target[: len(value)] = value
            target[len(value) :] = 0.0

    def take_conv(conv: nn.Conv2d, weight: str, bias: str) -> None:
        assert conv.bias is not None
        take(weight, conv.weight)
        take(bias, conv.bias)

    trunk, pyramid = network.trunk, network.pyramid
    assert isinstance(trunk, MoveNetTrunk) and isinstance(pyramid, MoveNetPyramid)
    with torch.no_grad():
        take_conv(trunk.conv0, "model/Conv1/Conv2D_weights", "model/Conv1/Conv2D_bn_offset")
        for number, block in enumerate(trunk.stages()[1:-1]):
            prefix = f"model/block_{number}_" if number else "model/expanded_conv_"
            for part, name in _MOVENET_BLOCK:
                conv = getattr(block, part)
                if conv is not None:
                    take_conv(conv, f"{prefix}{name}_weights", f"{prefix}{name}_bn_offset")
        take_conv(trunk.last, "model/Conv_1/Conv2D_weights", "model/Conv_1/Conv2D_bn_offset")
        for level, lateral in enumerate(pyramid.lateral):
            name = f"conv2d_{level}" if level else "conv2d"
            assert isinstance(lateral, nn.Conv2d)
            take_conv(lateral, f"{name}/Conv2D/ReadVariableOp", f"{name}/BiasAdd/ReadVariableOp")
        for level, smooth in enumerate(pyramid.smooth):
            assert isinstance(smooth, nn.Sequential)
            depthwise, pointwise, norm = smooth
            assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
            name = f"separable_conv2d_{level}" if level else "separable_conv2d"
            take(f"{name}/separable_conv2d/ReadVariableOp", depthwise.weight)
            take(f"{name}/separable_conv2d_weights", pointwise.weight)
            norm.reset_parameters()
            norm.running_var.fill_(1.0 - norm.eps)
            take(f"{name}/separable_conv2d_bn_offset", norm.bias)
