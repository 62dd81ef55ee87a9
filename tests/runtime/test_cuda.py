"""The calls to CUDA and TensorRT, as far as they can be checked where there is no GPU."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdc_core.backends.base import BackendUnavailable, InferenceError
from kdc_core.backends.tensorrt import cuda
from kdc_core.backends.tensorrt.execution import EngineExecution
from kdc_core.backends.tensorrt.library import load_tensorrt


class Status(IntEnum):
    OK = 0
    OUT_OF_MEMORY = 2
    NO_DEVICE = 100


class Cudart(SimpleNamespace):
    """CUDA's binding as far as it is called: every call is written down, results are made up."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host")

    def __init__(self, devices: int = 1, failing: str = "") -> None:
        super().__init__()
        properties = SimpleNamespace(name=b"Orin\0\0", major=8, minor=7)
        results = {"cudaGetDeviceCount": devices, "cudaGetDeviceProperties": properties}
        results.update({"cudaMalloc": 4096, "cudaMallocHost": 8192, "cudaStreamCreateWithFlags": 77})
        self.calls: list[tuple] = []

        def call(name: str):
            def run(*arguments):
                self.calls.append((name, *arguments))
                if name == failing:
                    return (Status.OUT_OF_MEMORY,)
                return (Status.OK, results[name]) if name in results else (Status.OK,)

            return run

        for name in (*results, "cudaSetDevice", "cudaFree", "cudaFreeHost", "cudaMemcpyAsync"):
            setattr(self, name, call(name))
        self.cudaStreamSynchronize, self.cudaStreamDestroy = call("cudaStreamSynchronize"), call("cudaStreamDestroy")
        self.cudaGetErrorString = lambda status: (Status.OK, b"out of memory")


def raising(*_: object) -> None:
    raise RuntimeError("Failed to dlopen libcuda.so.1")


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch):
    def use(binding: Cudart) -> Cudart:
        monkeypatch.setattr(cuda, "_import_binding", lambda: binding)
        return binding

    return use


def test_calls_as_cuda_wants_them(cudart) -> None:
    binding = cudart(Cudart())
    device = cuda.CudaRuntime()
    assert device.gpu() == cuda.Gpu("Orin", "SM87")
    assert (device.allocate(10), device.allocate_host(20), device.make_stream()) == (4096, 8192, 77)
    binding.calls.clear()
    device.copy_to_device(1, 2, 30, 77)
    device.copy_to_host(3, 4, 40, 77)
    device.synchronize(77)
    # cudaMemcpyAsync(destination, source, count, kind, stream), in both directions
    assert binding.calls == [
        ("cudaMemcpyAsync", 1, 2, 30, "to device", 77),
        ("cudaMemcpyAsync", 3, 4, 40, "to host", 77),
        ("cudaStreamSynchronize", 77),
    ]


def test_failing_call_says_which_and_why(cudart) -> None:
    cudart(Cudart(failing="cudaMalloc"))
    with pytest.raises(InferenceError, match=r"cudaMalloc failed: out of memory \(CUDA error 2\)"):
        cuda.CudaRuntime().allocate(1 << 40)


def test_no_gpu(cudart) -> None:
    cudart(Cudart(devices=0))
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU is usable here: there is none"):
        cuda.CudaRuntime()


def test_no_tensorrt_names_where_it_comes_from() -> None:
    with pytest.raises(BackendUnavailable, match=r"no_such_library.*JetPack.*pip install tensorrt"):
        load_tensorrt(("no_such_library",))


def test_names_that_the_runner_calls_exist(trt) -> None:
    module = trt.module
    for owner, names in (
        (module.Runtime, ("deserialize_cuda_engine",)),
        (module.ICudaEngine, ("create_execution_context", "num_io_tensors", "get_tensor_name", "get_tensor_mode")),
        (module.ICudaEngine, ("get_tensor_dtype",)),
        (module.IExecutionContext, ("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3")),
    ):
        assert all(hasattr(owner, name) for name in names)


def test_engine_that_does_not_load_says_so(trt) -> None:
    with pytest.raises(BackendUnavailable, match="refuses the engine: "):
        EngineExecution(trt, b"no engine")


def test_bindings_that_raise_without_a_driver(cudart) -> None:
    """As cuda-python up to 12.8 does."""
    binding = cudart(Cudart())
    binding.cudaGetDeviceCount = raising
    with pytest.raises(BackendUnavailable, match="libcuda"):
        cuda.CudaRuntime()


def test_a_folder_is_no_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_of_somebody").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match="tensorrt_of_somebody.* is no TensorRT"):
        load_tensorrt(("tensorrt_of_somebody",))


def test_an_engine_that_cannot_start_is_not_to_blame() -> None:
    engine = SimpleNamespace(create_execution_context=lambda: None)
    module = SimpleNamespace(
        nptype=None, TensorIOMode=SimpleNamespace(INPUT=0),
        Runtime=lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: engine),
    )  # fmt: skip
    trt = SimpleNamespace(module=module, logger=lambda: SimpleNamespace(errors=[]), flavour="tensorrt", version="10")
    with pytest.raises(InferenceError, match="memory full"):
        EngineExecution(trt, b"engine")
