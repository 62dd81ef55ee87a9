"""A GPU that is not there: memory, a stream and engine execution behind the interfaces that the runner uses.

As on a real one, nothing in a stream happens before it is synchronised, so a result that is read too early is wrong
here too. What the "engine" computes comes from ONNX Runtime, with the model file, on the memory it was given.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdc_core.backends.base import InferenceError
from kdc_core.backends.onnx_runtime import CPU, open_session
from kdc_core.backends.tensorrt.cuda import Gpu


class FakeCuda:
    """Counts what is allocated; `broken` names a call that fails from now on."""

    def __init__(self) -> None:
        self.memory: dict[int, tuple[str, ctypes.Array]] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.allocations = 0
        self.broken = ""

    def gpu(self) -> Gpu:
        return Gpu("Fake GPU", "SM89")

    def allocate(self, size: int) -> int:
        return self._allocate("device", size)

    def allocate_host(self, size: int) -> int:
        return self._allocate("host", size)

    def free(self, address: int) -> None:
        assert self.memory.pop(address)[0] == "device"

    def free_host(self, address: int) -> None:
        assert self.memory.pop(address)[0] == "host"

    def make_stream(self) -> int:
        handle = 1000 + len(self.streams)
        self.streams[handle] = []
        return handle

    def destroy_stream(self, stream: int) -> None:
        assert not self.streams.pop(stream), "work was left in the stream"

    def synchronize(self, stream: int) -> None:
        self._check("synchronize")
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None:
        self._copy(device, "device", host, "host", size, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None:
        self._copy(host, "host", device, "device", size, stream)

    def array(self, address: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Device memory as an array."""
        kind, memory = self.memory[address]
        count = int(np.prod(shape))
        assert kind == "device" and count * np.dtype(dtype).itemsize <= len(memory)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def _allocate(self, kind: str, size: int) -> int:
        self._check("allocate")
        self.allocations += 1
        memory = (ctypes.c_char * size)()
        address = ctypes.addressof(memory)
        self.memory[address] = (kind, memory)
        return address

    def _copy(self, target: int, target_kind: str, source: int, source_kind: str, size: int, stream: int) -> None:
        self._check("copy")
        for address, kind in ((target, target_kind), (source, source_kind)):
            assert self.memory[address][0] == kind and size <= len(self.memory[address][1])
        self.streams[stream].append(lambda: ctypes.memmove(target, source, size) and None)

    def _check(self, call: str) -> None:
        if self.broken == call:
            raise InferenceError(f"{call} failed: out of memory (CUDA error 2)")


class FakeExecution:
    """An engine's execution in which ONNX Runtime does the arithmetic."""

    def __init__(self, cuda: FakeCuda, model: Path) -> None:
        self._cuda = cuda
        self._session = open_session(model, [CPU], threads=1)
        self._addresses: dict[str, int] = {}
        self._input_shape: tuple[int, ...] = ()

    def tensors(self) -> dict[str, tuple[bool, np.dtype]]:
        outputs = {o.name: (False, np.dtype(np.float32)) for o in self._session.get_outputs()}
        return {"image": (True, np.dtype(np.uint8)), **outputs}

    def set_input_shape(self, shape: tuple[int, ...]) -> None:
        self._input_shape = shape

    def shape(self, name: str) -> tuple[int, ...]:
        h, w = self._input_shape[0] // 4, self._input_shape[1] // 4
        known = {"person": (h, w), "sigma": (h, w), "embedding": (2, h, w)}
        fixed = {o.name: tuple(o.shape) for o in self._session.get_outputs() if o.name not in known}
        return {**known, **fixed}[name]

    def bind(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute(self, stream: int) -> None:
        shape = self._input_shape

        def step() -> None:
            image = self._cuda.array(self._addresses["image"], shape, np.uint8)
            names = [o.name for o in self._session.get_outputs()]
            for name, value in zip(names, self._session.run(names, {"image": image})):
                self._cuda.array(self._addresses[name], value.shape, np.float32)[...] = value

        self._cuda.streams[stream].append(step)
