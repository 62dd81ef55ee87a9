"""MoveNet SinglePose (Lightning, Thunder): the keypoints of one person in the middle of a crop.

A second opinion on people whom our own network sees (`kdc_model.teacher.agreed_poses`): another trunk, another head,
other training data, and the person enlarged.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdc_core.skeleton import FLIP_INDEX, NUM_KEYPOINTS
from kdc_model.tfjs import load_graph_weights
from kdc_model.train import computes_bfloat16

# Side of the crop over the box's longer side; each also mirrored. The keypoints are the median of them all.
_CROPS = (1.2, 1.5)
_TOGETHER = 8
_HEADS = ("center", "kpt_heatmap", "kpt_regress", "kpt_offset")
_CHANCES = ("center", "kpt_heatmap")
# Of two people in a crop it is the one nearer to the middle: centres count less by their distance from there (in
# cells, beyond this share of the side), keypoints by theirs from where the centre expects them, as published.
_MIDDLE, _EXPECTED = 0.3, 1.8
_RELUS: dict[str, Callable[[Tensor], Tensor]] = {"Relu": F.relu, "Relu6": F.relu6}
_Step = tuple[str, Callable[[dict[str, Tensor]], Tensor]]


class SinglePose:
    """The published network, run node by node; no gradients."""

    def __init__(self, input_px: int, steps: list[_Step], source: str, heads: dict[str, str]) -> None:
        self.input_px = input_px
        self._steps, self._source, self._heads = steps, source, heads

    @classmethod
    def load(cls, path: Path) -> SinglePose:
        """A TensorFlow.js graph model: `path`, a .json, with its .bin beside it.

        Raises FileNotFoundError, or ValueError when the files are no MoveNet SinglePose.
        """
        weights = load_graph_weights(path)
        graph = json.loads(path.read_text())
        try:
            nodes = graph["modelTopology"]["node"]
            (given,) = graph["signature"]["inputs"].values()
            input_px = int(given["tensorShape"]["dim"][1]["size"])
            convolutions = [n for n in nodes if "Conv2" in n["op"] or "Conv2d" in n["op"]]
            source = convolutions[0]["input"][0]
            steps = _steps(nodes, weights, source)
            heads = {
                head: next(n["name"] for n in reversed(convolutions) if f"/{head}_0/" in f"/{n['name']}")
                for head in _HEADS
            }
        except (LookupError, TypeError, StopIteration, RuntimeError) as error:
            raise ValueError(f"{path} is no MoveNet SinglePose: {error!r}") from error
        return cls(input_px, steps, source, heads)

    @torch.inference_mode()
    def fields(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        """The four heads, float32 (B, channels, h, w) at stride 4, of RGB crops uint8 (B, side, side, 3).

        center (1 channel) and kpt_heatmap (K) are chances, 0..1; kpt_regress and kpt_offset (2 K: y, x of each
        keypoint) are in cells.
        """
        x = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
        values = {self._source: x.contiguous(memory_format=torch.channels_last)}
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16(torch.device("cpu"))):
            for name, step in self._steps:
                values[name] = step(values)
        out = {head: values[name].float() for head, name in self._heads.items()}
        return {head: (field.sigmoid() if head in _CHANCES else field).numpy() for head, field in out.items()}

    def poses(self, image: np.ndarray, boxes_xywh: Sequence[Sequence[float]]) -> np.ndarray:
        """Keypoints float32 (N, K, 3) of the people in N boxes of an RGB picture uint8 (H, W, 3): x, y, score.

        x, y in the picture's pixels (a pixel's centre is an integer); boxes with edges at integers. The score is the
        heatmap's, 0..1, and low for what the network does not see.
        """
        views = [_Crop(image, box, scale, self.input_px) for box in boxes_xywh for scale in _CROPS]
        if not views:
            return np.zeros((0, NUM_KEYPOINTS, 3), np.float32)
        crops = np.stack([view.pixels for view in views])
        found = []
        for mirrored in (False, True):
            for at in range(0, len(crops), _TOGETHER):
                some = crops[at : at + _TOGETHER]
                points = single_poses(self.fields(some[:, :, ::-1] if mirrored else some))
                if mirrored:
                    points[..., 0] = 1 - points[..., 0]
                    points = points[:, FLIP_INDEX]
                found.append(points)
        seen = np.concatenate(found).reshape(2, len(boxes_xywh), len(_CROPS), NUM_KEYPOINTS, 3)
        places = np.array([(view.x, view.y, view.side) for view in views]).reshape(1, -1, len(_CROPS), 1, 3)
        xy = seen[..., :2] * places[..., 2:] + places[..., :2] - 0.5
        return np.concatenate([np.median(xy, axis=(0, 2)), seen[..., 2:].mean(axis=(0, 2))], -1).astype(np.float32)


class _Crop:
    """A square around a box: its left upper corner and side in the picture's pixels, edges at integers."""

    def __init__(self, image: np.ndarray, box_xywh: Sequence[float], scale: float, pixels: int) -> None:
        left, top, width, height = box_xywh
        self.side = max(width, height, 1.0) * scale
        self.x, self.y = left + (width - self.side) / 2, top + (height - self.side) / 2
        zoom = pixels / self.side
        first = min(1.0, 2 * zoom)
        if first < 1:  # bilinear samples would skip pixels
            image = cv2.resize(image, None, fx=first, fy=first, interpolation=cv2.INTER_AREA)
        rest = zoom / first
        matrix = np.array([
            [rest, 0, rest * (0.5 - self.x * first) - 0.5],
            [0, rest, rest * (0.5 - self.y * first) - 0.5],
        ])  # fmt: skip
        self.pixels = cv2.warpAffine(image, matrix, (pixels, pixels), flags=cv2.INTER_LINEAR)


