"""TensorRT behind the runtimes' interface: real engines, on a made GPU that lets ONNX Runtime compute."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from kdc_core.backends.base import BackendUnavailable, LoadOptions, load_backend
from kdc_core.backends.tensorrt.backend import Machine, load_tensorrt_backend
from kdc_core.backends.tensorrt.cache import EngineCache
from kdc_core.backends.tensorrt.keys import ShapeProfile
from kdc_core.backends.tensorrt.manager import EngineManager
from kdc_core.pipeline import Pipeline
from tests.runtime.fake_gpu import FakeCuda, FakeExecution
from tests.runtime.tiny_model import SPEC, picture


def machine(trt, model: Path) -> Machine:
    cuda = FakeCuda()
    return Machine(trt, cuda, open=lambda _, data: FakeExecution(cuda, model))


def test_first_start_builds_and_the_next_loads(trt, tiny: Path, tmp_path: Path) -> None:
    told: list[str] = []
    options = LoadOptions(engine_dir=tmp_path, progress=lambda text, share: told.append(text))
    backend = load_tensorrt_backend(tiny, options, machine(trt, tiny))
    assert backend.name == f"tensorrt_rtx {trt.version} fp32 (Fake GPU, SM89)" and backend.spec == SPEC
    assert told and told[0].startswith("building the engine")
    told.clear()
    image = picture()
    expected = load_backend(tiny, "onnxruntime").run(image)
    again = load_tensorrt_backend(tiny, options, machine(trt, tiny))
    outputs = again.run(image)
    assert not told
    np.testing.assert_allclose(outputs.masks.embedding, expected.masks.embedding, atol=1e-6)
    np.testing.assert_allclose(outputs.candidates.points, expected.candidates.points, atol=1e-5)
    again.close()


def test_shipped_network_gives_the_same_people(trt, shipped_model: Path, tmp_path: Path, monkeypatch) -> None:
    """The whole way of a picture through the runner's buffers, at the size that a photo of this shape takes."""
    data = pytest.importorskip("skimage.data")
    from kdc_core.backends.tensorrt import manager

    # What is under test is the way, not the building of the engine, which has tests of its own.
    monkeypatch.setattr(manager, "build_engine", lambda *_, **__: manager.BuiltEngine(b"engine", {}, 0.0))
    photo = np.ascontiguousarray(data.astronaut()[:300])
    backend = load_tensorrt_backend(shipped_model, LoadOptions(engine_dir=tmp_path), machine(trt, shipped_model))
    got = Pipeline(backend)(photo).people
    wanted = Pipeline.load(shipped_model, backend="onnxruntime")(photo).people
    assert len(got) == len(wanted) >= 1
    np.testing.assert_allclose(got.keypoints_xy, wanted.keypoints_xy, atol=1e-2)
    np.testing.assert_array_equal(got.mask_labels, wanted.mask_labels)


def test_auto_takes_the_fast_engine_only_if_it_was_checked(trt, tiny: Path, tmp_path: Path) -> None:
    here = machine(trt, tiny)
    manager = EngineManager(trt, EngineCache(tmp_path))
    key = manager.key(tiny, "fp16", ShapeProfile.of(SPEC), here.cuda.gpu())
    options = LoadOptions(engine_dir=tmp_path)
    manager.ensure(tiny, SPEC, key)
    assert " fp32 " in load_tensorrt_backend(tiny, options, here).name, "an unchecked engine is for who asks for it"
    assert " fp16 " in load_tensorrt_backend(tiny, LoadOptions(precision="fp16", engine_dir=tmp_path), here).name
    manager.ensure(tiny, SPEC, key, check=lambda _: {"passed": True}, rebuild=True)
    assert " fp16 " in load_tensorrt_backend(tiny, options, here).name


def test_engine_that_the_gpu_refuses_is_built_again(trt, tiny: Path, tmp_path: Path, caplog) -> None:
    here = machine(trt, tiny)
    options = LoadOptions(engine_dir=tmp_path)
    load_tensorrt_backend(tiny, options, here).close()
    refusals = iter([True, False])

    def open_engine(library, data):
        if next(refusals):
            raise BackendUnavailable("built for another driver")
        return here.open(library, data)

    with caplog.at_level(logging.WARNING, logger="kdc_core"):
        backend = load_tensorrt_backend(tiny, options, Machine(trt, here.cuda, open_engine))
    assert "building it again: built for another driver" in caplog.text
    assert backend.run(picture()).masks.person.shape == (16, 24)


