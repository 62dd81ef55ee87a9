"""Model files that cannot be used say so; outputs that break the spec are refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from kdc_core.backends.base import (
    BackendUnavailable,
    InferenceError,
    ModelLoadError,
    checked_image,
    checked_outputs,
    load_backend,
)
from kdc_core.spec import METADATA_KEY, ModelSpec

onnx = pytest.importorskip("onnx")


def write_identity(path: Path, metadata: dict[str, str], outputs: tuple[str, ...] = ("out",)) -> Path:
    """A valid ONNX file whose outputs repeat its input."""
    kind = onnx.TensorProto.UINT8
    image = onnx.helper.make_tensor_value_info("image", kind, ["h", "w", 3])
    nodes = [onnx.helper.make_node("Identity", ["image"], [name]) for name in outputs]
    infos = [onnx.helper.make_tensor_value_info(name, kind, ["h", "w", 3]) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "identity", [image], infos)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def test_missing_file_is_named_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"nowhere\.onnx.*kdc export"):
        load_backend(tmp_path / "nowhere.onnx")


def test_unknown_backend(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'abacus'.*onnxruntime"):
        load_backend(tmp_path / "any.onnx", "abacus")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12" + b"\xff" * 200])
def test_corrupt_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corrupt.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"corrupt\.onnx"):
        load_backend(path)


def test_model_without_spec(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "plain.onnx", {})
    with pytest.raises(ModelLoadError, match="no KDC model spec"):
        load_backend(path)


def test_model_whose_metadata_are_damaged(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "damaged.onnx", {METADATA_KEY: "a text that is long enough to be found"})
    path.write_bytes(path.read_bytes().replace(b"long enough", b"long \xb5nough"))
    with pytest.raises(ModelLoadError, match=r"damaged\.onnx: its metadata are damaged"):
        load_backend(path)


def test_auto_passes_over_a_damaged_program_beside_the_model(shipped_model: Path, tmp_path: Path, monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    model = tmp_path / "model.onnx"
    model.write_bytes(shipped_model.read_bytes())
    model.with_suffix(".pt2").write_bytes(b"PK\x03\x04 cut off")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_backend(model, engine_dir=tmp_path).name.startswith("onnxruntime ")
    with pytest.raises(ModelLoadError, match=r"model\.pt2"):
        load_backend(model, "torch", device="cuda")


def test_model_with_another_spec_format(tmp_path: Path) -> None:
    text = ModelSpec(input_hw=(64, 64)).to_json().replace('"format_version": 2', '"format_version": 99')
    with pytest.raises(ModelLoadError, match="format 99"):
        load_backend(write_identity(tmp_path / "future.onnx", {METADATA_KEY: text}))


def test_model_whose_outputs_are_not_its_specs(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "other.onnx", {METADATA_KEY: ModelSpec(input_hw=(64, 64)).to_json()})
    with pytest.raises(ModelLoadError, match="other inputs or outputs"):
        load_backend(path)


def outputs(height: int = 8, width: int = 10) -> dict[str, np.ndarray]:
    return {
        "people": np.zeros((17, 5, 17, 3), np.float32),
        "person": np.zeros((height, width), np.float32),
        "embedding": np.zeros((2, height, width), np.float32),
        "sigma": np.ones((height, width), np.float32),
    }


def test_outputs_as_promised() -> None:
    result = checked_outputs(outputs(), ModelSpec(input_hw=(32, 40)), (32, 40))
    assert result.candidates.points.shape == (17, 5, 3)
    assert result.masks.stride == 4


def test_output_of_another_shape() -> None:
    with pytest.raises(InferenceError, match=r"'person' has shape \(8, 10\).*\(8, 12\)"):
        checked_outputs(outputs(), ModelSpec(input_hw=(32, 48)), (32, 48))


def test_nan_in_an_output() -> None:
    arrays = outputs()
    arrays["sigma"][3, 3] = np.nan
    with pytest.raises(InferenceError, match="'sigma' has NaN"):
        checked_outputs(arrays, ModelSpec(input_hw=(32, 40)), (32, 40))


def test_outputs_of_another_type_or_missing() -> None:
    arrays = outputs()
    arrays["person"] = arrays["person"].astype(np.float64)
    with pytest.raises(InferenceError, match="'person' is float64"):
        checked_outputs(arrays, ModelSpec(input_hw=(32, 40)), (32, 40))
    del arrays["person"]
    with pytest.raises(InferenceError, match="no output 'person'"):
        checked_outputs(arrays, ModelSpec(input_hw=(32, 40)), (32, 40))


@pytest.mark.parametrize("image", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3), np.float32)])
def test_input_of_another_kind(image: np.ndarray) -> None:
    with pytest.raises(InferenceError, match=r"uint8 \(H, W, 3\)"):
        checked_image(image)


def test_graph_whose_outputs_are_of_another_type(tmp_path: Path) -> None:
    spec = ModelSpec(input_hw=(64, 64))
    path = write_identity(tmp_path / "bytes.onnx", {METADATA_KEY: spec.to_json()}, spec.output_names)
    with pytest.raises(ModelLoadError, match=r"another type.*'person' is tensor\(uint8\)"):
        load_backend(path, "onnxruntime")


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("onnxruntime", {"precision": "fp16"}, r"precision of the file.*backend 'tensorrt'"),
        ("torch", {}, r"no kdc_mobile\.pt2 beside kdc_mobile\.onnx.*kdc export .*--torch"),
        ("tensorrt", {"device": "cpu"}, r"TensorRT has no CPU.*'onnxruntime'"),
    ],
)
def test_named_runtime_that_cannot_work_says_what_would(
    shipped_model: Path, backend: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(BackendUnavailable, match=message):
        load_backend(shipped_model, backend, **options)


def test_cuda_that_is_not_there_is_no_silent_cpu(shipped_model: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendUnavailable, match="no CUDA provider: install onnxruntime-gpu"):
        load_backend(shipped_model, "onnxruntime", device="cuda")
    with pytest.raises(BackendUnavailable, match="no runtime can run .*onnxruntime on CUDA: .*torch on CUDA: "):
        load_backend(shipped_model, device="cuda")


def test_choice_is_logged_with_its_reason(shipped_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kdc_core"):
        load_backend(shipped_model, "onnxruntime", device="cpu")
        load_backend(shipped_model, device="cpu")
    asked, chosen = [r.getMessage() for r in caplog.records]
    assert asked.startswith("backend: onnxruntime ") and asked.endswith("(CPU) for kdc_mobile.onnx, as asked for")
    assert chosen.endswith("the first that works here")


@pytest.mark.parametrize("options", [{"precision": "fp8"}, {"device": "tpu"}])
def test_unknown_precision_or_device(shipped_model: Path, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="unknown .*'(fp8|tpu)': choose"):
        load_backend(shipped_model, "onnxruntime", **options)