def single_poses(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Keypoints float64 (B, K, 3) from the heads of B crops (see `SinglePose.fields`).

    x and y are parts of the crop, 0..1 from its left upper corner; the score is the heatmap's.
    """
    heatmap, centre = fields["kpt_heatmap"], fields["center"][:, 0]
    count, _, height, width = heatmap.shape
    rows, columns = np.mgrid[:height, :width]
    away = np.hypot(rows - height / 2, columns - width / 2) + _MIDDLE * width
    at = (centre / away).reshape(count, -1).argmax(1)
    of = np.arange(count)
    expected = fields["kpt_regress"].reshape(count, NUM_KEYPOINTS, 2, -1)[of, :, :, at]
    expected = expected + np.stack([at // width, at % width], -1)[:, None]
    distance = np.hypot(rows - expected[..., 0, None, None], columns - expected[..., 1, None, None]) + _EXPECTED
    best = (heatmap / distance).reshape(count, NUM_KEYPOINTS, -1).argmax(-1)
    b, k = np.ogrid[:count, :NUM_KEYPOINTS]
    offset = fields["kpt_offset"].reshape(count, NUM_KEYPOINTS, 2, -1)[b, k, :, best]
    x, y = (best % width + offset[..., 1]) / width, (best // width + offset[..., 0]) / height
    return np.stack([x, y, heatmap.reshape(count, NUM_KEYPOINTS, -1)[b, k, best]], -1).astype(np.float64)


def _steps(nodes: Sequence[dict[str, Any]], weights: dict[str, Tensor], source: str) -> list[_Step]:
    """What computes each node that depends on the picture by convolutions, sums and enlargements alone."""
    known = {source}
    steps: list[_Step] = []
    for node in nodes:
        name, op = node["name"], node["op"]
        inputs = [entry.split(":")[0] for entry in node.get("input", [])]
        step: Callable[[dict[str, Tensor]], Tensor]
        if "Conv2" in op and inputs[0] in known:
            step = _convolution(node, inputs, weights)
        elif op == "AddV2" and known.issuperset(inputs):
            step = _sum(*inputs)
        elif op == "ResizeBilinear" and inputs[0] in known:
            step = _doubled(inputs[0])
        else:
            continue
        known.add(name)
        steps.append((name, step))
    return steps


def _convolution(
    node: dict[str, Any], inputs: Sequence[str], weights: dict[str, Tensor]
) -> Callable[[dict[str, Tensor]], Tensor]:
    depthwise = "epthwise" in node["op"]
    kernel = weights[inputs[1]].permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)).contiguous()
    bias = weights[inputs[2]] if len(inputs) > 2 else None
    stride = int(node["attr"]["strides"]["list"]["i"][1])
    fused = [base64.b64decode(s).decode() for s in node["attr"].get("fused_ops", {}).get("list", {}).get("s", [])]
    relu = next((_RELUS[name] for name in fused if name in _RELUS), None)
    # TensorFlow's SAME, on even sizes.
    border = (0, 0, 0, 0) if kernel.shape[2] == 1 else (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)

    def step(values: dict[str, Tensor]) -> Tensor:
        x = F.pad(values[inputs[0]], border)
        y = F.conv2d(x, kernel, bias, stride, groups=x.shape[1] if depthwise else 1)
        return y if relu is None else relu(y)

    return step


def _sum(a: str, b: str) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda values: values[a] + values[b]


def _doubled(a: str) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda values: F.interpolate(values[a], scale_factor=2, mode="bilinear", align_corners=False)
