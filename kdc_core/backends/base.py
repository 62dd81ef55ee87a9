"""The interface every inference runtime has here, what it is asked for, and what it returns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kdc_core.decode.candidates import Candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.spec import ModelSpec

BACKENDS = ("auto", "onnxruntime", "tensorrt", "torch")
PRECISIONS = ("fp32", "fp16", "int8")
DEVICES = ("auto", "cpu", "cuda")
INPUT_NAME = "image"

# What a long preparation is doing, and the share of it that is done (0..1).
Progress = Callable[[str, float], None]


class ModelLoadError(RuntimeError):
    """A model that cannot be used: says which file, what is wrong, and what to do about it."""


class BackendUnavailable(ModelLoadError):
    """A runtime that cannot work on this machine, or not with this model: says why and what would mend it."""


class InferenceError(RuntimeError):
    """The runtime failed on an image, or returned something that the model's spec does not promise."""


@dataclass(frozen=True, eq=False)
class NetworkOutputs:
    """The graph's outputs for one image (see `kdc_core.spec.OUTPUT_NAMES`)."""

    candidates: Candidates
    masks: MaskFields


class Backend(Protocol):
    """One loaded network. Not thread-safe: the thread that loaded it owns it."""

    name: str
    spec: ModelSpec

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        ...

    def close(self) -> None:
        """Free the network. Further calls of `run` are errors."""
        ...


@dataclass(frozen=True)
class LoadOptions:
    """How a model is to be loaded; every runtime takes from it what concerns it.

    threads:    CPU threads; 0 = the runtime's choice.
    precision:  "auto" or one of PRECISIONS. "auto": what the file holds; for TensorRT the fastest precision for which
                an engine with a passed accuracy check lies in the cache, else fp32.
    device:     "auto" (a GPU where the runtime has one), "cpu" or "cuda".
    long_side:  longer side of the network's input in pixels, where it is not the model's own.
    input_sizes: sizes (height, width) of the network's input to build a TensorRT engine for, the commonest first;
                empty = whatever pictures of any shape need.
    engine_dir: folder of TensorRT's engines; None = the user's cache folder.
    progress:   told of long preparations (an engine being built), in the loading thread.
    """

    threads: int = 0
    precision: str = "auto"
    device: str = "auto"
    long_side: int | None = None
    input_sizes: tuple[tuple[int, int], ...] = ()
    engine_dir: Path | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"unknown precision '{self.precision}': choose auto, {', '.join(PRECISIONS)}")
        if self.device not in DEVICES:
            raise ValueError(f"unknown device '{self.device}': choose one of {', '.join(DEVICES)}")


def load_backend(
    model: Path,
    backend: str = "auto",
    threads: int = 0,
    *,
    precision: str = "auto",
    device: str = "auto",
    long_side: int | None = None,
    input_sizes: tuple[tuple[int, int], ...] = (),
    engine_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Backend:
    """Load a model file with one of BACKENDS (see `kdc_core.backends.selection`) and LoadOptions.

    Raises ModelLoadError (BackendUnavailable where the named runtime cannot work), and ValueError for an unknown
    name.
    """
    from kdc_core.backends.selection import select

    options = LoadOptions(
        threads=threads,
        precision=precision,
        device=device,
        long_side=None if long_side is None else int(long_side),
        input_sizes=tuple((int(height), int(width)) for height, width in input_sizes),
        engine_dir=None if engine_dir is None else Path(engine_dir),
        progress=progress,
    )
    return select(Path(model), backend, options)


def checked_image(image: np.ndarray) -> np.ndarray:
    """The network's input, contiguous. Raises InferenceError unless it is uint8 (H', W', 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InferenceError(f"the network takes uint8 (H, W, 3), got {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def checked_outputs(arrays: dict[str, np.ndarray], spec: ModelSpec, input_hw: tuple[int, int]) -> NetworkOutputs:
    """Check what a runtime returned against the spec, and name it. Raises InferenceError."""
    height, width = input_hw[0] // spec.stride, input_hw[1] // spec.stride
    channels = 2 * NUM_KEYPOINTS if spec.mask_mode == "bank" else 2
    expected = {
        "people": (NUM_KEYPOINTS, None, NUM_KEYPOINTS, 3),
        "person": (height, width),
        "embedding": (channels, height, width),
        "sigma": (height, width),
    }
    for name, shape in expected.items():
        if name not in arrays:
            raise InferenceError(f"the network has no output '{name}'; export the model again")
        got = arrays[name].shape
        if len(got) != len(shape) or any(s is not None and s != g for s, g in zip(shape, got)):
            raise InferenceError(f"the network's output '{name}' has shape {got}, its spec says {shape}")
        if arrays[name].dtype != np.float32:
            raise InferenceError(f"the network's output '{name}' is {arrays[name].dtype}, it should be float32")
        if not np.isfinite(arrays[name]).all():
            raise InferenceError(f"the network's output '{name}' has NaN or infinite values")
    return NetworkOutputs(
        Candidates(arrays["people"]),
        MaskFields(arrays["person"], arrays["embedding"], arrays["sigma"], spec.stride),
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
