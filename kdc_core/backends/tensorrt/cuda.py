"""The few calls of the CUDA runtime that inference needs, behind one narrow interface.

`CudaRuntime` makes them through NVIDIA's own binding (cuda-python; `cuda.bindings`, or `cuda.cudart` as older JetPacks
bring it). Tests put a made device in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from kdc_core.backends.base import BackendUnavailable, InferenceError


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, and its compute capability as "SM89"."""

    name: str
    capability: str


class Cuda(Protocol):
    """Memory, copies and a stream on one GPU. Addresses and handles are integers, sizes are bytes."""

    def gpu(self) -> Gpu: ...

    def allocate(self, size: int) -> int:
        """Device memory."""
        ...

    def free(self, address: int) -> None: ...

    def allocate_host(self, size: int) -> int:
        """Pinned host memory, which copies without the CPU's help."""
        ...

    def free_host(self, address: int) -> None: ...

    def make_stream(self) -> int: ...

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None:
        """Wait until everything in the stream is done."""
        ...

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None: ...

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None: ...


class CudaRuntime:
    """The first GPU that is visible (CUDA_VISIBLE_DEVICES chooses). Raises BackendUnavailable where there is none.

    Made, used and let go by one thread. Failing calls raise InferenceError with CUDA's own words.
    """

    def __init__(self) -> None:
        self._cudart = _import_binding()
        try:
            count = self._call("cudaGetDeviceCount")
            if count == 0:
                raise InferenceError("there is none")
            self._call("cudaSetDevice", 0)
        except InferenceError as error:
            raise BackendUnavailable(f"no NVIDIA GPU is usable here: {error}") from error

    def gpu(self) -> Gpu:
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties.name
        text = name.decode() if isinstance(name, bytes) else str(name)
        return Gpu(text.rstrip("\0"), f"SM{properties.major}{properties.minor}")

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        return int(self._call("cudaMallocHost", size))

    def free_host(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def make_stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host, size, kind, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host, device, size, kind, stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the CUDA runtime; its result, or None. Raises InferenceError."""
        try:
            status, *results = getattr(self._cudart, name)(*arguments)
        except RuntimeError as error:  # bindings before 12.9 where there is no driver
            raise InferenceError(f"{name} failed: {error}") from error
        if int(status) != 0:
            _, words = self._cudart.cudaGetErrorString(status)
            text = words.decode() if isinstance(words, bytes) else str(words)
            raise InferenceError(f"{name} failed: {text} (CUDA error {int(status)})")
        return results[0] if results else None


def _import_binding() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        pass
    else:
        return runtime
    try:
        from cuda import cudart
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            "the CUDA binding for Python is missing: pip install cuda-python, of the CUDA release that is installed "
            f"({error})"
        ) from error
    return cudart
