"""The trainer on made scenes: exact resuming, leaving on a signal, stopping on nonsense, learning."""

import csv
import dataclasses
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdc_cli.main import main
from kdc_model.checkpoint import load_checkpoint, network_from_checkpoint
from kdc_model.config import ConfigError, TrainConfig
from kdc_model.data.dataset import Batch, PeopleDataset, StepDataset, StepSampler, collate
from kdc_model.losses import all_losses
from kdc_model.train import (
    NonFiniteLoss,
    Trainer,
    _schedule,
    computes_bfloat16,
)
from kdc_model.training_data import training_records


@pytest.fixture
def config(small_config) -> TrainConfig:
    """Six steps of two pictures, out of seven: the second epoch begins in the middle of a batch."""
    return dataclasses.replace(small_config, epochs=12 / 7, learning_rate=0.01, warmup_steps=2)


class Interrupted(Trainer):
    """Gets SIGTERM in the middle of one step, and its loader processes with it, as from a service manager."""

    stop_at = 3

    def train_step(self, batch):
        if self.step == self.stop_at - 1:
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().train_step(batch)


def state(path: Path) -> dict[str, torch.Tensor]:
    """Network, average and optimiser of a checkpoint as one flat dictionary."""
    checkpoint = load_checkpoint(path)
    out = {f"{part}.{k}": v for part in ("network", "average") for k, v in checkpoint[part].items()}
    for number, moments in checkpoint["optimizer"]["state"].items():
        out.update({f"optimizer.{number}.{k}": v for k, v in moments.items()})
    return out


@pytest.mark.parametrize(("workers", "input_size"), [(0, 64), (1, (64, 96))])
def test_stopping_and_resuming_is_like_never_stopping(config, tmp_path, workers, input_size):
    config = dataclasses.replace(config, workers=workers, input_size=input_size)
    straight = Trainer(config, tmp_path / "straight", device="cpu")
    assert straight.total_steps == 6
    whole = state(straight.run())
    previous = signal.getsignal(signal.SIGTERM)
    interrupted = Interrupted(config, tmp_path / "parts", device="cpu")
    saved = interrupted.run()  # leaves by itself
    assert signal.getsignal(signal.SIGTERM) is previous
    assert interrupted.step == 3 and load_checkpoint(saved)["step"] == 3
    assert not multiprocessing.active_children()
    resumed = Trainer(config, tmp_path / "parts", resume=True, device="cpu")
    assert resumed.step == 3
    parts = state(resumed.run())
    assert resumed.step == 6
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-6, msg=name)
    start = Trainer(config, tmp_path / "start", device="cpu").network.state_dict()
    assert any((whole[f"network.{k}"] - v).abs().max() > 1e-3 for k, v in start.items())


def test_finished_run_resumes_to_nothing(config, tmp_path):
    config = dataclasses.replace(config, epochs=2 / 7)
    before = state(Trainer(config, tmp_path, device="cpu").run())
    again = Trainer(dataclasses.replace(config, epochs=0.1), tmp_path, resume=True, device="cpu")
    after = state(again.run())
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_numbers_are_the_same_after_a_run(config, tmp_path):
    # Flushing denormals is a state of the thread: whoever trains in a process of his own gets it back.
    Trainer(dataclasses.replace(config, epochs=1 / 7), tmp_path / "run").run()
    assert np.float32(1e-40) * np.float32(1) > 0 and torch.tensor(1e-40) * 1 > 0


def test_another_run_is_not_overwritten(config, tmp_path):
    path = Trainer(config, tmp_path, device="cpu").save()
    content = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"last\.pt exists: go on with --resume"):
        Trainer(config, tmp_path, device="cpu")
    assert path.read_bytes() == content
    assert not list(tmp_path.glob("*.partial"))


def test_changed_configuration_is_reported_and_its_rates_hold(config, tmp_path, caplog):
    Trainer(config, tmp_path, device="cpu").save()
    changed = dataclasses.replace(config, learning_rate=0.003, weight_decay=0.5)
    with caplog.at_level(logging.WARNING):
        trainer = Trainer(changed, tmp_path, resume=True, device="cpu")
    assert "learning_rate, weight_decay" in caplog.text
    rates = sorted({g["base_lr"] for g in trainer.optimizer.param_groups})
    assert rates == pytest.approx([0.0003, 0.003])  # trunk and rest
    assert {g["weight_decay"] for g in trainer.optimizer.param_groups} == {0.5, 0.0}


@pytest.mark.parametrize("change", [{"channels": 16}, {"freeze_stages": 2}])
def test_another_network_cannot_go_on(config, tmp_path, change):
    Trainer(config, tmp_path, device="cpu").save()
    with pytest.raises(ConfigError, match=r"last\.pt cannot go on with another"):
        Trainer(dataclasses.replace(config, **change), tmp_path, resume=True, device="cpu")


