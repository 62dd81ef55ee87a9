"""The TensorRT runner on a made device: buffers, stream, sizes, threads. (A GPU runs the same code elsewhere.)"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from kdc_core.backends.base import BackendUnavailable, InferenceError, load_backend
from kdc_core.backends.tensorrt.keys import ShapeProfile
from kdc_core.backends.tensorrt.runner import EngineRunner
from tests.runtime.fake_gpu import FakeCuda, FakeExecution
from tests.runtime.tiny_model import SPEC, picture, write_tiny_model

PROFILE = ShapeProfile((32, 32), (64, 96), (96, 96))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.onnx")


def test_results_of_changing_sizes_are_the_models(model: Path) -> None:
    cuda = FakeCuda()
    runner = EngineRunner(cuda, FakeExecution(cuda, model), SPEC, PROFILE)
    expected = load_backend(model, "onnxruntime")
    made = cuda.allocations
    kept = []
    for seed, hw in enumerate([(64, 96), (96, 96), (32, 64), (64, 96)]):
        image = picture(*hw, seed)
        arrays = runner.run(image)
        kept.append((arrays["person"], expected.run(image).masks.person))
        assert arrays["embedding"].shape == (2, hw[0] // 4, hw[1] // 4)
    assert cuda.allocations == made == 10, "five tensors, on the host and the device, once"
    for got, wanted in kept:  # all at the end: a result must not change with the next run
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    runner.close()
    runner.close()
    assert not cuda.memory and not cuda.streams
    with pytest.raises(InferenceError, match="closed"):
        runner.run(picture())


def test_size_outside_the_engine_names_the_fix(model: Path) -> None:
    cuda = FakeCuda()
    runner = EngineRunner(cuda, FakeExecution(cuda, model), SPEC, PROFILE)
    with pytest.raises(InferenceError, match=r"to 96 x 96 .*got 128 x 96.*build-engine --size"):
        runner.run(picture(128, 96))
    assert runner.run(picture())["person"].shape == (16, 24), "and it still works"


def test_another_thread_is_told_whose_engine_it_is(model: Path) -> None:
    cuda = FakeCuda()
    runner = EngineRunner(cuda, FakeExecution(cuda, model), SPEC, PROFILE)
    faults: list[Exception] = []

    def intrude() -> None:
        for call in (lambda: runner.run(picture()), runner.close):
            try:
                call()
            except InferenceError as error:
                faults.append(error)

    thread = threading.Thread(target=intrude, name="intruder")
    thread.start()
    thread.join()
    assert len(faults) == 2
    assert "belongs to the thread 'MainThread'" in str(faults[0]) and "'intruder'" in str(faults[0])
    runner.close()


def test_device_out_of_memory_leaves_nothing_behind(model: Path) -> None:
    cuda = FakeCuda()
    allocate = cuda.allocate

    def fail_at_the_third(size: int) -> int:
        if cuda.allocations >= 5:
            cuda.broken = "allocate"
        return allocate(size)

    cuda.allocate = fail_at_the_third  # type: ignore[method-assign]
    with pytest.raises(InferenceError, match="out of memory"):
        EngineRunner(cuda, FakeExecution(cuda, model), SPEC, PROFILE)
    assert not cuda.memory and not cuda.streams


def test_engine_of_another_model_is_refused(model: Path) -> None:
    class Other(FakeExecution):
        def tensors(self):
            return {**super().tensors(), "person": (False, np.dtype(np.float16))}

    cuda = FakeCuda()
    with pytest.raises(BackendUnavailable, match=r"person.*build it again"):
        EngineRunner(cuda, Other(cuda, model), SPEC, PROFILE)
    assert not cuda.memory and not cuda.streams