def test_auto_goes_back_to_fp32_from_a_checked_engine_that_does_not_load(trt, tiny: Path, tmp_path: Path) -> None:
    here = machine(trt, tiny)
    manager = EngineManager(trt, EngineCache(tmp_path))
    key = manager.key(tiny, "fp16", ShapeProfile.of(SPEC), here.cuda.gpu())
    manager.ensure(tiny, SPEC, key, check=lambda _: {"passed": True})
    refusals = iter([True, False])

    def open_engine(library, data):
        if next(refusals):
            raise BackendUnavailable("built for another driver")
        return here.open(library, data)

    options = LoadOptions(engine_dir=tmp_path)
    assert " fp32 " in load_tensorrt_backend(tiny, options, Machine(trt, here.cuda, open_engine)).name
    assert manager.ensure(tiny, SPEC, key).accuracy_passed, "what was measured of the fp16 engine is not lost"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LoadOptions(device="cpu"), "TensorRT has no CPU"),
        (LoadOptions(precision="int8"), "needs pictures to calibrate"),
        (LoadOptions(input_sizes=((50, 64),)), "multiples of 32"),
    ],
)
def test_what_cannot_work_says_why(trt, tiny: Path, tmp_path: Path, options: LoadOptions, message: str) -> None:
    import dataclasses

    with pytest.raises(BackendUnavailable, match=message):
        load_tensorrt_backend(tiny, dataclasses.replace(options, engine_dir=tmp_path), machine(trt, tiny))


def test_gpu_that_fails_and_cache_that_cannot_be_written(trt, tiny: Path, tmp_path: Path) -> None:
    here = machine(trt, tiny)
    load_tensorrt_backend(tiny, LoadOptions(engine_dir=tmp_path), here).close()
    here.cuda.broken = "allocate"
    with pytest.raises(BackendUnavailable, match="GPU failed while the engine was loaded: .*out of memory"):
        load_tensorrt_backend(tiny, LoadOptions(engine_dir=tmp_path), here)
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendUnavailable, match="engine cache cannot be used.*XDG_CACHE_HOME"):
        load_tensorrt_backend(tiny, LoadOptions(engine_dir=tmp_path / "file"), machine(trt, tiny))


def test_machine_without_gpu_refuses_and_auto_goes_on(tiny: Path, tmp_path: Path, caplog) -> None:
    pytest.importorskip("cuda.bindings", reason="needs NVIDIA's binding")
    pytest.importorskip("tensorrt_rtx", reason="no wheel of TensorRT for RTX on this platform")
    from kdc_core.backends.tensorrt.backend import this_machine

    try:
        this_machine()
    except BackendUnavailable:
        pass
    else:
        pytest.skip("there is a GPU")
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU is usable here: cudaGetDeviceCount"):
        load_backend(tiny, "tensorrt", engine_dir=tmp_path)
    with caplog.at_level(logging.INFO, logger="kdc_core"):
        backend = load_backend(tiny, engine_dir=tmp_path)
    assert backend.name.startswith("onnxruntime ") and "(CPU)" in backend.name
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("backend: ")]
    assert len(lines) == 1
    assert "not taken: tensorrt: no NVIDIA GPU" in lines[0] and "torch on CUDA: there is no tiny.pt2" in lines[0]


def test_without_a_gpu_tensorrt_is_not_even_loaded(tiny: Path) -> None:
    """Its libraries would stay in the memory of a node that runs on the CPU."""
    code = (
        "import sys; from pathlib import Path; from kdc_core.backends.base import load_backend\n"
        "backend = load_backend(Path(sys.argv[1]))\n"
        "print(backend.name if not {'tensorrt', 'tensorrt_rtx'} & set(sys.modules) else 'loaded')"
    )
    output = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=True).stdout
    if output.startswith("tensorrt"):
        pytest.skip("there is a GPU")
    assert output.startswith("onnxruntime")
