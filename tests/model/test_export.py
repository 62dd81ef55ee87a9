"""The exported file computes what the network does, on square and non-square inputs, and carries its spec."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from kdc_core.backends.base import BackendUnavailable, InferenceError, ModelLoadError, load_backend  # noqa: E402
from kdc_core.backends.torch_program import TorchProgramBackend, moved_program  # noqa: E402
from kdc_core.decode.candidates import Candidates, find_candidates  # noqa: E402
from kdc_core.encode import encode, ideal_fields  # noqa: E402
from kdc_core.parity import LIMITS, comparable_pipeline, compare  # noqa: E402
from kdc_core.spec import ModelSpec, ModelSpecError  # noqa: E402
from kdc_model.candidate_graph import CandidateFinder, _Grid  # noqa: E402
from kdc_model.checkpoint import CheckpointError, mean_network  # noqa: E402
from kdc_model.config import TrainConfig  # noqa: E402
from kdc_model.data.scenes import make_scene  # noqa: E402
from kdc_model.export import (  # noqa: E402
    ParityError,
    check_fields,
    check_people,
    export_onnx,
    with_fixed_size,
    write_onnx,
    write_program,
)
from kdc_model.from_onnx import load_exported  # noqa: E402
from kdc_model.network import FieldTensors, KDCNet, NetworkConfig  # noqa: E402
from kdc_model.torch_backend import ReferenceBackend  # noqa: E402
from tests.core.made_people import made_truth  # noqa: E402


def lively_network(mask_mode: str = "embedding") -> KDCNet:
    """Random weights, but with heatmaps that rise above nothing and offsets of a few pixels."""
    torch.manual_seed(3)
    network = KDCNet(NetworkConfig(channels=16, head_units=1, mask_mode=mask_mode)).eval()
    with torch.no_grad():
        for head in (network.pose, network.seg):
            head.fine.weight.normal_(std=0.4)
            head.coarse.weight.normal_(std=0.4)
        network.pose.coarse.bias[:17] = -1.0
    return network


def shipped_network(shipped_model: Path, repository: Path) -> KDCNet:
    """The network that comes with the package, in torch."""
    network = KDCNet(TrainConfig.load(repository / "configs" / "mobile_boxes.yaml").network()).eval()
    load_exported(network, shipped_model)
    return network


@pytest.fixture(scope="module", params=["embedding", "bank"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[KDCNet, ModelSpec, Path]:
    network = lively_network(request.param)
    spec = ModelSpec(input_hw=(256, 320), disk_radius_px=10.0, mask_mode=request.param, num_candidates=16)
    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    write_onnx(network, spec, path)
    return network, spec, path


def test_parity_on_several_sizes(exported: tuple[KDCNet, ModelSpec, Path]) -> None:
    network, spec, path = exported
    check_fields(network, load_backend(path, "onnxruntime"))
    assert load_backend(path).spec == spec


def test_program_on_several_sizes(exported: tuple[KDCNet, ModelSpec, Path]) -> None:
    network, spec, path = exported
    if spec.mask_mode != "embedding":
        pytest.skip("one form is enough")
    write_program(network, spec, path.with_suffix(".pt2"))
    backend = load_backend(path, "torch")
    assert backend.name.startswith("torch ") and backend.spec == spec
    check_fields(network, backend)
    # Moved to another device, nothing stays behind (a GPU would refuse to mix).
    moved = moved_program(torch.export.load(path.with_suffix(".pt2")), "meta").module()
    shapes = [tuple(o.shape) for o in moved(torch.zeros((96, 160, 3), dtype=torch.uint8, device="meta"))]
    assert shapes == [(17, 16, 17, 3), (24, 40), (2, 24, 40), (24, 40)]


def test_people_of_the_shipped_file_are_torchs(shipped_model: Path, repository: Path) -> None:
    """Torch's fields and the reference decoder against the graph, people by people, square and not."""
    data = pytest.importorskip("skimage.data")
    network = shipped_network(shipped_model, repository)
    photo = np.ascontiguousarray(data.astronaut())
    # Alone, beside herself, and cut to half a figure: one and several people, wide and high pictures.
    pictures = [photo, np.hstack([photo, photo[:, ::-1]]), np.ascontiguousarray(photo[:, 100:340])]
    backend = load_backend(shipped_model, "onnxruntime")
    check_people(network, backend, pictures)
    with torch.no_grad():
        network.seg.fine.bias -= 20.0
    with pytest.raises(ParityError, match="other people than torch"):
        check_people(network, backend, pictures)


