"""TensorRT behind the interface of the runtimes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdc_core.backends.base import (
    BackendUnavailable,
    InferenceError,
    LoadOptions,
    NetworkOutputs,
    checked_image,
    checked_outputs,
)
from kdc_core.backends.tensorrt.cache import EngineCache, StoredEngine
from kdc_core.backends.tensorrt.cuda import Cuda, CudaRuntime
from kdc_core.backends.tensorrt.execution import EngineExecution, Execution
from kdc_core.backends.tensorrt.keys import EngineKey, ShapeProfile
from kdc_core.backends.tensorrt.library import TensorRT, is_installed, load_tensorrt
from kdc_core.backends.tensorrt.manager import EngineManager, best_cached
from kdc_core.backends.tensorrt.runner import EngineRunner
from kdc_core.spec import ModelSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """The TensorRT and the GPU that engines are run with; `open` makes a serialised engine ready to run."""

    trt: TensorRT
    cuda: Cuda
    open: Callable[[TensorRT, bytes], Execution] = EngineExecution


def this_machine() -> Machine:
    """This machine's. Raises BackendUnavailable, naming what is missing."""
    if not is_installed():
        load_tensorrt()  # says what is missing
    # The GPU is asked first: TensorRT's libraries take some 130 MB of memory that nobody gets back.
    cuda = CudaRuntime()
    return Machine(load_tensorrt(), cuda)


class TensorRTBackend:
    """An engine in TensorRT, on the calling thread's GPU. Raises BackendUnavailable."""

    def __init__(self, machine: Machine, data: bytes, spec: ModelSpec, key: EngineKey) -> None:
        self.spec = spec
        self._runner = EngineRunner(machine.cuda, machine.open(machine.trt, data), spec, key.profile)
        self.name = f"{key.flavour} {key.version} {key.precision} ({machine.cuda.gpu().name}, {key.capability})"

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3), in the thread that loaded. Raises InferenceError."""
        image = checked_image(image)
        return checked_outputs(self._runner.run(image), self.spec, (image.shape[0], image.shape[1]))

    def close(self) -> None:
        """Free the engine, in the thread that loaded it."""
        self._runner.close()


def load_tensorrt_backend(model: Path, options: LoadOptions, machine: Machine | None = None) -> TensorRTBackend:
    """The engine of a model file from the cache, or built now, ready to run.

    Raises BackendUnavailable, also for a GPU that fails or a cache that cannot be written; ModelLoadError.
    """
    try:
        return _load(model, options, machine)
    except InferenceError as error:
        raise BackendUnavailable(f"the GPU failed while the engine was loaded: {error}") from error
    except OSError as error:
        raise BackendUnavailable(
            f"the engine cache cannot be used ({error}): let XDG_CACHE_HOME or engine_dir name a writable folder"
        ) from error


def _load(model: Path, options: LoadOptions, machine: Machine | None) -> TensorRTBackend:
    if options.device == "cpu":
        raise BackendUnavailable("TensorRT has no CPU: take device 'cuda', or backend 'onnxruntime'")
    if model.suffix != ".onnx":
        raise BackendUnavailable(f"TensorRT reads .onnx files, not {model.name}: give the file that `kdc export` wrote")
    machine = machine or this_machine()
    manager = EngineManager(machine.trt, EngineCache(options.engine_dir))
    spec = _spec_of(model)
    precision = "fp32" if options.precision == "auto" else options.precision
    try:
        profile = ShapeProfile.of(spec, options.long_side, options.input_sizes)
    except ValueError as error:
        raise BackendUnavailable(f"no engine can be built: {error}") from error
    key = manager.key(model, precision, profile, machine.cuda.gpu())
    stored = best_cached(manager, model, key) if options.precision == "auto" else None
    if stored is not None:
        key = dataclasses.replace(key, precision=stored.side["key"]["precision"])
        logger.info("precision %s: its engine is in the cache and passed its accuracy check", key.precision)
    else:
        stored = manager.ensure(model, spec, key, progress=options.progress)
    _check_allowed(stored, key)
    try:
        return TensorRTBackend(machine, stored.data, stored.spec, key)
    except BackendUnavailable as error:
        if options.precision == "auto" and key.precision != "fp32":
            # A new engine of that precision would have to pass its accuracy check first.
            logger.warning("engine %s does not load, taking fp32: %s", stored.path.name, error)
            return _load(model, dataclasses.replace(options, precision="fp32"), machine)
        if key.precision == "int8":
            raise  # it cannot be built again without pictures
        logger.warning("engine %s does not load, building it again: %s", stored.path.name, error)
    stored = manager.ensure(model, spec, key, progress=options.progress, rebuild=True)
    return TensorRTBackend(machine, stored.data, stored.spec, key)


def _spec_of(model: Path) -> ModelSpec:
    from kdc_core.backends.onnx_runtime import read_spec

    return read_spec(model)


def _check_allowed(stored: StoredEngine, key: EngineKey) -> None:
    """int8 runs only with a measured accuracy. Raises BackendUnavailable."""
    if key.precision == "int8" and not stored.accuracy_passed:
        raise BackendUnavailable(
            f"the int8 engine {stored.path} carries no passed accuracy check: build it again with "
            "`kdc build-engine --precision int8 --images DIR`"
        )
