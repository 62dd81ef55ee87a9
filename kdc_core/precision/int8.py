"""The network of a graph in 8-bit integers, calibrated on real pictures: explicit quantisation (QuantizeLinear pairs).

The convolutions that give the fields stay in float, and so does all decoding: a field's values span hundreds of
pixels, which 256 levels cannot tell apart.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdc_core.precision.graph import last_convolutions, network_nodes

logger = logging.getLogger(__name__)

RECIPES = ("tensorrt", "cpu")
LEAST_PICTURES = 8


def int8_file(model: Path, out: Path, pictures: Iterable[np.ndarray], recipe: str) -> int:
    """Write the 8-bit twin of a model file. Returns how many pictures it was calibrated on.

    pictures: letterboxed network inputs, uint8 RGB (H', W', 3), such as the camera will give.
    recipe:   "tensorrt": signed activations around 0, float biases, as its parser demands;
              "cpu": unsigned activations and 7-bit weights, which AVX2's 16-bit sums hold without overflow.
    Weights have a scale for each output channel in both. Raises ValueError for too few pictures or another recipe.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe '{recipe}': choose one of {', '.join(RECIPES)}")
    import onnx

    graph = onnx.load(str(model))
    network = network_nodes(graph)
    left_in_float = [n.name for n in graph.graph.node if n.name not in network] + last_convolutions(graph)
    signed = recipe == "tensorrt"
    frames = _Frames(pictures)
    with tempfile.TemporaryDirectory(prefix="kdc_int8_") as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(out),
            frames,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=not signed,
            per_channel=True,
            op_types_to_quantize=["Conv", "Add", "Resize", "Relu", "Clip"],
            nodes_to_exclude=left_in_float,
            calibrate_method=CalibrationMethod.MinMax,
            # The mean of each picture's range: one odd picture must not stretch it for all.
            extra_options={"CalibMovingAverage": True, "ActivationSymmetric": signed, "QuantizeBias": not signed},
        )
    if frames.count < LEAST_PICTURES:
        out.unlink(missing_ok=True)
        raise ValueError(f"calibration needs at least {LEAST_PICTURES} pictures, got {frames.count}")
    return frames.count


class _Frames:
    """Pictures as ONNX Runtime's calibration reads them."""

    def __init__(self, pictures: Iterable[np.ndarray]) -> None:
        self._pictures: Iterator[np.ndarray] = iter(pictures)
        self.count = 0

    def get_next(self) -> dict[str, Any] | None:
        """The next input, or None after the last."""
        picture = next(self._pictures, None)
        if picture is None:
            return None
        self.count += 1
        return {"image": picture}