def test_parity_check_sees_another_network(exported: tuple[KDCNet, ModelSpec, Path]) -> None:
    network, spec, path = exported
    with torch.no_grad():
        network.seg.fine.bias += 0.5
    try:
        with pytest.raises(ParityError, match="not the reference's|differs"):
            check_fields(network, load_backend(path, "onnxruntime"))
    finally:
        with torch.no_grad():
            network.seg.fine.bias -= 0.5


def test_candidate_graph_is_the_reference_decoder() -> None:
    """On ideal fields of overlapping people, where every candidate matters."""
    truth = made_truth([(130.0, 20.0, 210.0), (175.0, 50.0, 190.0), (40.0, 60.0, 70.0)], (256, 320))
    fields = ideal_fields(encode(truth, 4, 12.0), 4)
    expected = find_candidates(fields, 12.0, 8)
    logits = np.log(np.clip(fields.heatmap, 1e-6, 1 - 1e-6) / (1 - np.clip(fields.heatmap, 1e-6, 1 - 1e-6)))
    tensors = FieldTensors(
        *(torch.from_numpy(np.asarray(a, np.float32))[None] for a in (logits, fields.offset, fields.displacement)),
        torch.logit(torch.from_numpy(fields.person), eps=1e-6)[None],
        *(torch.zeros(1),) * 2,
    )
    people = CandidateFinder(4, 12.0, 8)(tensors).numpy()
    assert people.shape == expected.people.shape
    points = Candidates(people).points
    clear = expected.points[..., 2] > 0.05
    assert clear.sum() > 40
    for kind, m in zip(*np.nonzero(clear)):
        # Two peaks may be refined to the same place, each with its own score and person.
        off = np.abs(points[kind] - expected.points[kind, m])
        same = (off[:, :2].max(1) < 1e-2) & (off[:, 2] < 1e-4)
        assert same.any(), (kind, expected.points[kind, m])
        walk = np.abs(people[kind, same] - expected.people[kind, m])
        assert (walk[..., :2].max((1, 2)) < 1e-2).any() and (walk[..., 2].max(1) < 1e-4).any()


def test_cells_keep_their_numbers_in_half_precision() -> None:
    grid = _Grid(104, 104, 4, product=False)
    cells = torch.stack(torch.meshgrid(torch.arange(104.0), torch.arange(104.0), indexing="xy"), -1)
    with torch.autocast("cpu", torch.float16):
        index = grid.flat_index(cells)
    assert torch.equal(index[..., 0].flatten(), torch.arange(104 * 104)) and torch.equal(index[..., 0], index[..., 1])


def test_program_in_half_precision(shipped_model: Path, repository: Path, tmp_path: Path) -> None:
    """With torch's autocast as on a GPU: the same people but for rounding."""
    full = load_backend(shipped_model, "onnxruntime")
    write_program(shipped_network(shipped_model, repository), full.spec, tmp_path / "half.pt2")
    half = TorchProgramBackend(tmp_path / "half.pt2", "cpu", half=True)
    pictures = [make_scene(seed, 256, 384, 3)[0] for seed in range(2)]
    parity = compare(comparable_pipeline(full), comparable_pipeline(half), pictures)
    assert parity.people >= 4 and parity.failures(LIMITS["fp16"]) == []


