"""Weights of TensorFlow.js graph models: a .json file with the topology, a .bin file with the numbers."""

from __future__ import annotations

import json
import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def load_graph_weights(path: Path) -> dict[str, Tensor]:
    """Float weights of a graph model by their names in the graph, float32, in TensorFlow's axis order.

    The numbers are read from the files the .json names, or else from a .bin file of the same name beside it.
    Raises FileNotFoundError, or ValueError when the files are no such model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no pretrained weights at {path}")
    try:
        (group,) = json.loads(path.read_text())["weightsManifest"]
        files = [path.parent / name for name in group["paths"]]
        entries = [_entry(weight) for weight in group["weights"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a TensorFlow.js graph model: {error!r:.80}") from error
    if not files or not all(file.is_file() for file in files):
        files = [path.with_suffix(".bin")]
    if not files[0].is_file():
        raise FileNotFoundError(f"{path} needs its weights beside it: no {files[0].name}")
    data = b"".join(file.read_bytes() for file in files)
    weights: dict[str, Tensor] = {}
    at = 0
    for name, shape, kind, dtype, scale in entries:
        count = math.prod(shape)
        if at + count * kind.itemsize > len(data):
            raise ValueError(f"{files[-1]} ends within '{name}'")
        numbers = np.frombuffer(data, kind, count, at).reshape(shape).astype(np.float32)
        at += count * kind.itemsize
        if scale is not None:
            numbers = numbers * scale[0] + scale[1]
        if dtype == "float32":
            weights[name] = torch.from_numpy(numbers)
    if at != len(data):
        raise ValueError(f"{files[-1]} holds {len(data) - at} bytes more than {path.name} says")
    return weights


def _entry(
    weight: dict[str, Any],
) -> tuple[str, tuple[int, ...], np.dtype[Any], str, tuple[np.float32, np.float32] | None]:
    """Name, shape, stored type, meant type, and of quantized ones the factor and the least value of one weight.

    Raises ValueError, KeyError, TypeError.
    """
    quantization = weight.get("quantization", {})
    kind = np.dtype(quantization.get("dtype", weight["dtype"]))
    name, shape = weight["name"], tuple(operator.index(side) for side in weight["shape"])
    if not isinstance(name, str) or kind.kind not in "biuf" or any(side < 0 for side in shape):
        raise ValueError(f"no weight of numbers: '{name}', {kind}, {shape}")
    scale = None
    if "scale" in quantization:
        scale = np.float32(quantization["scale"]), np.float32(quantization["min"])
    return name, shape, kind, weight["dtype"], scale
