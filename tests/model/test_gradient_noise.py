"""Signal and noise of gradients: moments with known answers, the parts of a real network, the command."""

import dataclasses
import json
import math

import pytest
import torch

from kdc_cli.main import main
from kdc_model.config import TrainConfig
from kdc_model.gradient_noise import GradientMoments, measure, table, training_batches
from kdc_model.network import KDCNet
from kdc_model.train import Trainer, freeze_stages


@pytest.fixture
def config(small_config) -> TrainConfig:
    return dataclasses.replace(small_config, epochs=2 / 7)


def network_of(config: TrainConfig) -> KDCNet:
    torch.manual_seed(0)
    return KDCNet(config.network()).eval()


def test_moments_of_three_gradients() -> None:
    moments = GradientMoments.empty(2)
    for gradient in ([1.0, 0.0], [3.0, 0.0], [5.0, 3.0]):
        moments.add(torch.tensor(gradient))
    # Variances 4 and 3 by n - 1; the mean is (3, 1), of whose 10 squared the noise makes up 7 / 3.
    assert moments.variance().tolist() == pytest.approx([4.0, 3.0])
    assert moments.signal2() == pytest.approx(10 - 7 / 3)
    assert moments.signal2(slice(0, 1)) == pytest.approx(9 - 4 / 3)


def test_signal_is_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.5, -0.25, 0.0, 0.0])
    found = []
    for _ in range(400):
        moments = GradientMoments.empty(4)
        for _ in range(4):
            moments.add(mean + torch.randn(4, generator=generator))
        found.append(moments.signal2())
    # One estimate scatters by about 0.8: noise can hide the signal, and the estimate may be negative.
    assert sum(found) / len(found) == pytest.approx(0.3125, abs=0.12)
    assert min(found) < 0


def test_weight_of_a_term_scales_its_noise_and_signal_alone(config) -> None:
    network, batches = network_of(config), list(training_batches(config, 4))
    plain = measure(network, batches, config)
    heavy = measure(network, batches, dataclasses.replace(config, loss_person=2 * config.loss_person))
    assert heavy.loss["person"] == pytest.approx(2 * plain.loss["person"])
    for part in ("trunk", "pyramid", "seg"):
        assert heavy.parts[part]["person"].noise == pytest.approx(4 * plain.parts[part]["person"].noise, rel=1e-4)
        assert heavy.parts[part]["person"].share > plain.parts[part]["person"].share
        assert heavy.parts[part]["embedding"].share < plain.parts[part]["embedding"].share
    assert heavy.parts["trunk"]["person"].signal == pytest.approx(4 * plain.parts["trunk"]["person"].signal, rel=1e-3)
    assert heavy.parts["trunk"]["offset"].noise == pytest.approx(plain.parts["trunk"]["offset"].noise, rel=1e-4)


def test_terms_reach_the_parts_that_they_depend_on(config) -> None:
    report = measure(network_of(config), training_batches(config, 3), config)
    assert set(report.parts) == {"trunk", "pyramid", "pose", "seg"}
    assert {"heatmap", "offset", "displacement"} == set(report.parts["pose"])
    assert {"person", "embedding", "separation", "sigma"} >= set(report.parts["seg"]) >= {"person", "embedding"}
    for part in report.parts.values():
        assert sum(term.share for term in part.values()) == pytest.approx(1.0, abs=1e-5)
    assert (report.batch_size, report.batches) == (2, 3)
    text = table(report)
    assert "| term | weighted loss | trunk | pyramid | pose | seg |" in text
    assert all(f"| {name} |" in text for name in report.loss)


def test_same_batch_again_has_no_noise(config) -> None:
    (batch,) = training_batches(config, 1)
    report = measure(network_of(config), [batch, batch, batch], config)
    assert report.noise_scale == pytest.approx(0.0, abs=1e-6)


def test_network_is_left_as_it_was(config) -> None:
    network = network_of(config)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measure(network, training_batches(config, 2), config)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_frozen_stages_do_not_count(config) -> None:
    network, batches = network_of(config), list(training_batches(config, 2))
    whole = measure(network, batches, config).parts
    freeze_stages(network, dataclasses.replace(config, freeze_stages=2))
    rest = measure(network, batches, config).parts
    assert 0 < rest["trunk"]["person"].noise < whole["trunk"]["person"].noise
    assert rest["seg"]["person"].noise == pytest.approx(whole["seg"]["person"].noise)


def test_batch_without_people_counts_as_no_gradient(config) -> None:
    (seen,) = training_batches(config, 1)
    empty = next(b for b in training_batches(config, 40) if not any(len(c) for c in b.centroids_xy))
    report = measure(network_of(config), [seen, empty], config)
    # Two batches, g and 0: their variance is |g|^2 / 2, and of the mean's |g|^2 / 4 nothing is signal.
    embedding = report.parts["seg"]["embedding"]
    assert embedding.noise > 0
    assert embedding.signal == pytest.approx(0.0, abs=1e-6 * embedding.noise)


def test_one_batch_is_not_enough(config) -> None:
    with pytest.raises(ValueError, match="two batches"):
        measure(network_of(config), training_batches(config, 1), config)


def test_command(config, tmp_path, capsys) -> None:
    Trainer(config, tmp_path / "run").run()
    checkpoint = str(tmp_path / "run" / "last.pt")
    out = tmp_path / "figures" / "noise.json"
    assert main(["gradients", "--checkpoint", checkpoint, "--batches", "3", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["batches"] == 3 and figures["parts"]["trunk"]["person"]["noise"] > 0
    assert figures["noise_scale"] is None or math.isfinite(figures["noise_scale"])
    assert "| person |" in capsys.readouterr().out
    assert main(["gradients", "--checkpoint", checkpoint, "--set", "channels=16"]) == 1
    assert "network" in capsys.readouterr().err
