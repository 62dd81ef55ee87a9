"""The interface every inference runtime has here, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kdc_core.decode.candidates import Candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.skeleton import NUM_DIRECTED_EDGES, NUM_KEYPOINTS
from kdc_core.spec import ModelSpec

BACKENDS = ("auto", "onnxruntime")


class ModelLoadError(RuntimeError):
    """A model that cannot be used: says which file, what is wrong, and what to do about it."""


class InferenceError(RuntimeError):
    """The runtime failed on an image, or returned something that the model's spec does not promise."""


@dataclass(frozen=True, eq=False)
class NetworkOutputs:
    """The graph's outputs for one image (see `kdc_core.spec.OUTPUT_NAMES`)."""

    candidates: Candidates
    masks: MaskFields


class Backend(Protocol):
    """One loaded network. Not thread-safe: one thread owns it."""

    name: str
    spec: ModelSpec

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        ...

    def close(self) -> None:
        """Free the network. Further calls of `run` are errors."""
        ...


def load_backend(model: Path, backend: str = "auto", threads: int = 0) -> Backend:
    """Load a model file with a runtime: "auto" or "onnxruntime". `threads` 0 = the runtime's choice.

    Raises ModelLoadError, and ValueError for an unknown runtime.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}': choose one of {', '.join(BACKENDS)}")
    if not model.is_file():
        raise ModelLoadError(
            f"there is no model file at {model}. The package ships weights/kdc_mobile.onnx; a model of your own comes "
            "from `kdc export --checkpoint RUN/last.pt --out model.onnx`"
        )
    from kdc_core.backends.onnx_runtime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, threads)


def checked_outputs(arrays: dict[str, np.ndarray], spec: ModelSpec, input_hw: tuple[int, int]) -> NetworkOutputs:
    """Check what a runtime returned against the spec, and name it. Raises InferenceError."""
    height, width = input_hw[0] // spec.stride, input_hw[1] // spec.stride
    channels = 2 * NUM_KEYPOINTS if spec.mask_mode == "bank" else 2
    expected = {
        "candidates": (NUM_KEYPOINTS, None, 3),
        "far_ends": (NUM_DIRECTED_EDGES, None, 3),
        "person": (height, width),
        "embedding": (channels, height, width),
        "sigma": (height, width),
    }
    for name, shape in expected.items():
        got = arrays[name].shape
        if len(got) != len(shape) or any(s is not None and s != g for s, g in zip(shape, got)):
            raise InferenceError(f"the network's output '{name}' has shape {got}, its spec says {shape}")
        if not np.isfinite(arrays[name]).all():
            raise InferenceError(f"the network's output '{name}' has NaN or infinite values")
    return NetworkOutputs(
        Candidates(arrays["candidates"], arrays["far_ends"]),
        MaskFields(arrays["person"], arrays["embedding"], arrays["sigma"], spec.stride),
    )
