"""Narrowing a trunk: what can be replaced is, exactly; what cannot costs what the formula says."""

import dataclasses
import itertools
import logging

import numpy as np
import pytest
import torch

from kdc_model.network import KDCNet, NetworkConfig
from kdc_model.pretrained import initialise
from kdc_model.slim import Moments, best_channels, fit, slim_trunk
from kdc_model.train import Trainer
from kdc_model.trunks import make_trunk
from tests.model.movenet_graph import made_weights, write_graph


def squared_error(hidden, output, kept) -> float:
    """Of the best fit of the outputs from some channels and a constant, by numpy's own least squares."""
    inputs = torch.cat([hidden[:, kept], torch.ones(len(hidden), 1)], 1).double().numpy()
    return float(np.linalg.lstsq(inputs, output.double().numpy(), rcond=None)[1].sum())


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Seven channels with some in common, and three outputs of all of them and a little noise."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4000, 7, generator=generator) @ torch.randn(7, 7, generator=generator) + 3.0
    output = hidden @ torch.randn(7, 3, generator=generator) + 0.1 * torch.randn(4000, 3, generator=generator) - 5.0
    return hidden, output


def test_fit_is_least_squares_with_a_constant(samples):
    hidden, output = samples
    moments = Moments.of([(hidden[:1500], output[:1500]), (hidden[1500:], output[1500:])])
    kept = [0, 2, 3, 6]
    weight, lost = fit(moments, kept)
    bias = moments.output_mean - weight @ moments.mean[kept]
    error = ((hidden[:, kept].double() @ weight.T + bias - output) ** 2).sum()
    best = squared_error(hidden, output, kept)
    assert float(error) == pytest.approx(best, rel=1e-3)
    centred = output.double() - output.double().mean(0)
    assert lost == pytest.approx(best / float((centred**2).sum()), rel=1e-2)


def test_the_channel_that_costs_least_goes_first(samples):
    hidden, output = samples
    moments = Moments.of([samples])
    best = min(itertools.combinations(range(7), 6), key=lambda kept: squared_error(hidden, output, list(kept)))
    assert best_channels(moments, 6) == list(best)


def test_copies_are_replaced_without_a_loss():
    base = torch.rand(500, 3, generator=torch.Generator().manual_seed(1))
    hidden = torch.cat([base, 2 * base[:, :1] + 1, base[:, 1:2], torch.zeros(500, 1)], 1)
    moments = Moments.of([(hidden, base @ torch.tensor([[1.0, 2.0], [3.0, -4.0], [5.0, 6.0]]))])
    kept = best_channels(moments, 3)
    assert 2 in kept and 5 not in kept
    assert {1, 4} & set(kept) and {0, 3} & set(kept)
    assert fit(moments, kept)[1] == pytest.approx(0, abs=1e-4)


@pytest.fixture(scope="module")
def redundant():
    """A wide trunk whose first blocks' hidden channels, in what the slim one lacks, are copies of others."""
    torch.manual_seed(0)
    wide, slim = make_trunk("movenet", 32).eval(), make_trunk("movenet_slim", 32).eval()
    with torch.no_grad():
        for number, (source, target) in enumerate(zip(wide.blocks(), slim.blocks())):
            count = len(target.dw.weight)
            if count == len(source.dw.weight):
                continue
            for conv in (source.expand if number else wide.conv0, source.dw):
                for tensor in (conv.weight, conv.bias):
                    extra = len(tensor) - count
                    # Copies of the first ones (a channel may be copied more than once).
                    tensor[count:] = tensor[torch.arange(extra) % count]
    return wide, slim


def test_a_trunk_with_copies_becomes_slim_without_a_change(redundant, caplog):
    wide, slim = redundant
    pictures = [torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in range(3)]
    with caplog.at_level(logging.INFO):
        slim_trunk(wide, slim, lambda: pictures)
    lines = [r.getMessage() for r in caplog.records]
    assert [line.split(",")[0] for line in lines] == [
        "block 0: 32 of 48 channels", "block 1: 80 of 144 channels", "block 2: 144 of 240 channels",
        "block 3: 144 of 240 channels",
    ]  # fmt: skip
    assert all("0.0 % of the output's variance lost" in line for line in lines)
    image = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(9)) * 2 - 1
    with torch.no_grad():
        for a, b in zip(wide(image), slim(image), strict=True):
            assert float((a - b).abs().max()) < 0.02 * float(a.std())


def movenet(trunk: str) -> NetworkConfig:
    return NetworkConfig(trunk=trunk, output_stride=32, head_units=1)


def pictures():
    return [torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0)).float()]


def test_everything_behind_the_first_blocks_is_the_wide_networks(tmp_path):
    path = write_graph(tmp_path, made_weights())
    torch.manual_seed(0)
    wide = KDCNet(movenet("movenet")).eval()
    initialise(wide, path)
    slim = KDCNet(movenet("movenet_slim")).eval()
    initialise(slim, path, pictures)
    own, theirs = slim.state_dict(), wide.state_dict()
    narrowed = {k for k in own if own[k].shape != theirs[k].shape}
    blocks = {k.split(".")[1] for k in narrowed}
    assert blocks == {"conv0", "block00", "block01", "block02", "block03"}
    trunk = {k for k in own if k.startswith("trunk.") and k.split(".")[1] not in blocks}
    assert len(trunk) > 50
    assert all(torch.equal(own[k], theirs[k]) for k in trunk)
    # What MoveNet does not fill is random in both; the deepest lateral is filled whole.
    assert torch.equal(own["pyramid.lateral.0.weight"], theirs["pyramid.lateral.0.weight"])
    with pytest.raises(ValueError, match=r"movenet\.json has the wide trunk: pictures are needed"):
        initialise(slim, path)


def test_training_goes_on_slim_from_a_wide_checkpoint(small_config, tmp_path):
    config = dataclasses.replace(small_config, trunk="movenet", output_stride=32, epochs=2 / 7)
    path = Trainer(config, tmp_path / "wide", device="cpu").run()
    slim = dataclasses.replace(config, trunk="movenet_slim", pretrained=str(path))
    trainer = Trainer(slim, tmp_path / "slim", device="cpu")
    wide = KDCNet(config.network())
    initialise(wide, path)
    assert torch.equal(trainer.network.pose.fine.weight, wide.pose.fine.weight)
    assert len(trainer.network.trunk.conv0.weight) == 32
    kept = trainer.network.trunk.conv0.weight.flatten(1)
    full = wide.trunk.conv0.weight.flatten(1)
    assert all((row == full).all(1).any() for row in kept)
    trainer.run()
    assert Trainer(slim, tmp_path / "slim", resume=True, device="cpu").step == trainer.step == 1
