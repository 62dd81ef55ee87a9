"""A made MoveNet SinglePose: a small graph model whose answers are known."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

INPUT_PX = 128
# Where in its cell each keypoint is: y, x.
OFFSET = (0.25, 0.75)


def write_single_pose(folder: Path, name: str = "pose.json") -> Path:
    """The nose is the red spot of a crop, the shoulders the green, all other keypoints the blue.

    The trunk averages 4 x 4 pixels, through each kind of node that the published graphs have; keypoints are expected
    in the crop's middle.
    """
    nodes: list[dict[str, Any]] = []
    weights: list[tuple[str, np.ndarray]] = []

    def conv(
        name: str, source: str, kernel: np.ndarray, bias: np.ndarray | None = None, stride: int = 1, relu: str = "",
        depthwise: bool = False,
    ) -> str:  # fmt: skip
        inputs = [source, f"{name}/weights"]
        weights.append((f"{name}/weights", kernel))
        fused = []
        if bias is not None:
            inputs.append(f"{name}/bias")
            weights.append((f"{name}/bias", bias))
            fused = [word for word in ("BiasAdd", relu) if word]
        op = "_FusedConv2D"
        if depthwise:
            op = "FusedDepthwiseConv2dNative" if fused else "DepthwiseConv2dNative"
        coded = [base64.b64encode(word.encode()).decode() for word in fused]
        attributes = {
            "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
            "fused_ops": {"list": {"s": coded}},
        }
        nodes.append({"name": name, "op": op, "input": inputs, "attr": attributes})
        return name

    def heads(name: str, source: str, kernel: np.ndarray, bias: np.ndarray) -> None:
        conv(f"{name}/conv2d/BiasAdd", source, kernel, bias)

    average = np.zeros((3, 3, 3, 3))
    average[:2, :2] = np.eye(3) / 4
    plain = np.zeros((3, 3, 3, 1))
    plain[1, 1] = 1
    halves = conv("trunk/half", "sub_1", average, np.zeros(3), stride=2, relu="Relu6")
    quarters = conv("trunk/quarter", halves, average, np.zeros(3), stride=2, relu="Relu")
    nothing = conv("trunk/eighth", quarters, np.zeros((3, 3, 3, 3)), np.zeros(3), stride=2)
    nodes.append({"name": "trunk/up", "op": "ResizeBilinear", "input": [nothing, "size"], "attr": {}})
    nodes.append({"name": "trunk/sum", "op": "AddV2", "input": ["trunk/up", quarters], "attr": {}})
    nodes.append({"name": "not/of/the/picture", "op": "AddV2", "input": ["a", "b"], "attr": {}})
    features = conv("trunk/out", "trunk/sum", plain, depthwise=True)
    features = conv("trunk/relu", features, plain, np.zeros(3), relu="Relu6", depthwise=True)
    colour = np.zeros((1, 1, 3, 17))
    for keypoint in range(17):
        colour[0, 0, 0 if keypoint == 0 else 1 if keypoint in (5, 6) else 2, keypoint] = 12
    heads("center_0", features, np.zeros((1, 1, 3, 1)), np.zeros(1))
    heads("kpt_heatmap_0", features, colour, np.full(17, -6.0))
    heads("kpt_regress_0", features, np.zeros((1, 1, 3, 34)), np.zeros(34))
    heads("kpt_offset_0", features, np.zeros((1, 1, 3, 34)), np.tile(OFFSET, 17))
    nodes.append({"name": "Sigmoid", "op": "Sigmoid", "input": ["kpt_heatmap_0/conv2d/BiasAdd"], "attr": {}})
    shape = {"dim": [{"size": str(n)} for n in (1, INPUT_PX, INPUT_PX, 3)]}
    graph = {
        "format": "graph-model",
        "modelTopology": {"node": nodes},
        "signature": {"inputs": {"input:0": {"name": "input:0", "tensorShape": shape}}},
        "weightsManifest": [
            {
                "paths": [Path(name).with_suffix(".bin").name],
                "weights": [{"name": n, "shape": list(w.shape), "dtype": "float32"} for n, w in weights],
            }
        ],
    }
    path = folder / name
    path.write_text(json.dumps(graph))
    path.with_suffix(".bin").write_bytes(b"".join(w.astype(np.float32).tobytes() for _, w in weights))
    return path
