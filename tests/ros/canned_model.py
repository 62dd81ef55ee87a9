"""A tiny ONNX model that "finds" the same person in every image that is not dark.

It lets the real node run as a real process, with a known answer, and as slowly as a test wishes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.spec import METADATA_KEY, OUTPUT_NAMES, ModelSpec

INPUT_HW = (64, 64)
STRIDE = 4
DARK = 60.0  # a picture whose mean (with the letterbox's grey) is below has nobody in it
SCORE = 0.9

# A standing person in network pixels, in COCO's order.
KEYPOINTS_XY = np.array(
    [
        [32, 10], [34, 8], [30, 8], [36, 10], [28, 10], [40, 20], [24, 20], [44, 30], [20, 30],
        [45, 38], [19, 38], [37, 38], [27, 38], [37, 48], [27, 48], [37, 58], [27, 58],
    ],
    np.float32,
)  # fmt: skip


def write_canned_model(path: Path, busy_work: int = 0, load_work: int = 0) -> Path:
    """Write the model to `path`.

    busy_work: size n of an n x n matrix product that the graph does besides, to be slow (1500: 30 to a few 100 ms).
    load_work: the same with constants, which the runtime works out while it loads the model.
    """
    people = np.zeros((NUM_KEYPOINTS, 2, NUM_KEYPOINTS, 3), np.float32)
    people[:, 0, :, :2] = KEYPOINTS_XY
    people[:, 0, :, 2] = SCORE
    cells = (INPUT_HW[0] // STRIDE, INPUT_HW[1] // STRIDE)
    person = np.zeros(cells, np.float32)
    person[2:15, 5:11] = 1.0
    # Every cell points at the person's middle.
    y, x = np.mgrid[: cells[0], : cells[1]].astype(np.float32) * STRIDE + (STRIDE - 1) / 2
    embedding = np.stack([32 - x, 34 - y])
    constants = {
        "people": people,
        "person": person,
        "embedding": embedding,
        "sigma": np.full(cells, 10, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "dark"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["factor"], to=TensorProto.FLOAT),
    ]
    weights = [numpy_helper.from_array(np.array(DARK, np.float32), "dark")]
    factor = "factor"
    if busy_work:
        shape = np.array([busy_work, busy_work], np.int64)
        weights.append(numpy_helper.from_array(shape, "shape"))
        weights.append(numpy_helper.from_array(np.array(0.0, np.float32), "zero"))
        nodes += [
            helper.make_node("Expand", ["factor", "shape"], ["matrix"]),
            helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
            helper.make_node("ReduceMean", ["product"], ["effort"], keepdims=0),
            helper.make_node("Mul", ["effort", "zero"], ["nothing"]),
            helper.make_node("Add", ["factor", "nothing"], ["slow_factor"]),
        ]
        factor = "slow_factor"
    if load_work:
        weights.append(numpy_helper.from_array(np.array([load_work, load_work], np.int64), "load_shape"))
        weights.append(numpy_helper.from_array(np.array(0.0, np.float32), "load_zero"))
        nodes += [
            helper.make_node("Expand", ["load_zero", "load_shape"], ["load_matrix"]),
            helper.make_node("MatMul", ["load_matrix", "load_matrix"], ["load_product"]),
            helper.make_node("ReduceMean", ["load_product"], ["load_effort"], keepdims=0),
            helper.make_node("Add", [factor, "load_effort"], ["late_factor"]),
        ]
        factor = "late_factor"
    outputs = []
    for name in OUTPUT_NAMES:
        weights.append(numpy_helper.from_array(constants[name], f"{name}_constant"))
        nodes.append(helper.make_node("Mul", [f"{name}_constant", factor], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, constants[name].shape))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [*INPUT_HW, 3])
    graph = helper.make_graph(nodes, "canned", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = ModelSpec(input_hw=INPUT_HW, dynamic_input=False, stride=STRIDE, num_candidates=2)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
