"""`kdc parity` and `kdc build-engine`, with the real runtimes on a photograph."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc_cli.main import main

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small pictures with people in them."""
    photo = pytest.importorskip("skimage.data").astronaut()[:, :, ::-1]
    folder = tmp_path_factory.mktemp("photos")
    for name, picture in (("a.png", photo), ("b.png", np.hstack([photo, photo[:, ::-1]]))):
        assert cv2.imwrite(str(folder / name), picture)
    return folder


def parity(model: Path, photos: Path, *arguments: str) -> int:
    return main(["parity", "--model", str(model), "--images", str(photos), "--long-side", "320", *arguments])


def test_parity_of_precisions(shipped_model: Path, photos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "parity.json"
    sides = ["--backends", "onnxruntime,onnxruntime:fp16"]
    assert parity(shipped_model, photos, *sides, "--json", str(out)) == 0
    record = json.loads(out.read_text())["onnxruntime:fp16"]
    assert record["passed"] and record["images"] == 2 and record["people"] >= 2 and record["missed"] == 0
    assert 0.98 < record["oks"] < 1.0, "half precision is near, and not the same"
    table = capsys.readouterr().out
    assert "mask IoU" in table and f"{record['oks']:.4f}" in table
    assert parity(shipped_model, photos, *sides, "--limit-oks", "1") == 1
    assert "onnxruntime:fp16: mean OKS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        ("onnxruntime", "at least two backends"),
        ("onnxruntime,abacus", "unknown backend 'abacus'"),
        ("onnxruntime,tensorrt:fp8", "unknown precision 'fp8'"),
        ("onnxruntime,onnxruntime:fp32", "only once"),
        ("onnxruntime,torch", "no kdc_mobile.pt2"),
        ("onnxruntime,onnxruntime:int8", "at least 8 pictures, got 1"),
    ],
)
def test_parity_that_cannot_be(shipped_model: Path, photos: Path, backends: str, message: str, capsys) -> None:
    assert parity(shipped_model, photos, "--backends", backends) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("kdc parity: ") and message in error


def build(model: Path, folder: Path, *arguments: str) -> int:
    return main(["build-engine", "--model", str(model), "--out", str(folder), *arguments])


def test_engine_for_another_machine(tmp_path: Path, capsys) -> None:
    pytest.importorskip("tensorrt_rtx", reason="no wheel of TensorRT for RTX on this platform")
    from tests.runtime.tiny_model import write_tiny_model

    model, out = write_tiny_model(tmp_path / "tiny.onnx"), tmp_path / "engines"
    target = ["--compute-capability", "SM89", "--size", "64x96", "--size", "128x96"]
    assert build(model, out, *target) == 0
    engine = next(out.glob("tiny-fp32-SM89-*.engine"))
    assert str(engine) in capsys.readouterr().out
    side = json.loads(engine.with_suffix(".json").read_text())
    assert side["key"]["profile"] == {"least_hw": [64, 96], "best_hw": [64, 96], "largest_hw": [128, 96]}
    assert build(model, out, *target[:2], "--size", "50x96") == 1
    assert "50x96: both sides must be multiples of 32" in capsys.readouterr().err
    assert build(model, out, *target[:2], "--long-side", "7") == 1
    assert "at least 32 pixels, got 7" in capsys.readouterr().err
    assert build(model, out, "--compute-capability", "89") == 1
    assert "written like SM89, got '89'" in capsys.readouterr().err
    assert build(model, out, "--precision", "int8", *target) == 1
    assert "needs --images" in capsys.readouterr().err


def test_ctrl_c_ends_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: while TensorRT computes, Python's own handler would not be asked for minutes."""
    pytest.importorskip("tensorrt_rtx", reason="no wheel of TensorRT for RTX on this platform")
    from kdc_core.backends.tensorrt import manager
    from tests.runtime.tiny_model import write_tiny_model

    during = []

    def built(*_: object, **__: object) -> manager.BuiltEngine:
        during.append(signal.getsignal(signal.SIGINT))
        return manager.BuiltEngine(b"engine", {}, 0.0)

    monkeypatch.setattr(manager, "build_engine", built)
    before = signal.getsignal(signal.SIGINT)
    model = write_tiny_model(tmp_path / "tiny.onnx")
    assert build(model, tmp_path / "engines", "--compute-capability", "SM89") == 0
    assert during == [signal.SIG_DFL] and signal.getsignal(signal.SIGINT) is before


def test_engine_is_measured_on_its_twin(shipped_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("tensorrt_rtx", reason="no wheel of TensorRT for RTX on this platform")
    from kdc_core.backends.tensorrt import manager

    # Real builds of this network have their own tests; here it is what is measured, and where that goes.
    monkeypatch.setattr(manager, "build_engine", lambda *_, **__: manager.BuiltEngine(b"engine", {}, 0.0))
    out = tmp_path / "engines"
    arguments = ["--precision", "fp16", "--compute-capability", "SM120", "--images", str(photos), "--long-side", "320"]
    assert build(shipped_model, out, *arguments) == 0
    accuracy = json.loads(next(out.glob("*.json")).read_text())["accuracy"]
    assert accuracy["passed"] and accuracy["people"] >= 2 and accuracy["limits"]["oks"] == 0.98
    assert accuracy["measured_on"].startswith("the engine's ONNX twin in ONNX Runtime")
    assert "accuracy held" in capsys.readouterr().out
    assert build(shipped_model, tmp_path / "strict", *arguments, "--limit-iou", "1") == 1
    assert "was not stored: mean IOU" in capsys.readouterr().err
    assert not list((tmp_path / "strict").glob("*.engine"))
