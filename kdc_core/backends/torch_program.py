"""torch: the exported program (.pt2) that `kdc export --torch` writes. The only file here that imports torch.

For machines that have torch anyway. On a GPU each input size is captured as a CUDA graph once and replayed from then
on, and half precision is torch's autocast: convolutions in half, the sums of coordinates in float32.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdc_core.backends.base import (
    BackendUnavailable,
    InferenceError,
    LoadOptions,
    ModelLoadError,
    NetworkOutputs,
    checked_image,
    checked_outputs,
)
from kdc_core.spec import METADATA_KEY, ModelSpec, ModelSpecError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

SUFFIX = ".pt2"
# A camera has one size; a folder of photos many, whose graphs would fill the GPU's memory.
GRAPHS_KEPT = 4
WARM_UP_RUNS = 3


def load_torch_backend(model: Path, options: LoadOptions) -> TorchProgramBackend:
    """Load a .pt2, or the one beside an .onnx file. Raises ModelLoadError, BackendUnavailable."""
    path = program_of(model)
    if importlib.util.find_spec("torch") is None:
        raise BackendUnavailable("torch is not installed: pip install torch, or take backend 'onnxruntime'")
    try:
        import torch
    except (ImportError, OSError) as error:  # a shared library that is not there
        raise BackendUnavailable(f"torch does not import: {error}") from error

    on_gpu = torch.cuda.is_available() and options.device != "cpu"
    if options.device == "cuda" and not on_gpu:
        raise BackendUnavailable(f"this torch ({torch.__version__}) finds no usable NVIDIA GPU: take device 'cpu'")
    if options.precision == "int8" or (options.precision == "fp16" and not on_gpu):
        raise BackendUnavailable(
            f"torch runs this model in fp32, on a GPU also in fp16, not in {options.precision}"
            + (" on the CPU" if options.precision == "fp16" else "")
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    backend = TorchProgramBackend(path, "cuda" if on_gpu else "cpu", half=options.precision == "fp16")
    if model != path:
        _check_same_network(backend.spec, model, path)
    return backend


def program_of(model: Path) -> Path:
    """The .pt2 of a model file: itself, or the one of the same name beside it. Raises BackendUnavailable."""
    path = model.with_suffix(SUFFIX)
    if not path.is_file():
        raise BackendUnavailable(
            f"there is no {path.name} beside {model.name}: "
            "write both with `kdc export --checkpoint RUN/last.pt --out model.onnx --torch`"
        )
    return path


class TorchProgramBackend:
    """An exported program on the CPU or a GPU. Raises ModelLoadError, BackendUnavailable."""

    def __init__(self, path: Path, device: str = "cpu", half: bool = False) -> None:
        import torch

        extra = {METADATA_KEY: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
        # Zip, pickle, JSON and version faults, each of its own kind.
        except Exception as error:
            raise ModelLoadError(f"{path} is not a usable exported program ({error}); export it again") from error
        try:
            self.spec = ModelSpec.from_json(extra[METADATA_KEY])
        except ModelSpecError as error:
            raise ModelLoadError(f"{path}: {error}") from error
        if device != "cpu":
            program = moved_program(program, device)
        self._module: Any = program.module()
        self._device = torch.device(device)
        self._half = half
        self._graphs: _CudaGraphs | None = None if device == "cpu" else _CudaGraphs(self._forward)
        place = "CPU" if device == "cpu" else torch.cuda.get_device_name(self._device)
        self.name = f"torch {torch.__version__} {'fp16' if half else 'fp32'} ({place})"

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        import torch

        if self._module is None:
            raise InferenceError("the model has been closed")
        image = checked_image(image)
        try:
            with torch.inference_mode():
                tensor = torch.from_numpy(image)
                outputs = self._forward(tensor) if self._graphs is None else self._graphs.run(tensor)
                arrays = [output.float().cpu().numpy() for output in outputs]
        # A size that the program was not exported for, or no memory left: torch has several kinds.
        except (RuntimeError, ValueError, AssertionError) as error:
            raise InferenceError(f"torch failed on an input of {image.shape}: {error}") from error
        return checked_outputs(dict(zip(self.spec.output_names, arrays)), self.spec, (image.shape[0], image.shape[1]))

    def close(self) -> None:
        """Free the program and its graphs."""
        self._module = self._graphs = None

    def _forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        import torch

        with torch.autocast(self._device.type, dtype=torch.float16, enabled=self._half):
            outputs: tuple[torch.Tensor, ...] = self._module(image)
        return outputs


@dataclass
class _Captured:
    graph: Any
    image: torch.Tensor
    outputs: tuple[torch.Tensor, ...]


def moved_program(program: Any, device: str) -> Any:
    """The program on another device. Raises BackendUnavailable."""
    from torch.export.passes import move_to_device_pass

    try:
        return move_to_device_pass(program, device)
    except RuntimeError as error:
        raise BackendUnavailable(f"the program cannot be moved to the GPU: {error}") from error


class _CudaGraphs:
    """A captured graph for each of the last few input sizes."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self._captured: OrderedDict[tuple[int, ...], _Captured] = OrderedDict()

    def run(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs on the device; overwritten by the next run of the same size."""
        shape = tuple(image.shape)
        if shape not in self._captured:
            if len(self._captured) >= GRAPHS_KEPT:
                self._captured.popitem(last=False)
            self._captured[shape] = self._capture(shape)
        self._captured.move_to_end(shape)
        captured = self._captured[shape]
        captured.image.copy_(image)
        captured.graph.replay()
        return captured.outputs

    def _capture(self, shape: tuple[int, ...]) -> _Captured:
        import torch

        image = torch.zeros(shape, dtype=torch.uint8, device="cuda")
        # Libraries allocate and choose algorithms in their first runs, which a graph must not contain.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                self._forward(image)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._forward(image)
        return _Captured(graph, image, outputs)


def _check_same_network(spec: ModelSpec, model: Path, program: Path) -> None:
    """The .pt2 beside an ONNX file holds the same network. Raises ModelLoadError."""
    from kdc_core.backends.onnx_runtime import read_spec

    if read_spec(model) != spec:
        raise ModelLoadError(f"{program} is not of the same export as {model}: write both with `kdc export --torch`")