def test_a_start_that_does_not_fit_is_one_clear_line(config, tmp_path):
    Trainer(config, tmp_path / "small", device="cpu").save()
    larger = dataclasses.replace(config, channels=16, pretrained=str(tmp_path / "small" / "last.pt"))
    with pytest.raises(ConfigError, match=r"^pretrained: .*last\.pt is of another network"):
        Trainer(larger, tmp_path / "large", device="cpu")


def test_pictures_must_be_there(config, made_folder, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(made_folder / "images", folder)
    gone = sorted(folder.iterdir())[2]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of the 7 pictures of .* are not there, for one .*{gone.name}"):
        training_records(dataclasses.replace(config, train_images=(str(folder),)))
    empty = tmp_path / "empty.json"
    empty.write_text('{"images": [], "annotations": []}')
    with pytest.raises(ConfigError, match=r"no picture to train on in .*empty\.json"):
        training_records(dataclasses.replace(config, train_annotations=(str(empty),)))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_broken_picture_ends_the_run_with_one_clear_line(config, made_folder, tmp_path, processes):
    """A loader process ignores signals: it must not be waited for at Python's end."""
    folder = tmp_path / "images"
    shutil.copytree(made_folder / "images", folder)
    for picture in folder.iterdir():
        picture.write_bytes(picture.read_bytes()[:-200])
    config = dataclasses.replace(config, train_images=(str(folder),), workers=1)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    command = ["kdc_cli", "train", "--config", str(file), "--out", str(tmp_path / "run"), "--device", "cpu"]
    launch = ["-m"] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("kdc train: ")]
    assert lines and all(line.startswith(f"kdc train: {folder}/") for line in lines)
    if processes == 1:
        assert "Traceback" not in done.stderr


def test_frozen_norms_stay_when_they_are_synchronised(config, tmp_path):
    trainer = Trainer(dataclasses.replace(config, freeze_norms=True), tmp_path, device="cpu")
    # As for several GPUs; what these norms compute in evaluation mode runs anywhere.
    trainer.network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(trainer.network)
    trainer._model = trainer.network
    before = {k: v.clone() for k, v in trainer.network.state_dict().items() if "running" in k}
    trainer.train_step(collate([trainer.dataset[0], trainer.dataset[1]]))
    after = trainer.network.state_dict()
    assert before and all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("head", "channel", "term"),
    [
        ("pose", 0, "heatmap"),
        ("pose", 20, "offset"),
        ("pose", 60, "displacement"),
        ("seg", 0, "person"),
        ("seg", 1, "embedding"),
    ],
)
def test_non_finite_loss_names_the_term_and_saves_nothing(config, tmp_path, head, channel, term):
    trainer = Trainer(config, tmp_path, device="cpu")
    with torch.no_grad():
        getattr(trainer.network, head).fine.bias[channel] = float("nan")
    with pytest.raises(NonFiniteLoss, match=f"'{term}' is nan at step 0"):
        trainer.run()
    assert not (tmp_path / "last.pt").exists()


def test_non_finite_gradient_stops_before_it_reaches_the_weights(config, tmp_path):
    trainer = Trainer(config, tmp_path, device="cpu")
    before = trainer.network.pose.fine.bias.clone()
    trainer.network.pose.fine.bias.register_hook(lambda g: g * float("inf"))
    with pytest.raises(NonFiniteLoss, match="gradient"):
        trainer.run()
    assert torch.equal(trainer.network.pose.fine.bias, before)


def test_checkpoint_brings_back_the_averaged_network(config, tmp_path):
    trainer = Trainer(dataclasses.replace(config, epochs=4 / 7), tmp_path, device="cpu")
    path = trainer.run()
    network, read, step = network_from_checkpoint(path)
    assert read == trainer.config and step == 2 and not network.training
    image = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        for mine, theirs in zip(network(image), trainer.average(image)):
            torch.testing.assert_close(mine, theirs)


