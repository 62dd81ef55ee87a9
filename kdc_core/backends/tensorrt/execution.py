"""A deserialised engine, reduced to what the runner asks of it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from kdc_core.backends.base import INPUT_NAME, BackendUnavailable, InferenceError
from kdc_core.backends.tensorrt.library import TensorRT


class Execution(Protocol):
    """An engine that can be run: shapes, addresses, execution in a stream."""

    def tensors(self) -> dict[str, tuple[bool, np.dtype]]:
        """Name -> (whether it is an input, type) of everything that goes in or out."""
        ...

    def set_input_shape(self, shape: tuple[int, ...]) -> None:
        """Fix the input's shape; the outputs' follow. Raises InferenceError outside the engine's range."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def bind(self, name: str, address: int) -> None:
        """Tell where in device memory a tensor lies."""
        ...

    def execute(self, stream: int) -> None:
        """Put one execution into the stream; returns before it is done. Raises InferenceError."""
        ...


class EngineExecution:
    """A TensorRT engine with its one execution context, on the GPU of the calling thread's CUDA context.

    Raises BackendUnavailable for an engine that this TensorRT, driver or GPU does not take.
    """

    def __init__(self, trt: TensorRT, data: bytes) -> None:
        self._messages = trt.logger()
        self._nptype = trt.module.nptype
        self._input_mode = trt.module.TensorIOMode.INPUT
        # Kept: the engine needs its runtime, the context its engine.
        self._runtime = trt.module.Runtime(self._messages)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise BackendUnavailable(f"{trt.flavour} {trt.version} refuses the engine: {self._reason()}")
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            # Not the engine's fault: another one would not start either.
            raise InferenceError(f"the engine does not start, is the GPU's memory full? {self._reason()}")

    def tensors(self) -> dict[str, tuple[bool, np.dtype]]:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return {
            name: (
                engine.get_tensor_mode(name) == self._input_mode,
                np.dtype(self._nptype(engine.get_tensor_dtype(name))),
            )
            for name in names
        }

    def set_input_shape(self, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(INPUT_NAME, shape):
            raise InferenceError(f"the engine takes no input of {shape}: {self._reason()}")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(side) for side in self._context.get_tensor_shape(name))

    def bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise InferenceError(f"the engine has no place for '{name}': {self._reason()}")

    def execute(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise InferenceError(f"TensorRT could not run: {self._reason()}")

    def _reason(self) -> str:
        return self._messages.errors[-1] if self._messages.errors else "TensorRT gave no reason"
