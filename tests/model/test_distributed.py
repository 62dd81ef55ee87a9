"""Two real processes (gloo) against one with the same global batch: the same losses, weights and scores."""

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from kdc_cli.main import main
from kdc_model.checkpoint import load_checkpoint
from kdc_model.config import ConfigError, TrainConfig
from kdc_model.data.dataset import StepSampler
from kdc_model.distributed import local_device
from kdc_model.train import Trainer


@pytest.fixture
def config(made_folder) -> TrainConfig:
    """Three steps of four pictures; batch norms frozen, as their statistics are each process's own on a CPU."""
    annotations, images = str(made_folder / "annotations.json"), str(made_folder / "images")
    return TrainConfig(
        (annotations,), (images,), val_annotations=annotations, val_images=images, channels=8, head_units=1,
        input_size=(64, 96), long_side=96, epochs=12 / 7, batch_size=4, learning_rate=0.01, warmup_steps=1, workers=0,
        seed=1, freeze_norms=True, evaluate_epochs=10.0, mixed_precision=False,
    )  # fmt: skip


def start_two(config: TrainConfig, out: Path) -> subprocess.Popen:
    file = out.parent / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = ["-m", "kdc_cli", "train", "--config", str(file), "--out", str(out), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launch, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_train_and_score_like_one(config, tmp_path):
    two = start_two(config, tmp_path / "two")
    one = load_checkpoint(Trainer(config, tmp_path / "one", device="cpu").run())
    output, _ = two.communicate(timeout=240)
    assert two.returncode == 0, output
    both = load_checkpoint(tmp_path / "two" / "last.pt")
    assert both["step"] == one["step"] == 3
    assert output.count("the checkpoint is") == 1  # one process speaks
    for part in ("network", "average"):
        for name, value in one[part].items():
            torch.testing.assert_close(both[part][name], value, rtol=1e-4, atol=2e-5, msg=f"{part} {name}")
    scores = rows(tmp_path / "one" / "scores.csv")
    assert len(scores) == 1
    for name, value in rows(tmp_path / "two" / "scores.csv")[0].items():
        assert float(value) == pytest.approx(float(scores[0][name]), abs=2e-3), name
    assert (tmp_path / "two" / "curves.png").exists()


def test_a_signal_ends_both_at_the_same_step_with_a_checkpoint(config, tmp_path):
    config = dataclasses.replace(config, epochs=10_000.0, val_annotations="", val_images="", checkpoint_minutes=0.001)
    two = start_two(config, tmp_path / "two")
    deadline = time.monotonic() + 200
    while not (tmp_path / "two" / "last.pt").exists():
        assert two.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    two.send_signal(signal.SIGTERM)
    output, _ = two.communicate(timeout=100)
    assert output.count("stopped by a signal at step") == 2, output
    assert load_checkpoint(tmp_path / "two" / "last.pt")["step"] >= 1


def test_the_processes_share_out_every_batch():
    whole = list(StepSampler(7, 3, 4, 16))
    shares = [list(StepSampler(7, 3, 4, 16, rank, 2)) for rank in range(2)]
    for step in range(4):
        batch = [key for share in shares for key in share[2 * step : 2 * step + 2]]
        assert sorted(batch) == sorted(whole[4 * step : 4 * step + 4])
    assert [len(StepSampler(7, 3, 4, 16, rank, 2)) for rank in range(2)] == [8, 8]


def test_a_batch_that_cannot_be_shared_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr("kdc_model.distributed.world_size", lambda: 3)
    with pytest.raises(ConfigError, match="batch_size 4 must be a multiple of the 3 processes"):
        Trainer(config, tmp_path, device="cpu")


def test_a_device_is_a_cpu_or_a_gpu_that_is_there(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device(None) == local_device("") == local_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:7", "cuda:-1", "xpu", "mps", "vulkan", "meta", "bogus"):
        with pytest.raises(ConfigError, match=f"^there is no device '{name}.*: cpu, or one of this machine's 0 "):
            local_device(name)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    assert main(["train", "--config", str(file), "--out", str(tmp_path / "run"), "--device", "cuda"]) == 1
    assert capsys.readouterr().err.startswith("kdc train: there is no device 'cuda:0'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device(None) == local_device("cuda") == torch.device("cuda:1")
    assert local_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="'cuda:2': cpu, or one of this machine's 2 "):
        local_device("cuda:2")
