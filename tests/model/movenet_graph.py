"""A made MoveNet MultiPose: a graph model of the published shapes with random weights, and what it computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PREFIX = "StatefulPartitionedCall/center_net_mobile_net_v2fpn_feature_extractor/model_1/"
# Output channels and stride of the blocks; all but the first expand six times.
BLOCKS = [(24, 1), (40, 2), (40, 1), (48, 2), (48, 1), (48, 1), (96, 2), (96, 1), (96, 1), (96, 1)]
BLOCKS += [(144, 1), (144, 1), (144, 1), (240, 2), (240, 1), (240, 1), (480, 1)]
# Channels of the pyramid's levels, from stride 32 to stride 4, and of what they are made from.
LEVELS, TAPS = [64, 32, 24, 24], {2: 40, 5: 48, 9: 96}
LATERALS = [(1280, 64), (96, 64), (48, 32), (40, 24)]


def made_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, (kh, kw, in, out) or, depthwise, (kh, kw, channels, 1), by the graph's names."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def conv(name: str, bias: str, kernel: int, channels_in: int, channels_out: int, depthwise: bool = False) -> None:
        shape = (kernel, kernel, channels_in, 1 if depthwise else channels_out)
        fan = kernel * kernel * (1 if depthwise else channels_in)
        weights[PREFIX + name] = rng.normal(0, fan**-0.5, shape)
        if bias:
            weights[PREFIX + bias] = rng.normal(0, 0.3, channels_out)

    conv("model/Conv1/Conv2D_weights", "model/Conv1/Conv2D_bn_offset", 3, 3, 48)
    channels = 48
    for number, (out, _) in enumerate(BLOCKS):
        name = f"model/block_{number}_" if number else "model/expanded_conv_"
        hidden = channels * (6 if number else 1)
        if number:
            conv(name + "expand/Conv2D_weights", name + "expand/Conv2D_bn_offset", 1, channels, hidden)
        depthwise = name + "depthwise/depthwise"
        conv(depthwise + "_weights", depthwise + "_bn_offset", 3, hidden, hidden, True)
        conv(name + "project/Conv2D_weights", name + "project/Conv2D_bn_offset", 1, hidden, out)
        channels = out
    conv("model/Conv_1/Conv2D_weights", "model/Conv_1/Conv2D_bn_offset", 1, 480, 1280)
    for level, (channels_in, out) in enumerate(LATERALS):
        name = f"conv2d_{level}" if level else "conv2d"
        conv(f"{name}/Conv2D/ReadVariableOp", f"{name}/BiasAdd/ReadVariableOp", 1, channels_in, out)
    for level, (channels_in, out) in enumerate(zip([64, 32, 24], LEVELS[1:])):
        name = f"separable_conv2d_{level}" if level else "separable_conv2d"
        conv(f"{name}/separable_conv2d/ReadVariableOp", "", 3, channels_in, channels_in, True)
        conv(f"{name}/separable_conv2d_weights", f"{name}/separable_conv2d_bn_offset", 1, channels_in, out)
    return {name: value.astype(np.float16) for name, value in weights.items()}


def write_graph(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    """The two files of a graph model; its weights stored in half precision, as the published ones are."""
    half = {"dtype": "float16", "original_dtype": "float32"}
    entries = [
        {"name": name, "shape": list(value.shape), "dtype": "float32", "quantization": half}
        for name, value in weights.items()
    ]
    manifest = [{"paths": ["group1-shard1of1.bin"], "weights": entries}]
    path = folder / "movenet.json"
    path.write_text(json.dumps({"format": "graph-model", "weightsManifest": manifest}))
    (folder / "movenet.bin").write_bytes(b"".join(value.tobytes() for value in weights.values()))
    return path


def published_pyramid(weights: dict[str, np.ndarray], x: Tensor) -> Tensor:
    """The graph's features at stride 4 (B, 24, H / 4, W / 4) of pictures in -1..1, operation by operation."""
    w = {name.removeprefix(PREFIX): torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}

    def conv(x: Tensor, weight: str, bias: str = "", stride: int = 1) -> Tensor:
        kernel = w[weight]
        depthwise = kernel.shape[:2] == (3, 3) and kernel.shape[3] == 1
        kernel = kernel.permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        if kernel.shape[2] == 3:  # TensorFlow's SAME, on even sizes
            x = F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        return F.conv2d(x, kernel, w[bias] if bias else None, stride, groups=x.shape[1] if depthwise else 1)

    x = F.relu6(conv(x, "model/Conv1/Conv2D_weights", "model/Conv1/Conv2D_bn_offset", 2))
    taps = []
    for number, (out, stride) in enumerate(BLOCKS):
        name = f"model/block_{number}_" if number else "model/expanded_conv_"
        y = x
        if number:
            y = F.relu6(conv(y, name + "expand/Conv2D_weights", name + "expand/Conv2D_bn_offset"))
        depthwise = name + "depthwise/depthwise"
        y = F.relu6(conv(y, depthwise + "_weights", depthwise + "_bn_offset", stride))
        y = conv(y, name + "project/Conv2D_weights", name + "project/Conv2D_bn_offset")
        x = x + y if stride == 1 and out == x.shape[1] else y
        if number in TAPS:
            taps.append(x)
    x = F.relu6(conv(x, "model/Conv_1/Conv2D_weights", "model/Conv_1/Conv2D_bn_offset"))
    x = conv(x, "conv2d/Conv2D/ReadVariableOp", "conv2d/BiasAdd/ReadVariableOp")
    for level, tap in enumerate(taps[::-1]):
        lateral = conv(tap, f"conv2d_{level + 1}/Conv2D/ReadVariableOp", f"conv2d_{level + 1}/BiasAdd/ReadVariableOp")
        x = lateral + F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        name = f"separable_conv2d_{level}" if level else "separable_conv2d"
        x = conv(x, f"{name}/separable_conv2d/ReadVariableOp")
        x = F.relu(conv(x, f"{name}/separable_conv2d_weights", f"{name}/separable_conv2d_bn_offset"))
    return x