def test_average_follows_the_weights(config, tmp_path):
    trainer = Trainer(config, tmp_path, device="cpu")
    name = "pose.fine.weight"
    average = trainer.network.state_dict()[name].clone()
    seen = []
    update = trainer._update_average
    trainer._update_average = lambda: (seen.append(trainer.network.state_dict()[name].clone()), update())
    trainer.run()
    assert len(seen) == 6
    for step, value in enumerate(seen, start=1):
        decay = min(trainer.config.ema_decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(trainer.average.state_dict()[name], average, rtol=1e-4, atol=1e-7)


def test_frozen_stages_stay_and_the_rest_moves(config, tmp_path):
    trainer = Trainer(dataclasses.replace(config, freeze_stages=4, epochs=4 / 7), tmp_path, device="cpu")
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    trainer.run()
    moved = {k for k, v in trainer.network.state_dict().items() if not torch.equal(v, before[k])}
    frozen = ("trunk.conv0", "trunk.block01", "trunk.block02", "trunk.block03")
    assert not [k for k in moved if k.startswith(frozen)]
    assert "trunk.block04.pw.weight" in moved and "seg.fine.weight" in moved


def test_log_has_means_of_the_steps_since(config, tmp_path, monkeypatch):
    trainer = Trainer(dataclasses.replace(config, epochs=40 / 7, batch_size=1), tmp_path, device="cpu")
    trainer.step = 15  # as after a resume: twenty is only five steps away

    def step(batch):
        trainer.step += 1
        return {"total": float(trainer.step)}

    monkeypatch.setattr(trainer, "train_step", step)
    trainer.run()
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [(r["step"], float(r["total"])) for r in rows] == [("20", 18.0), ("40", 30.5)]


def test_schedule_rises_then_falls():
    values = [_schedule(step, 10, 100) for step in range(101)]
    assert values[0] == pytest.approx(0.1) and values[9] == pytest.approx(1.0)
    assert np.diff(values[:10]).min() > 0 and np.diff(values[10:]).max() < 0
    assert values[100] == pytest.approx(0.01)
    assert _schedule(0, 0, 1) == 1.0


def test_sampler_shows_every_picture_once_an_epoch_from_any_start():
    whole = list(StepSampler(7, 3, 0, 21))
    for epoch in range(3):
        assert sorted(key[1:] for key in whole[7 * epoch : 7 * epoch + 7]) == [(epoch, i) for i in range(7)]
    assert [key[0] for key in whole] == list(range(21))
    assert [key[2] for key in whole[:7]] != [key[2] for key in whole[7:14]]
    assert list(StepSampler(7, 3, 5, 9)) == whole[5:14]


def test_the_steps_take_their_window_sizes_in_turns(config, tmp_path):
    # Every window of a step has one size, and steps that begin in the middle of an epoch keep their turn.
    trainer = Trainer(dataclasses.replace(config, input_size=(64, 64, 96)), tmp_path, device="cpu")
    seen = []
    trainer.train_step = lambda batch: seen.append(batch.images.shape) or {}
    trainer.run()
    assert seen == [(2, 3, side, side) for side in (64, 64, 96, 64, 64, 96)]
    dataset = StepDataset(trainer.dataset, 2, (64, 96))
    assert [dataset[position, 0, 1][0].shape for position in range(2, 6)] == [(96, 96, 3)] * 2 + [(64, 64, 3)] * 2
    # Augmentation does not ask for the place in the run.
    np.testing.assert_array_equal(dataset[0, 0, 1][0], dataset[5, 0, 1][0])


def test_pictures_with_unmarked_crowds_are_left_out(config, made_folder, tmp_path):
    text = (made_folder / "annotations.json").read_text()
    text = text.replace('"width": 128}', '"width": 128, "crowd_prob": 0.9}', 2)
    path = tmp_path / "crowds.json"
    path.write_text(text)
    doubtful = dataclasses.replace(config, train_annotations=(str(path),))
    assert len(training_records(doubtful)) == 5
    assert len(training_records(dataclasses.replace(doubtful, max_crowd_prob=0.95))) == 7


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_broken_checkpoint_says_so(tmp_path, content):
    path = tmp_path / "last.pt"
    if content is None:
        torch.save({"something": 1}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.pt is not a"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")


def one_scene(trainer: Trainer) -> Batch:
    """A batch of one picture with people, not augmented."""
    index = next(i for i, r in enumerate(trainer.dataset.records) if len(r.persons) >= 2)
    config = trainer.config
    dataset = PeopleDataset(trainer.dataset.records, config.input_size, config.stride, config.disk_radius_px)
    return collate([dataset[index]] * 2)


@pytest.mark.parametrize("mask_mode", ["static", "embedding", "bank"])
def test_a_few_dozen_steps_on_one_scene_lower_every_term(config, tmp_path, mask_mode):
    config = dataclasses.replace(
        config, mask_mode=mask_mode, channels=16, warmup_steps=5, trunk_rate=1.0, epochs=120 / 7
    )
    trainer = Trainer(config, tmp_path, device="cpu")
    batch = one_scene(trainer)
    history = [trainer.train_step(batch) for _ in range(45)]
    fields = trainer.network.eval()(batch.images.float())
    assert all(torch.isfinite(f).all() for f in fields)
    terms = all_losses(fields, batch, config.stride, mask_mode)
    assert set(terms) == set(history[0]) - {"total"}
    for name in history[0]:
        first, last = history[0][name], np.mean([h[name] for h in history[-5:]])
        if first == 0:  # the bank has no separation term
            assert last == 0
        elif name == "sigma" and mask_mode != "bank":
            assert last < 0.5  # starts at its lowest, the same everywhere
        else:
            assert last < 0.9 * first, (name, first, last)


def test_mixed_precision_is_nearly_the_same_step(config, tmp_path):
    """The network's convolutions in bfloat16; losses, gradients and weights in float32, near those of float32."""
    config = dataclasses.replace(config, mixed_precision=True)
    exact = Trainer(config, tmp_path / "exact", device="cpu", bfloat16=False)
    mixed = Trainer(config, tmp_path / "mixed", device="cpu", bfloat16=True)
    seen = []
    mixed.network.pose.fine.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batch = collate([exact.dataset[i] for i in range(2)])
    one, two = exact.train_step(batch), mixed.train_step(batch)
    assert seen == [torch.bfloat16]
    assert one != two
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=0.02, abs=1e-3), name
    gradients = []
    for trainer in (exact, mixed):
        parameters = list(trainer.network.parameters())
        assert all(p.dtype == torch.float32 for p in parameters)
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    assert gradients[1].dtype == torch.float32
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.98


