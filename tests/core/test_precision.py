"""The shipped network in half precision and in 8 bits: which nodes change, and that people stay where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
data = pytest.importorskip("skimage.data")

from kdc_core.backends.base import load_backend  # noqa: E402
from kdc_core.parity import LIMITS, comparable_pipeline, compare  # noqa: E402
from kdc_core.precision.graph import last_convolutions, network_nodes  # noqa: E402
from kdc_core.precision.half import half_file  # noqa: E402
from kdc_core.precision.int8 import int8_file  # noqa: E402


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    photo = np.ascontiguousarray(data.astronaut())
    return [photo, np.hstack([photo, photo[:, ::-1]])]


def test_decoding_is_no_part_of_the_network(shipped_model: Path) -> None:
    model = onnx.load(str(shipped_model))
    network = network_nodes(model)
    kinds = {n.op_type for n in model.graph.node if n.name in network}
    assert {"Conv", "Relu", "Clip", "Resize"} <= kinds
    assert not kinds & {"Sigmoid", "TopK", "MaxPool", "GatherElements", "Exp"}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert sum(n.name in network for n in convolutions) == len(convolutions) - 1, "all but the smoothing"
    assert len(last_convolutions(model)) == 4, "a coarse and a fine one for poses and for masks"


def test_half_precision_keeps_the_people(shipped_model: Path, tmp_path: Path, photos: list[np.ndarray]) -> None:
    twin = half_file(shipped_model, tmp_path / "half.onnx")
    assert twin.stat().st_size < 0.6 * shipped_model.stat().st_size
    model = onnx.load(str(twin))
    kinds = {w.name: w.data_type for w in model.graph.initializer}
    halves = [n for n in model.graph.node if n.op_type == "Conv" and kinds[n.input[1]] == onnx.TensorProto.FLOAT16]
    assert len(halves) == 74
    reference, backend = load_backend(shipped_model, "onnxruntime"), load_backend(twin, "onnxruntime")
    assert backend.spec == reference.spec
    parity = compare(comparable_pipeline(reference), comparable_pipeline(backend), photos)
    assert parity.people >= 3
    assert parity.failures(LIMITS["fp16"]) == []


def test_eight_bits_as_tensorrt_takes_them(shipped_model: Path, tmp_path: Path, photos: list[np.ndarray]) -> None:
    small = np.ascontiguousarray(photos[0][40:168, 150:278])
    twin = tmp_path / "int8.onnx"
    assert int8_file(shipped_model, twin, [np.roll(small, shift, axis=1) for shift in range(0, 80, 10)]) == 8
    model = onnx.load(str(twin))
    made = {o: n for n in model.graph.node for o in n.output}
    quantised = [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in made]
    assert len(quantised) == 70, "all but those that give fields, and the smoothing"
    assert all(n.input[2] not in made for n in quantised if len(n.input) > 2), "biases in float"
    zeros = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert pairs and not any(zeros[n.input[2]].any() for n in pairs), "symmetric: around 0"
    reference, backend = load_backend(shipped_model, "onnxruntime"), load_backend(twin, "onnxruntime")
    assert backend.spec == reference.spec
    parity = compare(comparable_pipeline(reference), comparable_pipeline(backend), photos[:1])
    assert parity.people == 1 and parity.missed == 0 and parity.oks > 0.7


def test_too_few_pictures_are_no_calibration(shipped_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 8 pictures, got 1"):
        int8_file(shipped_model, tmp_path / "int8.onnx", [np.zeros((64, 64, 3), np.uint8)])
    assert not list(tmp_path.iterdir())
