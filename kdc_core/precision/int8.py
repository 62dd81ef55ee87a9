"""The network of a graph in 8-bit integers, calibrated on real pictures: explicit quantisation (QuantizeLinear pairs).

The convolutions that give the fields stay in float, and so does all decoding: a field's values span hundreds of
pixels, which 256 levels cannot tell apart.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdc_core.precision.graph import last_convolutions, network_nodes

LEAST_PICTURES = 8


def int8_file(model: Path, out: Path, pictures: Iterable[np.ndarray]) -> int:
    """Write the 8-bit twin of a model file, in the form that TensorRT parses. Returns how many pictures calibrated it.

    pictures: letterboxed network inputs, uint8 RGB (H', W', 3), such as the camera will give.
    Activations are signed and symmetric, weights have a scale for each output channel, biases stay in float.
    Raises ValueError for fewer than LEAST_PICTURES.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    frames = _Frames(pictures)
    graph = onnx.load(str(model))
    network = network_nodes(graph)
    left_in_float = [n.name for n in graph.graph.node if n.name not in network] + last_convolutions(graph)
    with tempfile.TemporaryDirectory(prefix="kdc_int8_") as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(out),
            frames,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv", "Add", "Resize", "Relu", "Clip"],
            nodes_to_exclude=left_in_float,
            calibrate_method=CalibrationMethod.MinMax,
            # The mean of each picture's range: one odd picture must not stretch it for all.
            extra_options={"CalibMovingAverage": True, "ActivationSymmetric": True, "QuantizeBias": False},
        )
    return frames.count


class _Frames:
    """Pictures as ONNX Runtime's calibration reads them."""

    def __init__(self, pictures: Iterable[np.ndarray]) -> None:
        rest = iter(pictures)
        first = list(itertools.islice(rest, LEAST_PICTURES))
        if len(first) < LEAST_PICTURES:
            raise ValueError(f"calibration needs at least {LEAST_PICTURES} pictures, got {len(first)}")
        self._pictures: Iterator[np.ndarray] = itertools.chain(first, rest)
        self.count = 0

    def get_next(self) -> dict[str, Any] | None:
        """The next input, or None after the last."""
        picture = next(self._pictures, None)
        if picture is None:
            return None
        self.count += 1
        return {"image": picture}
