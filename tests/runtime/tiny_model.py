"""A small graph that looks like an exported network from outside: a uint8 picture in, the four outputs out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdc_core.spec import METADATA_KEY, ModelSpec

SPEC = ModelSpec(input_hw=(64, 96), num_candidates=4)


def write_tiny_model(path: Path, seed: int = 0, spec: ModelSpec = SPEC) -> Path:
    """Two convolutions at strides 2 and 4; person = sigmoid, the candidates' score depends on the whole picture."""
    rng = np.random.default_rng(seed)
    weights = {
        "first": rng.normal(0, 0.05, (8, 3, 3, 3)),
        "second": rng.normal(0, 0.05, (4, 8, 3, 3)),
        "scale": np.full((1, 1, 1, 1), 1 / 255.0),
        "joints": rng.uniform(0, 60, (17, 4, 17, 3)),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], perm=[2, 0, 1]),
        node("Unsqueeze", ["planes", "zero"], ["batch"]),
        node("Mul", ["batch", "scale"], ["scaled"]),
        node("Conv", ["scaled", "first"], ["half"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["half"], ["active"]),
        node("Conv", ["active", "second"], ["fields"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Squeeze", ["fields", "zero"], ["planes_out"]),
        node("Split", ["planes_out", "parts"], ["a", "embedding", "c"], axis=0),
        node("Squeeze", ["a", "zero"], ["logit"]),
        node("Sigmoid", ["logit"], ["person"]),
        node("Squeeze", ["c", "zero"], ["log_sigma"]),
        node("Exp", ["log_sigma"], ["sigma"]),
        node("ReduceMean", ["person"], ["mean"], keepdims=0),
        node("Mul", ["joints", "mean"], ["people"]),
    ]
    for index, made in enumerate(nodes):
        made.name = f"node_{index}"
    initialisers = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    initialisers.append(numpy_helper.from_array(np.array([0], np.int64), "zero"))
    initialisers.append(numpy_helper.from_array(np.array([1, 2, 1], np.int64), "parts"))
    sides = ["32*a", "32*b"] if spec.dynamic_input else list(spec.input_hw)
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [*sides, 3])
    shapes = {
        "people": [17, 4, 17, 3],
        "person": ["h", "w"],
        "embedding": [2, "h", "w"],
        "sigma": ["h", "w"],
    }
    outputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
    graph = helper.make_graph(nodes, "tiny", [image], outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def picture(height: int = 64, width: int = 96, seed: int = 1) -> np.ndarray:
    """Noise as a network input, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
