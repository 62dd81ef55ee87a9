"""Checkpoints: a broken one is told in one line with its name, and only networks of one meaning are averaged."""

import dataclasses
from pathlib import Path

import pytest
import torch

from kdc_cli.main import main
from kdc_model.checkpoint import CheckpointError, load_checkpoint, mean_network, network_from_checkpoint
from kdc_model.train import Trainer


@pytest.fixture
def saved(small_config, tmp_path) -> Path:
    """A checkpoint after one step."""
    trainer = Trainer(dataclasses.replace(small_config, epochs=0.1), tmp_path / "run", device="cpu")
    return trainer.run()


def changed(saved: Path, change) -> Path:
    checkpoint = load_checkpoint(saved)
    change(checkpoint)
    torch.save(checkpoint, saved)
    return saved


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("step"), "'step' must be int, got NoneType"),
        (lambda c: c.update(step="7"), "'step' must be int, got str"),
        (lambda c: c.update(config=[1]), "'config' must be dict, got list"),
        (lambda c: c["config"].update(zzz=1), "'config': unknown keys zzz"),
        (lambda c: c["config"].update({1: 2}), "'config': unknown keys 1"),
        (lambda c: c["config"].pop("train_images"), "'config': .* lacks 'train_images'"),
        (lambda c: c["config"].update(channels="8"), "'config': channels must be int"),
        (lambda c: c.update(average=[1]), "'average' must be dict, got list"),
        (lambda c: c.update(average={"a": 1}), "'average' must map names to tensors"),
        (lambda c: c.update(average={}), r"'average' is not of the network .* \(of \d+\) do not fit"),
        (lambda c: c["average"].update(more=torch.zeros(1)), r"'average' is not of the network .*: more \(of 1\)"),
        (lambda c: c["config"].update(channels=16), "'average' is not of the network in its 'config'"),
    ],
)
def test_wrong_content_is_one_line_for_every_reader(saved, change, reason, tmp_path, capsys):
    path = changed(saved, change)
    with pytest.raises(CheckpointError, match=reason) as caught:
        network_from_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: its ") and "\n" not in str(caught.value)
    assert main(["export", "--checkpoint", str(path), "--out", str(tmp_path / "x.onnx")]) == 1
    assert main(["gradients", "--checkpoint", str(path), "--batches", "2", "--device", "cpu"]) == 1
    assert capsys.readouterr().err.splitlines() == [f"kdc export: {caught.value}", f"kdc gradients: {caught.value}"]


def shrink_moment(checkpoint: dict) -> None:
    moments = checkpoint["optimizer"]["state"]
    moments[0]["exp_avg"] = moments[0]["exp_avg"][:1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("step"), "'step' must be int"),
        (lambda c: c.update(config=[1]), "'config' must be dict"),
        (lambda c: c["config"].update(zzz=1), "'config': unknown keys zzz"),
        (lambda c: c.pop("network"), "'network' must map names to tensors"),
        (lambda c: c["network"].popitem(), "'network' is not of the network"),
        (lambda c: c.update(average={}), "'average' is not of the network"),
        (lambda c: c.pop("optimizer"), "'optimizer' is lacking, or not of its network"),
        (lambda c: c.update(optimizer=[]), "'optimizer' is lacking"),
        (lambda c: c["optimizer"].update(param_groups=[]), "'optimizer' is lacking"),
        (lambda c: c["optimizer"]["state"][0].pop("exp_avg_sq"), "'optimizer' is lacking"),
        (shrink_moment, "'optimizer' is lacking"),
    ],
)
def test_a_run_does_not_go_on_from_wrong_content(small_config, saved, change, reason):
    path = changed(saved, change)
    with pytest.raises(CheckpointError, match=reason) as caught:
        Trainer(small_config, path.parent, resume=True, device="cpu")
    assert str(caught.value).startswith(f"{path}: its ") and "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_one_line_without_advice(saved, shipped_model, tmp_path):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(saved.read_bytes()[:1000])
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    for path in (shipped_model, cut, empty):
        with pytest.raises(CheckpointError, match=f"^{path} is not a readable checkpoint: .") as caught:
            load_checkpoint(path)
        assert len(str(caught.value)) < len(str(path)) + 120 and "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"mask_mode": "static"}, {"disk_radius_px": 32.0}, {"disk_radius_range": (8.0, 20.0)}]
)
def test_networks_of_different_meaning_have_no_mean(small_config, tmp_path, change):
    first = Trainer(small_config, tmp_path / "first", device="cpu").save()
    other = Trainer(dataclasses.replace(small_config, **change), tmp_path / "other", device="cpu").save()
    later = Trainer(dataclasses.replace(small_config, learning_rate=0.5), tmp_path / "later", device="cpu").save()
    with pytest.raises(CheckpointError, match=rf"other.*first.*different networks \({next(iter(change))} "):
        mean_network([other, first])
    assert mean_network([first, later])[1].learning_rate == 0.5
