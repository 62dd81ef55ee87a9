"""A network started from an exported file computes what the file computes, and can be trained on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from kdc_core.model_path import default_model_path
from kdc_model.from_onnx import load_exported, unfold_norms
from kdc_model.network import KDCNet, NetworkConfig
from kdc_model.pretrained import initialise

SHIPPED = NetworkConfig(trunk="movenet_slim", output_stride=32)


@pytest.fixture(scope="module")
def exported() -> Path:
    return Path(default_model_path())


@pytest.fixture()
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 128, 160, generator=torch.Generator().manual_seed(1)) * 255


def fields(network: KDCNet, pictures: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(network(pictures))


def test_equals_the_exported_graph(exported: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = KDCNet(SHIPPED)
    initialise(network, exported)
    image = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    person = session.run(["person"], {session.get_inputs()[0].name: image})[0]
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    logits = fields(network.eval(), tensor)[3][0]
    np.testing.assert_allclose(person.squeeze(), torch.sigmoid(logits).numpy(), atol=2e-3)


def test_unfolding_changes_nothing_in_evaluation_and_suits_batch_statistics(
    exported: Path, pictures: torch.Tensor
) -> None:
    network = KDCNet(SHIPPED).eval()
    load_exported(network, exported)
    before = fields(network, pictures)
    unfold_norms(network, [pictures])
    assert not network.training
    for old, new in zip(before, fields(network, pictures)):
        torch.testing.assert_close(new, old, atol=1e-3, rtol=1e-4)
    for old, new in zip(before, fields(network.train(), pictures)):
        torch.testing.assert_close(new, old, atol=1e-3, rtol=1e-4)


def test_another_shape_is_refused_by_name(exported: Path) -> None:
    network = KDCNet(dataclasses.replace(SHIPPED, channels=32))
    with pytest.raises(ValueError, match=r"'pyramid\.lateral\.0\.weight' has shape \(64, 1280, 1, 1\)"):
        initialise(network, exported)
    with pytest.raises(ValueError, match="holds more than this network"):
        initialise(KDCNet(dataclasses.replace(SHIPPED, head_units=1)), exported)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing.onnx"):
        initialise(KDCNet(SHIPPED), tmp_path / "missing.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ValueError, match="broken.onnx"):
        initialise(KDCNet(SHIPPED), broken)
