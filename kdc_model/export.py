"""Checkpoint -> ONNX file (and torch's exported program) with the spec inside, checked against torch."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from kdc_core.backends.base import Backend
from kdc_core.backends.onnx_runtime import OnnxRuntimeBackend
from kdc_core.backends.torch_program import SUFFIX, TorchProgramBackend
from kdc_core.decode.candidates import Candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.parity import LIMITS, ParityLimits, comparable_pipeline, compare
from kdc_core.pipeline import MOST_LONG_SIDE
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.spec import METADATA_KEY, OUTPUT_NAMES, ModelSpec, ModelSpecError
from kdc_model.candidate_graph import ExportedKDC
from kdc_model.checkpoint import mean_network
from kdc_model.data.scenes import make_scene
from kdc_model.network import KDCNet
from kdc_model.torch_backend import ReferenceBackend, model_spec

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
    checkpoint: Path | Sequence[Path],
    out: Path,
    long_side: int | None = None,
    num_candidates: int = 32,
    provenance: dict[str, Any] | None = None,
    *,
    fixed_hw: tuple[int, int] | None = None,
    torch_program: bool = False,
    pictures: Iterable[np.ndarray] | None = None,
    limits: ParityLimits = LIMITS["fp32"],
) -> ModelSpec:
    """Export a checkpoint's averaged network, or the mean of several, and check it on square and non-square inputs.

    long_side:     size the model is meant to be run at (default: the configuration's), network pixels.
    fixed_hw:      the one input size (height, width) that the model takes; None = any multiple of its step.
    torch_program: also write a .pt2 of the same name for the torch backend.
    pictures:      uint8 RGB (H, W, 3) of people; the people found by the file and by torch are compared too.
    Raises ParityError, and ModelSpecError for an impossible size; nothing is put in place unless all checks pass.
    """
    network, config, step = mean_network([checkpoint] if isinstance(checkpoint, Path) else checkpoint)
    origin = {"trunk": config.trunk, "step": step, "weights_sha256": _digest(network), **(provenance or {})}
    spec = model_spec(network, config, long_side, num_candidates, origin)
    if not spec.size_multiple <= max(spec.input_hw) <= MOST_LONG_SIDE:
        bounds = f"{spec.size_multiple} to {MOST_LONG_SIDE}"
        raise ModelSpecError(f"the long side must be {bounds} pixels, got {max(spec.input_hw)}")
    if fixed_hw is not None:
        spec = with_fixed_size(spec, fixed_hw)
    out.parent.mkdir(parents=True, exist_ok=True)
    finals = [out, out.with_suffix(SUFFIX)] if torch_program else [out]
    partials = [path.with_name(f"{out.stem}.partial{path.suffix}") for path in finals]
    try:
        write_onnx(network, spec, partials[0])
        backends: list[Backend] = [OnnxRuntimeBackend(partials[0])]
        if torch_program:
            write_program(network, spec, partials[1])
            backends.append(TorchProgramBackend(partials[1]))
        shown = list(pictures or ())
        for backend in backends:
            check_fields(network, backend)
            if shown:
                check_people(network, backend, shown, limits)
            backend.close()
        for partial, final in zip(partials, finals):
            partial.replace(final)
        if not torch_program:
            out.with_suffix(SUFFIX).unlink(missing_ok=True)  # of an earlier network
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    return spec


def _digest(network: KDCNet) -> str:
    """SHA-256 of the weights: tells the files of one export from those of another."""
    digest = hashlib.sha256()
    for name, values in network.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def with_fixed_size(spec: ModelSpec, input_hw: tuple[int, int]) -> ModelSpec:
    """The spec of a model that only takes one size. Raises ModelSpecError for one that the network cannot have."""
    multiple = spec.size_multiple
    if any(side < multiple or side % multiple for side in input_hw):
        raise ModelSpecError(f"{input_hw[0]}x{input_hw[1]}: both sides must be multiples of {multiple}")
    return dataclasses.replace(spec, input_hw=input_hw, dynamic_input=False)


def write_onnx(network: KDCNet, spec: ModelSpec, path: Path) -> None:
    """Write the graph, for any height and width in multiples of `spec.size_multiple`, or for the spec's one size."""
    graph, image, dynamic_shapes = _to_export(network, spec)
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
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    model = onnx.load(str(path))
    model.producer_name = "kdc"
    _forget_where_it_was_made(model)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_program(network: KDCNet, spec: ModelSpec, path: Path) -> None:
    """Write the same graph as torch's exported program (.pt2), with the spec inside."""
    graph, image, dynamic_shapes = _to_export(network, spec, product=False)
    with torch.no_grad():
        program = torch.export.export(graph, (image,), dynamic_shapes=dynamic_shapes)
    torch.export.save(program, path, extra_files={METADATA_KEY: spec.to_json()})


def _to_export(
    network: KDCNet, spec: ModelSpec, product: bool = True
) -> tuple[ExportedKDC, torch.Tensor, dict[str, Any] | None]:
    """The module (product: see `CandidateFinder`), an example input, and which of its sides are free."""
    graph = ExportedKDC(network, spec, product).eval()
    if not spec.dynamic_input:
        return graph, torch.zeros((*spec.input_hw, 3), dtype=torch.uint8), None
    image = torch.zeros((8 * spec.size_multiple, 10 * spec.size_multiple, 3), dtype=torch.uint8)
    height, width = torch.export.Dim("height_units", min=1), torch.export.Dim("width_units", min=1)
    return graph, image, {"image": {0: spec.size_multiple * height, 1: spec.size_multiple * width}}


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


def check_fields(network: KDCNet, backend: Backend) -> None:
    """Compare a runtime's outputs with torch's fields and the reference decoder. Raises ParityError."""
    reference = ReferenceBackend(network, backend.spec)
    rng = np.random.default_rng(0)
    sizes = PARITY_SIZES_HW if backend.spec.dynamic_input else (backend.spec.input_hw,)
    clear = 0
    for size in sizes:
        # Smooth noise: a network sees structure, and its fields are far from ties.
        small = rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3)).astype(np.float32)
        noise = np.kron(small, np.ones((16, 16, 1))).astype(np.uint8)
        # A trained one sees nobody in it, but somebody in made figures.
        figures, _ = make_scene(0, *size, people=2)
        for image in (noise, figures):
            got, wanted = backend.run(image), reference.run(image)
            clear += _compare_candidates(got.candidates, wanted.candidates, size)
            _compare_masks(got.masks, wanted.masks, size)
    if not clear:
        logger.warning("the network sees nobody in made figures: keypoints were not compared: give pictures")
    logger.info("%s computes what torch does, at %s", backend.name, sizes)


