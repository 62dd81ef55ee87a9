"""Which runtime a model gets: the one that was named, or the first that works here; always with one line saying why."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from kdc_core.backends.base import BACKENDS, Backend, BackendUnavailable, LoadOptions, ModelLoadError

logger = logging.getLogger(__name__)

Loader = Callable[[Path, LoadOptions], Backend]


def select(model: Path, backend: str, options: LoadOptions) -> Backend:
    """Load a model with a runtime of BACKENDS.

    "auto" tries, in this order: TensorRT, ONNX Runtime on CUDA, torch on CUDA (where a .pt2 lies beside the model),
    ONNX Runtime on the CPU. Raises ValueError for an unknown name, ModelLoadError, BackendUnavailable.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}': choose one of {', '.join(BACKENDS)}")
    try:
        there = model.is_file()
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise ModelLoadError(f"the model {model} cannot be read: {error.strerror}") from error
    if not there:
        raise ModelLoadError(
            f"there is no model file at {model}. The package ships weights/kdc_mobile.onnx; a model of your own comes "
            "from `kdc export --checkpoint RUN/last.pt --out model.onnx`"
        )
    if backend != "auto":
        loaded = {"onnxruntime": _onnxruntime, "tensorrt": _tensorrt, "torch": _torch}[backend](model, options)
        logger.info("backend: %s for %s, as asked for", loaded.name, model.name)
        return loaded
    refusals: list[str] = []
    for name, load, wanted in _candidates(model, options):
        try:
            loaded = load(model, wanted)
        except BackendUnavailable as error:
            refusals.append(f"{name}: {error}")
            continue
        except ModelLoadError as error:
            if load is not _torch or model.suffix == ".pt2":
                raise
            # It is the program beside the model that is damaged or stale.
            refusals.append(f"{name}: {error}")
            continue
        others = f"; not taken: {'; '.join(refusals)}" if refusals else ""
        logger.info("backend: %s for %s, the first that works here%s", loaded.name, model.name, others)
        return loaded
    raise BackendUnavailable(f"no runtime can run {model.name} here. {'; '.join(refusals)}")


def _candidates(model: Path, options: LoadOptions) -> list[tuple[str, Loader, LoadOptions]]:
    """What "auto" tries, best first."""
    if model.suffix == ".pt2":
        return [("torch", _torch, options)]
    on_cuda = dataclasses.replace(options, device="cuda")
    on_cpu = dataclasses.replace(options, device="cpu")
    candidates: list[tuple[str, Loader, LoadOptions]] = []
    if options.device != "cpu":
        candidates += [("tensorrt", _tensorrt, options), ("onnxruntime on CUDA", _onnxruntime, on_cuda)]
        candidates += [("torch on CUDA", _torch, on_cuda)]
    if options.device != "cuda":
        candidates += [("onnxruntime", _onnxruntime, on_cpu)]
    return candidates


def _onnxruntime(model: Path, options: LoadOptions) -> Backend:
    from kdc_core.backends.onnx_runtime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, options)


def _tensorrt(model: Path, options: LoadOptions) -> Backend:
    from kdc_core.backends.tensorrt.backend import load_tensorrt_backend

    return load_tensorrt_backend(model, options)


def _torch(model: Path, options: LoadOptions) -> Backend:
    from kdc_core.backends.torch_program import load_torch_backend

    return load_torch_backend(model, options)
