"""Shared by the tests of engines: a real TensorRT, and the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trt():
    """TensorRT for RTX, which builds engines on machines without a GPU; skipped where it is not installed."""
    from kdc_core.backends.base import BackendUnavailable
    from kdc_core.backends.tensorrt.library import load_tensorrt

    try:
        return load_tensorrt(("tensorrt_rtx",))
    except BackendUnavailable as error:
        pytest.skip(f"no wheel of TensorRT for RTX on this platform: {error}")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model file."""
    pytest.importorskip("onnx")
    from tests.runtime.tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.onnx")
