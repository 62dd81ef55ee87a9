"""What each loss term does to the weights: how much of a step is its signal, how much its noise.

A step follows the mean gradient of a few windows. What differs from batch to batch is noise, and Adam divides by the
size of signal and noise of all terms together: a noisy term slows the learning of all the others in the parts of the
network that they share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdc_model.config import TrainConfig
from kdc_model.data.dataset import Batch, StepDataset, StepSampler, collate
from kdc_model.losses import all_losses
from kdc_model.network import KDCNet
from kdc_model.training_data import training_dataset


@dataclass
class GradientMoments:
    """Moments of one term's gradient over batches, by parameter: batch after batch, nothing else is kept.

    total, squares: sums of the gradient and of its squares over `count` batches, float64 (D,).
    """

    total: Tensor
    squares: Tensor
    count: int = 0

    @classmethod
    def empty(cls, size: int) -> GradientMoments:
        return cls(torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))

    def add(self, gradient: Tensor) -> None:
        """Take in one batch's gradient (D,)."""
        gradient = gradient.to(self.total)
        self.total += gradient
        self.squares += gradient**2
        self.count += 1

    def variance(self) -> Tensor:
        """Unbiased variance from batch to batch by parameter, (D,). Needs two batches."""
        return (self.squares - self.total**2 / self.count).clamp(min=0) / (self.count - 1)

    def signal2(self, part: slice = slice(None)) -> float:
        """Unbiased squared length of the mean gradient of some parameters; below 0 where noise hides it."""
        mean2 = float((self.total[part] ** 2).sum()) / self.count**2
        return mean2 - float(self.variance()[part].sum()) / self.count


@dataclass(frozen=True)
class TermNoise:
    """One weighted loss term in one part of the network.

    noise:  variance of its gradient, summed over the part's parameters.
    share:  its share of the variance of all terms, averaged over the parameters, 0..1: how much of what moves Adam's
            normalised step to and fro is this term.
    signal: squared length of its mean gradient (below 0: hidden by the noise).
    """

    noise: float
    share: float
    signal: float


@dataclass(frozen=True)
class NoiseReport:
    """Parts of the network (trunk, pyramid, pose, seg) by name; in each the terms that reach it.

    loss:        the weighted terms' means.
    noise_scale: windows in a batch at which noise and signal of the total are alike, tr(S) / |G|^2 (McCandlish et al.,
                 An Empirical Model of Large-Batch Training, 2018, eq. 2.8); None where the noise hides the signal.
    """

    batch_size: int
    batches: int
    loss: dict[str, float]
    parts: dict[str, dict[str, TermNoise]]
    noise_scale: float | None


def measure(network: KDCNet, batches: Iterable[Batch], config: TrainConfig) -> NoiseReport:
    """Gradients of every weighted loss term over batches of `config`; the network is left as it is (in evaluation
    mode: the norms' statistics do not move). Raises ValueError on fewer than two batches.
    """
    network.eval().zero_grad(set_to_none=True)
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    size = sum(p.numel() for p in parameters)
    weights = {name: weight for name, weight in config.loss_weights().items() if weight > 0}
    moments: dict[str, GradientMoments] = {}
    losses: dict[str, list[float]] = {}
    device, images = parameters[0].device, 0
    for batch in batches:
        batch = batch.to(device)
        images += len(batch.images)
        fields = network(batch.images.float().contiguous(memory_format=torch.channels_last))
        gradients = {"total": torch.zeros(size, device=device)}
        terms = all_losses(fields, batch, config.stride, config.mask_mode, config.loss_options())
        for name, value in terms.items():
            if name in weights:
                losses.setdefault(name, []).append(weights[name] * float(value.detach()))
                gradients[name] = _gradient(weights[name] * value, parameters)
                gradients["total"] += gradients[name]
        for name, gradient in gradients.items():
            moments.setdefault(name, GradientMoments.empty(size)).add(gradient)
    total = moments.pop("total", None)
    if total is None or total.count < 2:
        raise ValueError("the noise of a gradient takes two batches at least")
    parts = {}
    for part, place in _parts([name for name, _ in named], parameters).items():
        parts[part] = _shares(moments, place)
    noise, signal = float(total.variance().sum()), total.signal2()
    batch_size = images // total.count
    return NoiseReport(
        batch_size=batch_size,
        batches=total.count,
        loss={name: sum(values) / len(values) for name, values in losses.items()},
        parts=parts,
        noise_scale=batch_size * noise / signal if signal > 0 else None,
    )


def _gradient(value: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    if not value.requires_grad:  # a batch that says nothing of this term
        return torch.zeros(sum(p.numel() for p in parameters), device=value.device)
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, parameters)])


def _parts(names: list[str], parameters: list[torch.nn.Parameter]) -> dict[str, slice]:
    """Where in the flat gradient each top module's parameters lie; they come module by module."""
    parts: dict[str, slice] = {}
    start = 0
    for name, parameter in zip(names, parameters):
        part = name.partition(".")[0]
        first = parts[part].start if part in parts else start
        start += parameter.numel()
        parts[part] = slice(first, start)
    return parts


def _shares(moments: dict[str, GradientMoments], place: slice) -> dict[str, TermNoise]:
    variances = {name: m.variance()[place] for name, m in moments.items()}
    everything = torch.stack(list(variances.values())).sum(0)
    moved = everything > 0
    out = {}
    for name, variance in variances.items():
        if not variance.any():
            continue
        share = float((variance[moved] / everything[moved]).mean())
        out[name] = TermNoise(float(variance.sum()), share, moments[name].signal2(place))
    return out


def training_batches(config: TrainConfig, count: int) -> Iterator[Batch]:
    """The first `count` batches of a run of `config`, as its steps would see them."""
    dataset = training_dataset(config)
    sampler = StepSampler(len(dataset), config.seed, 0, count * config.batch_size)
    loader = DataLoader(
        StepDataset(dataset, config.batch_size, config.input_sizes),
        config.batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=0,
    )
    yield from loader


def table(report: NoiseReport) -> str:
    """The report as Markdown: each term's share of the noise in each part, and its noise there."""
    rows = [["term", "weighted loss", *report.parts], ["---"] * (2 + len(report.parts))]
    for term, loss in report.loss.items():
        found = [part.get(term) for part in report.parts.values()]
        rows.append([term, f"{loss:.3f}", *(f"{t.share:.0%} ({t.noise:.3g})" if t else "" for t in found)])
    if report.noise_scale is None:
        scale = f"more windows than {report.batches} batches of {report.batch_size} can tell"
    else:
        scale = f"{report.noise_scale:.0f} windows"
    return (
        "\n".join(f"| {' | '.join(row)} |" for row in rows)
        + f"\n\nNoise and signal of the whole gradient are alike at a batch of {scale}."
    )
