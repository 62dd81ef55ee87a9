"""Scores during training: the torch network behind the pipeline, the table of scores, and the best checkpoint."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kdc_core.pipeline import Pipeline  # noqa: E402
from kdc_model.checkpoint import load_checkpoint  # noqa: E402
from kdc_model.config import ConfigError, TrainConfig  # noqa: E402
from kdc_model.network import KDCNet  # noqa: E402
from kdc_model.torch_backend import TorchBackend, model_spec  # noqa: E402
from kdc_model.train import Trainer  # noqa: E402
from kdc_model.validation import Validation  # noqa: E402


@pytest.fixture
def config(made_folder: Path) -> TrainConfig:
    annotations, images = str(made_folder / "annotations.json"), str(made_folder / "images")
    return TrainConfig(
        (annotations,), (images,), val_annotations=annotations, val_images=images,
        channels=8, head_units=1, input_size=64, long_side=64, batch_size=2, workers=0, warmup_steps=0,
    )  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_torch_backend_takes_pictures_of_any_size(config: TrainConfig) -> None:
    network = KDCNet(config.network()).eval()
    result = Pipeline(TorchBackend(network, model_spec(network, config)))(np.zeros((30, 50, 3), np.uint8))
    assert result.image_hw == (30, 50)
    assert result.people.mask_labels is not None and result.people.mask_labels.shape == (30, 50)


def test_a_run_is_scored_every_epoch_and_at_its_end(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, epochs=1.5), tmp_path / "run")
    steps_an_epoch = round(len(trainer.dataset) / config.batch_size)
    trainer.run()
    found = rows(tmp_path / "run" / "scores.csv")
    assert [int(r["step"]) for r in found] == [steps_an_epoch, trainer.total_steps]
    assert all(-1 <= float(r["keypoints.AP"]) <= 1 and -1 <= float(r["segm.AP"]) <= 1 for r in found)


def test_a_signal_in_the_last_step_does_not_cost_the_scores(config: TrainConfig, tmp_path: Path) -> None:
    class Interrupted(Trainer):
        def train_step(self, batch):
            self._stop = self.step == self.total_steps - 1
            return super().train_step(batch)

    config = replace(config, epochs=0.6, evaluate_epochs=10.0)
    Interrupted(config, tmp_path).run()
    assert not (tmp_path / "scores.csv").exists()
    for _ in range(2):  # once, however often it goes on
        trainer = Trainer(config, tmp_path, resume=True)
        trainer.run()
        assert [int(r["step"]) for r in rows(tmp_path / "scores.csv")] == [trainer.total_steps]
    assert (tmp_path / "best.pt").exists()


def test_without_validation_data_or_wish_nothing_is_scored(config: TrainConfig, tmp_path: Path) -> None:
    for name, change in (("no data", {"val_annotations": "", "val_images": ""}), ("no wish", {"evaluate_epochs": 0.0})):
        out = tmp_path / name
        Trainer(replace(config, epochs=0.2, **change), out).run()
        assert not (out / "scores.csv").exists() and (out / "last.pt").exists()


def test_only_a_better_network_becomes_the_best(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config, tmp_path)
    validation = Validation(config, tmp_path, steps_per_epoch=1)
    for step, (keypoint_ap, mask_ap, best_step) in enumerate(
        ((0.2, 0.1, 0), (0.1, 0.1, 0), (0.1, 0.3, 2), (0.39, 0.0, 2)), start=0
    ):
        metrics = {"keypoints.AP": keypoint_ap, "segm.AP": mask_ap}
        metrics |= {"keypoints.AP50": 0.0, "segm.AP50": 0.0, "person_iou": 0.0}
        monkeypatch.setattr("kdc_model.validation.find_people", lambda *_: None)
        monkeypatch.setattr("kdc_model.validation.score", lambda *_, m=metrics: m)
        trainer.step = step
        if step == 3:  # as in a resumed run
            validation = Validation(config, tmp_path, steps_per_epoch=1)
        validation.run(trainer.average, trainer.save(), step)
        assert load_checkpoint(tmp_path / "best.pt")["step"] == best_step
    assert len(rows(tmp_path / "scores.csv")) == 4


def test_annotations_without_images_are_refused(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="val_annotations and val_images"):
        replace(config, val_images="")


def test_scores_that_were_cut_off_do_not_stop_a_run(config: TrainConfig, tmp_path: Path) -> None:
    header = "step,keypoints.AP,keypoints.AP50,segm.AP,segm.AP50,person_iou"
    path = tmp_path / "scores.csv"
    for text, best, steps in (
        (f"{header}\n3,0.2,0.5,0.1,0.2,0.6\n6,0.9", 0.3, {3}),
        (f"{header}\n3,0.2,0.5,0.1,0.2,0.6\n6,0.9,0.9,0.9,0.9,", 0.3, {3}),
        (f"{header}\n", -1.0, set()),
        ("", -1.0, set()),
        ("hello\n1\n", -1.0, set()),
    ):
        path.write_text(text)
        validation = Validation(config, tmp_path, steps_per_epoch=3)
        assert validation._best == pytest.approx(best) and validation._steps == steps
        assert validation.missed(6, 9) and validation.missed(3, 9) == (3 not in steps)