def test_mixed_precision_where_the_cpu_has_it(config, tmp_path, monkeypatch):
    for able, expected in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert computes_bfloat16(torch.device("cpu")) is expected
    assert not computes_bfloat16(torch.device("meta"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    asked = dataclasses.replace(config, mixed_precision=True)
    assert Trainer(asked, tmp_path / "on", device="cpu")._bfloat16
    assert not Trainer(config, tmp_path / "off", device="cpu")._bfloat16


def test_gradients_are_clipped(config, tmp_path):
    trainer = Trainer(dataclasses.replace(config, clip_norm=1e-3), tmp_path, device="cpu")
    trainer.train_step(collate([trainer.dataset[i] for i in range(2)]))
    norms = [parameter.grad.norm() for parameter in trainer.network.parameters() if parameter.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_convolutions_run_channels_last(config, tmp_path):
    trainer = Trainer(config, tmp_path, device="cpu")
    layouts = []
    trainer.network.trunk.conv0.register_forward_pre_hook(
        lambda module, inputs: layouts.append(
            [t.is_contiguous(memory_format=torch.channels_last) for t in (module.weight, inputs[0])]
        )
    )
    trainer.train_step(collate([trainer.dataset[i] for i in range(2)]))
    assert layouts == [[True, True]]


def test_the_optimiser_follows_the_schedule(config, tmp_path):
    trainer = Trainer(dataclasses.replace(config, warmup_steps=4), tmp_path, device="cpu")
    batch = collate([trainer.dataset[i] for i in range(2)])
    groups = trainer.optimizer.param_groups
    assert {group["base_lr"] for group in groups} == {0.001, 0.01}  # trunk and rest
    for step in range(6):
        trainer.train_step(batch)
        factor = _schedule(step, 4, 6)
        assert [group["lr"] for group in groups] == pytest.approx([group["base_lr"] * factor for group in groups])


def test_the_total_is_what_the_weights_say(config, tmp_path):
    config = dataclasses.replace(config, loss_person=7.0, loss_offset=0.0)
    trainer = Trainer(config, tmp_path, device="cpu")
    seen = []
    trainer.network.seg.fine.bias.register_hook(lambda gradient: seen.append(gradient.clone()))
    batch = one_scene(trainer)
    terms = trainer.train_step(batch)
    total, weights = terms.pop("total"), config.loss_weights()
    assert total == pytest.approx(sum(weights[name] * value for name, value in terms.items()))
    assert min(terms["person"], terms["offset"]) > 0
    # And it is what the step goes down: without any weight nothing moves.
    nothing = {f"loss_{name}": 0.0 for name in weights}
    still = Trainer(dataclasses.replace(config, weight_decay=0.0, **nothing), tmp_path / "still", device="cpu")
    before = still.network.seg.fine.weight.clone()
    assert still.train_step(batch)["total"] == 0 and torch.equal(still.network.seg.fine.weight, before)
    assert seen and seen[0].abs().max() > 0


def test_resuming_without_a_checkpoint_says_that_a_run_starts(config, tmp_path, capsys):
    file, out = tmp_path / "config.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(dataclasses.replace(config, epochs=0.1).to_dict()))
    command = ["train", "--config", str(file), "--out", str(out), "--device", "cpu"]
    for resumes in (False, True):
        assert main([*command, "--resume"]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kdc train")]
        expected = f"kdc train: nothing to resume in {out} (no last.pt): a new run starts"
        assert lines == ([] if resumes else [expected])
