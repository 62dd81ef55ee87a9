"""Checkpoint -> ONNX file with the spec in its metadata, checked against torch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from kdc_core.backends.base import load_backend
from kdc_core.decode.candidates import Candidates, find_candidates
from kdc_core.fields import Fields
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.spec import METADATA_KEY, OUTPUT_NAMES, ModelSpec
from kdc_model.candidate_graph import ExportedKDC
from kdc_model.network import FieldTensors, KDCNet
from kdc_model.torch_backend import model_spec
from kdc_model.train import network_from_checkpoint

logger = logging.getLogger(__name__)

OPSET = 18
PARITY_SIZES_HW = ((256, 256), (224, 384), (384, 160))
PARITY_PX = 0.05
PARITY_SCORE = 1e-3
# Two peaks as high as each other may swap places in the last bit; more than this share of them would be a fault.
PARITY_TIES = 0.02


class ParityError(RuntimeError):
    """The exported file does not compute what the network does."""


def export_onnx(
    checkpoint: Path,
    out: Path,
    long_side: int | None = None,
    num_candidates: int = 32,
    provenance: dict[str, Any] | None = None,
) -> ModelSpec:
    """Export a checkpoint's averaged network and check it on square and non-square inputs.

    long_side: size the model is meant to be run at (default: the configuration's), network pixels.
    Raises ParityError; the file is only put in place when the check has passed.
    """
    network, config, step = network_from_checkpoint(checkpoint)
    origin = {"trunk": config.trunk, "step": step, **(provenance or {})}
    spec = model_spec(network, config, long_side, num_candidates, origin)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.stem + ".partial.onnx")
    try:
        write_onnx(network, spec, partial)
        check_parity(network, spec, partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return spec


def write_onnx(network: KDCNet, spec: ModelSpec, path: Path) -> None:
    """Write the graph, with any height and width in multiples of `spec.size_multiple`."""
    graph = ExportedKDC(network, spec.disk_radius_px, spec.num_candidates).eval()
    image = torch.zeros((8 * spec.size_multiple, 10 * spec.size_multiple, 3), dtype=torch.uint8)
    height, width = torch.export.Dim("height_units", min=1), torch.export.Dim("width_units", min=1)
    with torch.no_grad():
        torch.onnx.export(
            graph,
            (image,),
            str(path),
            input_names=["image"],
            output_names=list(OUTPUT_NAMES),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes={"image": {0: spec.size_multiple * height, 1: spec.size_multiple * width}},
            verbose=False,
        )
    model = onnx.load(str(path))
    model.producer_name = "kdc"
    _forget_where_it_was_made(model)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes on every node: stack traces with this machine's paths."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        del graph.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""


def check_parity(network: KDCNet, spec: ModelSpec, path: Path) -> None:
    """Compare the file in ONNX Runtime with torch's fields and the reference decoder. Raises ParityError."""
    backend = load_backend(path, "onnxruntime")
    rng = np.random.default_rng(0)
    for size in PARITY_SIZES_HW:
        # Smooth noise: a network sees structure, and its fields are far from ties.
        small = rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3)).astype(np.float32)
        image = np.kron(small, np.ones((16, 16, 1))).astype(np.uint8)
        outputs = backend.run(image)
        fields = torch_fields(network, image)
        expected = find_candidates(fields, spec.disk_radius_px, spec.num_candidates)
        _compare_candidates(outputs.candidates, expected, size)
        for name, got, wanted in (
            ("person", outputs.masks.person, fields.person),
            ("embedding", outputs.masks.embedding, fields.embedding),
            ("sigma", outputs.masks.sigma, fields.sigma),
        ):
            limit = 1e-3 * max(1.0, float(np.abs(wanted).max()))
            worst = float(np.abs(got - wanted).max())
            if worst > limit:
                raise ParityError(f"'{name}' differs by {worst:.2g} (limit {limit:.2g}) at {size}")
    logger.info("parity with torch holds at %s", PARITY_SIZES_HW)


@torch.no_grad()
def torch_fields(network: KDCNet, image: np.ndarray) -> Fields:
    """The network's fields of one letterboxed image, uint8 (H', W', 3), in torch."""
    device = next(network.parameters()).device
    tensor = torch.from_numpy(np.ascontiguousarray(image)).to(device)
    return to_fields(network(tensor.float().permute(2, 0, 1)[None]), network.config.stride)


def to_fields(fields: FieldTensors, stride: int, sample: int = 0) -> Fields:
    """One sample of a batch of field tensors, as numpy."""
    return Fields(
        heatmap=torch.sigmoid(fields.heatmap[sample]).cpu().numpy(),
        offset=fields.offset[sample].cpu().numpy(),
        displacement=fields.displacement[sample].cpu().numpy(),
        person=torch.sigmoid(fields.person[sample]).cpu().numpy(),
        embedding=fields.embedding[sample].cpu().numpy(),
        sigma=torch.exp(fields.log_sigma[sample]).cpu().numpy(),
        stride=stride,
    )


def _compare_candidates(got: Candidates, wanted: Candidates, size: tuple[int, int]) -> None:
    """Every clear candidate of the reference is in the graph's answer, whatever its rank. Raises ParityError."""
    clear, missed, example = 0, 0, ""
    for k in range(NUM_KEYPOINTS):
        for point in wanted.points[k][wanted.points[k, :, 2] > 0.01][:8]:
            same_place = np.abs(got.points[k, :, :2] - point[:2]).max(1) <= PARITY_PX
            same_score = np.abs(got.points[k, :, 2] - point[2]) <= PARITY_SCORE
            clear += 1
            if not (same_place & same_score).any():
                missed += 1
                example = f"keypoint {k} at {point[:2].round(2)} with score {point[2]:.3f}"
    if missed > PARITY_TIES * clear:
        raise ParityError(f"{missed} of {clear} candidates at {size} are not the reference's, among them {example}")
