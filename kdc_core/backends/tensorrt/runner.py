"""Runs an engine: buffers made once, one stream, one thread."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from dataclasses import dataclass

import numpy as np

from kdc_core.backends.base import INPUT_NAME, BackendUnavailable, InferenceError
from kdc_core.backends.tensorrt.cuda import Cuda
from kdc_core.backends.tensorrt.execution import Execution
from kdc_core.backends.tensorrt.keys import ShapeProfile
from kdc_core.spec import ModelSpec


@dataclass
class _Buffer:
    """Pinned host memory and device memory for one tensor at its largest."""

    host: int
    device: int
    size: int
    dtype: np.dtype

    def view(self, shape: tuple[int, ...]) -> np.ndarray:
        """The host memory as an array of this shape; valid until the next run."""
        count = int(np.prod(shape))
        memory = (ctypes.c_byte * (count * self.dtype.itemsize)).from_address(self.host)
        return np.frombuffer(memoryview(memory), self.dtype, count).reshape(shape)


class EngineRunner:
    """Owns an engine's memory and stream.

    The thread that makes it owns the CUDA context: `run` and `close` from another thread raise InferenceError, since
    CUDA would work with that thread's context, or none, and fail in ways that are hard to trace.
    Raises BackendUnavailable for an engine whose inputs or outputs are not the spec's.
    """

    def __init__(self, cuda: Cuda, execution: Execution, spec: ModelSpec, profile: ShapeProfile) -> None:
        self._cuda = cuda
        self._execution: Execution | None = execution
        self._spec = spec
        self._profile = profile
        self._owner = threading.get_ident()
        self._owner_name = threading.current_thread().name
        self._buffers: dict[str, _Buffer] = {}
        self._stream: int | None = None
        self._hw: tuple[int, int] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        try:
            self._prepare(execution)
        except BaseException:
            self._release()
            raise

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run on a contiguous uint8 image (H', W', 3). Returns copies of the outputs. Raises InferenceError."""
        self._check_thread("run")
        if self._execution is None or self._stream is None:
            raise InferenceError("the model has been closed")
        self._set_size((image.shape[0], image.shape[1]))
        source = self._buffers[INPUT_NAME]
        source.view(image.shape)[...] = image
        self._cuda.copy_to_device(source.device, source.host, image.nbytes, self._stream)
        self._execution.execute(self._stream)
        for name in self._spec.output_names:
            buffer = self._buffers[name]
            size = int(np.prod(self._shapes[name])) * buffer.dtype.itemsize
            self._cuda.copy_to_host(buffer.host, buffer.device, size, self._stream)
        self._cuda.synchronize(self._stream)
        return {name: self._buffers[name].view(self._shapes[name]).copy() for name in self._spec.output_names}

    def close(self) -> None:
        """Free the memory, the stream and the engine. Again is no error."""
        if self._execution is None:
            return
        self._check_thread("close")
        self._release()

    def _prepare(self, execution: Execution) -> None:
        tensors = execution.tensors()
        expected: dict[str, tuple[bool, np.dtype]] = {INPUT_NAME: (True, np.dtype(np.uint8))}
        for name in self._spec.output_names:
            expected[name] = (False, np.dtype(np.float32))
        if tensors != expected:
            raise BackendUnavailable(f"the engine has {tensors}, the model's spec says {expected}: build it again")
        self._stream = self._cuda.make_stream()
        self._set_size(self._profile.largest_hw)
        shapes = {INPUT_NAME: (*self._profile.largest_hw, 3), **self._shapes}
        for name, shape in shapes.items():
            dtype = expected[name][1]
            size = int(np.prod(shape)) * dtype.itemsize
            host = self._cuda.allocate_host(size)
            try:
                device = self._cuda.allocate(size)
            except BaseException:
                self._cuda.free_host(host)
                raise
            self._buffers[name] = _Buffer(host, device, size, dtype)
            execution.bind(name, device)

    def _set_size(self, hw: tuple[int, int]) -> None:
        """Tell the engine the input's size, if it is not the last one's."""
        assert self._execution is not None
        if hw == self._hw:
            return
        if not self._profile.takes(hw):
            least, largest = self._profile.least_hw, self._profile.largest_hw
            raise InferenceError(
                f"this engine takes inputs from {least[0]} x {least[1]} to {largest[0]} x {largest[1]} (height x "
                f"width), got {hw[0]} x {hw[1]}: build one for that size (`kdc build-engine --size`)"
            )
        self._hw = None
        self._execution.set_input_shape((*hw, 3))
        shapes = {name: self._execution.shape(name) for name in self._spec.output_names}
        if unknown := [name for name, shape in shapes.items() if min(shape) < 1]:
            raise InferenceError(f"the engine gives no shape for its outputs {unknown} at {hw}")
        self._hw, self._shapes = hw, shapes

    def _check_thread(self, what: str) -> None:
        if threading.get_ident() != self._owner:
            raise InferenceError(
                f"the engine belongs to the thread '{self._owner_name}', which loaded it; '{what}' was called from "
                f"'{threading.current_thread().name}': load, run and close it in one thread"
            )

    def _release(self) -> None:
        # The context goes first: it must not outlive the memory it is bound to.
        self._execution = None
        # Every piece is let go even if one fails; a dead context makes all of them fail.
        with contextlib.suppress(InferenceError):
            if self._stream is not None:
                self._cuda.synchronize(self._stream)
        for buffer in self._buffers.values():
            with contextlib.suppress(InferenceError):
                self._cuda.free(buffer.device)
            with contextlib.suppress(InferenceError):
                self._cuda.free_host(buffer.host)
        self._buffers = {}
        with contextlib.suppress(InferenceError):
            if self._stream is not None:
                self._cuda.destroy_stream(self._stream)
        self._stream = None