def test_pictures_of_fewer_cells_than_candidates(tmp_path: Path) -> None:
    stride = 16
    torch.manual_seed(0)
    network = KDCNet(NetworkConfig(channels=16, head_units=1, stride=stride)).eval()
    spec = ModelSpec(input_hw=(32, 64), stride=stride, disk_radius_px=12.0, mask_mode="embedding", num_candidates=32)
    write_onnx(network, spec, tmp_path / "coarse.onnx")
    backend = load_backend(tmp_path / "coarse.onnx", "onnxruntime")
    for height, width in ((32, 32), (32, 224), (128, 160)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        got = backend.run(image).candidates
        cells = height * width // stride**2
        assert (got.points[:, cells:, 2] == 0).all()
        wanted = ReferenceBackend(network, spec).run(image).candidates
        assert got.points[..., 2].max() == pytest.approx(wanted.points[..., 2].max(), rel=1e-3)


def test_parity_check_compares_the_shipped_networks_keypoints(
    shipped_model: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It sees nobody in noise: there, no keypoints at all would be right."""
    backend = load_backend(shipped_model, "onnxruntime")
    network = shipped_network(shipped_model, repository)
    check_fields(network, backend)
    assert "not compared" not in caplog.text

    class Blind:
        name, spec = "blind", backend.spec

        def run(self, picture):
            found = backend.run(picture)
            return dataclasses.replace(found, candidates=Candidates(np.zeros_like(found.candidates.people)))

    with pytest.raises(ParityError, match="not the reference's"):
        check_fields(network, Blind())


def test_export_from_a_checkpoint(tmp_path: Path) -> None:


    network = lively_network()
    config = TrainConfig(("a.json",), ("images",), channels=16, head_units=1, long_side=320)
    state = network.state_dict()
    torch.save({"config": config.to_dict(), "step": 7, "network": state, "average": state}, tmp_path / "last.pt")
    out = tmp_path / "model.onnx"
    spec = export_onnx(
        tmp_path / "last.pt", out, provenance={"note": "made"}, fixed_hw=(96, 160), torch_program=True
    )
    backend = load_backend(out, "onnxruntime")
    assert backend.spec == spec
    digest = spec.provenance.pop("weights_sha256")
    assert len(digest) == 64 and spec.provenance == {"trunk": "mobilenet_v1_075", "step": 7, "note": "made"}
    for side in (5, 10_000):
        with pytest.raises(ModelSpecError, match="long side"):
            export_onnx(tmp_path / "last.pt", tmp_path / "none.onnx", long_side=side)
    # One size, in both files, and no other.
    assert not spec.dynamic_input and spec.letterbox((480, 640)).input_hw == (96, 160)
    for loaded in (backend, load_backend(out, "torch")):
        assert loaded.run(np.zeros((96, 160, 3), np.uint8)).masks.person.shape == (24, 40)
        with pytest.raises(InferenceError, match=r"\(128, 160, 3\)"):
            loaded.run(np.zeros((128, 160, 3), np.uint8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "model.onnx", "model.pt2"]
    # Another network by the same configuration and steps: its file is not the old program's, which goes.
    state["seg.fine.bias"] = state["seg.fine.bias"] + 1
    torch.save({"config": config.to_dict(), "step": 7, "network": state, "average": state}, tmp_path / "last.pt")
    old = (tmp_path / "model.pt2").read_bytes()
    other = export_onnx(tmp_path / "last.pt", out, provenance={"note": "made"}, fixed_hw=(96, 160))
    assert other.provenance["weights_sha256"] != digest and not (tmp_path / "model.pt2").exists()
    (tmp_path / "model.pt2").write_bytes(old)
    with pytest.raises(ModelLoadError, match="not of the same export"):
        load_backend(out, "torch")
    content = (tmp_path / "model.onnx").read_bytes()
    assert b"/kdc_model/" not in content, "no paths of the machine it was made on"


def test_mean_of_checkpoints(tmp_path: Path) -> None:
    def save(name: str, state: dict, step: int, channels: int = 16) -> Path:
        config = TrainConfig(("a.json",), ("images",), channels=channels, head_units=1)
        torch.save({"config": config.to_dict(), "step": step, "average": state}, tmp_path / name)
        return tmp_path / name

    state = lively_network().state_dict()
    less = {name: 0.98 * value if value.is_floating_point() else value for name, value in state.items()}
    first, second = save("first.pt", state, 7), save("second.pt", less, 9)
    mean, _, step = mean_network([first, second])
    assert step == 9 and not mean.training
    for name, value in mean.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.99 * state[name])
    spec = export_onnx([first, second], tmp_path / "mean.onnx", fixed_hw=(96, 160))
    of_one = export_onnx(second, tmp_path / "second.onnx", fixed_hw=(96, 160))
    assert spec.provenance["step"] == 9 and spec.provenance["weights_sha256"] != of_one.provenance["weights_sha256"]
    other = KDCNet(NetworkConfig(channels=8, head_units=1)).state_dict()
    with pytest.raises(CheckpointError, match="different networks"):
        mean_network([save("narrow.pt", other, 3, channels=8), second])


def test_size_that_the_network_cannot_have() -> None:
    with pytest.raises(ModelSpecError, match="100x160.*multiples of 32"):
        with_fixed_size(ModelSpec(input_hw=(256, 256)), (100, 160))


def test_program_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt2"
    path.write_bytes(b"not a program")
    with pytest.raises(ModelLoadError, match=r"broken\.pt2 is not a usable exported program"):
        load_backend(path)
    with pytest.raises(BackendUnavailable, match="take backend 'torch'"):
        load_backend(path, "onnxruntime")
