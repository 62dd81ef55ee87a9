"""TensorRT really parses the shipped network and builds engines for several GPUs, on a machine that has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdc_core.backends.onnx_runtime import read_spec
from kdc_core.backends.tensorrt.builder import EngineBuildError, build_engine
from kdc_core.backends.tensorrt.keys import EngineKey, ShapeProfile
from kdc_core.backends.tensorrt.manager import typed_twin

# A small range: what takes time is the number of layers, and tactics for large inputs.
PROFILE = ShapeProfile((32, 32), (96, 128), (128, 128))


def key(trt, capability: str, precision: str = "fp32") -> EngineKey:
    return EngineKey("0" * 64, trt.flavour, trt.version, "any", capability, precision, PROFILE)


@pytest.mark.parametrize(
    ("capability", "precision", "computes"),
    [("SM80", "fp32", "FLOAT"), ("SM89", "fp16", "HALF"), ("SM120", "fp32", "FLOAT")],
)
def test_shipped_network_becomes_an_engine(trt, shipped_model: Path, capability: str, precision: str, computes: str):
    pytest.importorskip("onnx")
    shares: list[float] = []
    with typed_twin(shipped_model, precision) as (twin, _):
        built = build_engine(
            trt,
            twin.read_bytes(),
            read_spec(shipped_model),
            key(trt, capability, precision),
            lambda phase, share: shares.append(share),
        )
    # 4.89 million weights, of 4 or 2 bytes.
    assert len(built.data) > 4.89e6 * (4 if precision == "fp32" else 2)
    convolutions = built.layers["CONVOLUTION"]
    assert convolutions[computes] >= 74
    # The one that smooths the heatmap belongs to decoding, which stays in float32 always.
    assert sum(convolutions.values()) == 75 and convolutions["FLOAT"] >= 1
    assert built.layers["TOPK"] == {"FLOAT": 1}
    assert shares == sorted(shares) and shares[-1] > 0.5, "progress rises"


def test_unknown_gpu_is_named_with_those_that_are_known(trt, tiny: Path) -> None:
    with pytest.raises(EngineBuildError, match=r"builds for .*SM89.*, not for SM87"):
        build_engine(trt, tiny.read_bytes(), read_spec(tiny), key(trt, "SM87"))


def test_file_that_is_no_model(trt, tiny: Path) -> None:
    with pytest.raises(EngineBuildError, match="cannot parse the model"):
        build_engine(trt, b"not a model", read_spec(tiny), key(trt, "SM89"))