def check_people(
    network: KDCNet, backend: Backend, pictures: Iterable[np.ndarray], limits: ParityLimits = LIMITS["fp32"]
) -> None:
    """Compare the people that a runtime finds with those of torch and the reference decoder. Raises ParityError."""
    reference = comparable_pipeline(ReferenceBackend(network, backend.spec))
    parity = compare(reference, comparable_pipeline(backend), pictures)
    if failures := parity.failures(limits):
        raise ParityError(f"{backend.name} sees other people than torch: {'; '.join(failures)}")
    logger.info(
        "%s sees torch's people: %d in %d pictures, OKS %.4f, mask IoU %.4f",
        backend.name, parity.people, parity.images, parity.oks, parity.iou,
    )  # fmt: skip


def _compare_masks(got: MaskFields, wanted: MaskFields, size: tuple[int, int]) -> None:
    for name in ("person", "embedding", "sigma"):
        values, expected = getattr(got, name), getattr(wanted, name)
        limit = 1e-3 * max(1.0, float(np.abs(expected).max()))
        worst = float(np.abs(values - expected).max())
        if worst > limit:
            raise ParityError(f"'{name}' differs by {worst:.2g} (limit {limit:.2g}) at {size}")


def _compare_candidates(got: Candidates, wanted: Candidates, size: tuple[int, int]) -> int:
    """Every clear candidate of the reference, with its person, is in the graph's answer, whatever its rank.

    Returns how many keypoints that were.

    Raises ParityError.
    """
    points = got.points
    clear, missed, example = 0, 0, ""
    for k in range(NUM_KEYPOINTS):
        order = np.argsort(-wanted.points[k, :, 2], kind="stable")[:8]
        for person in wanted.people[k, order[wanted.points[k, order, 2] > 0.01]]:
            clear += NUM_KEYPOINTS
            candidate = int(np.abs(points[k] - person[k]).max(1).argmin())
            off = np.abs(got.people[k, candidate] - person)
            wrong = (off[:, :2].max(1) > PARITY_PX) | (off[:, 2] > PARITY_SCORE)
            missed += int(wrong.sum()) if not wrong[k] else NUM_KEYPOINTS
            if wrong.any():
                joint = int(wrong.argmax())
                example = f"keypoint {joint} at {person[joint, :2].round(2)} with score {person[joint, 2]:.3f}"
    if missed > PARITY_TIES * clear:
        raise ParityError(f"{missed} of {clear} keypoints at {size} are not the reference's, among them {example}")
    return clear
