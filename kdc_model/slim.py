"""A trunk with fewer hidden channels from a wide one, without training.

Channel pruning by least squares (He, Zhang and Sun, ICCV 2017): in each narrowed block those hidden channels go, one
by one, that the others replace best, and the projection is fitted anew, so that the block's output on pictures stays
as near as it can to the wide block's. Selection and fit are in closed form, from the channels' covariance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdc_model.trunks.movenet import MoveNetTrunk

logger = logging.getLogger(__name__)

_RIDGE = 1e-5  # of the mean variance: a channel that hardly varies gets no enormous weight

Batches = Callable[[], Iterable[Tensor]]


@torch.no_grad()
def slim_trunk(wide: MoveNetTrunk, slim: MoveNetTrunk, batches: Batches) -> None:
    """Fill a slim trunk from a wide one; changes `slim` in place.

    batches: gives the same normalised images, float32 (B, 3, H, W), each time it is called.
    """
    slim.last.load_state_dict(wide.last.state_dict())
    for number, (source, target) in enumerate(zip(wide.blocks(), slim.blocks())):
        if source.dw.weight.shape == target.dw.weight.shape:
            target.load_state_dict(source.state_dict())
            continue
        # The first block's channels are those of the convolution before it.
        expand, own = (source.expand, target.expand) if number else (wide.conv0, slim.conv0)
        assert expand is not None and own is not None
        moments = _moments(wide, slim, number, batches())
        kept = best_channels(moments, len(target.dw.weight))
        weight, lost = fit(moments, kept)
        logger.info(
            "block %d: %d of %d channels, %.1f %% of the output's variance lost",
            number, len(kept), len(source.dw.weight), 100 * lost,
        )  # fmt: skip
        for narrow, full in ((own, expand), (target.dw, source.dw)):
            narrow.weight.copy_(full.weight[kept])
            _bias(narrow).copy_(_bias(full)[kept])
        target.project.weight.copy_(weight[:, :, None, None])
        _bias(target.project).copy_(moments.output_mean - weight @ moments.mean[kept])


@dataclass(frozen=True)
class Moments:
    """Of C hidden channels and the D outputs to be made from them, over all cells; float64.

    mean (C,), covariance (C, C); output_mean (D,), output_variance () summed over the outputs; cross (C, D).
    """

    mean: Tensor
    covariance: Tensor
    output_mean: Tensor
    output_variance: Tensor
    cross: Tensor

    @classmethod
    def of(cls, samples: Iterable[tuple[Tensor, Tensor]]) -> Moments:
        """Of hidden channels and outputs, (P, C) and (P, D) in each part."""
        count, parts = 0, []
        for hidden, output in samples:
            h, y = hidden.double(), output.double()
            count += len(h)
            parts.append((h.sum(0), h.T @ h, y.sum(0), (y * y).sum(), h.T @ y))
        h_sum, h_h, y_sum, y_y, h_y = (sum(column[1:], column[0]) / count for column in zip(*parts))
        covariance = h_h - torch.outer(h_sum, h_sum)
        covariance += _RIDGE * covariance.diagonal().mean() * torch.eye(len(h_sum), dtype=h_sum.dtype)
        return cls(h_sum, covariance, y_sum, y_y - (y_sum * y_sum).sum(), h_y - torch.outer(h_sum, y_sum))


def best_channels(moments: Moments, count: int) -> list[int]:
    """The channels left, rising, after taking away the one that costs the fit least, again and again."""
    kept = list(range(len(moments.mean)))
    while len(kept) > count:
        inverse = torch.linalg.inv(moments.covariance[kept][:, kept])
        # What the squared error grows by without a channel, the others fitted anew.
        cost = ((inverse @ moments.cross[kept]) ** 2).sum(1) / inverse.diagonal()
        del kept[int(cost.argmin())]
    return kept


def fit(moments: Moments, kept: list[int]) -> tuple[Tensor, float]:
    """Least squares: weights (D, len(kept)) of the channels, and the share of the outputs' variance that is lost."""
    cross = moments.cross[kept]
    weight = torch.linalg.solve(moments.covariance[kept][:, kept], cross)
    return weight.T, 1.0 - float((weight * cross).sum() / moments.output_variance)


def _moments(wide: MoveNetTrunk, slim: MoveNetTrunk, number: int, batches: Iterable[Tensor]) -> Moments:
    """Hidden channels of the wide block on what the slim trunk feeds it, and what they should add up to."""

    def samples() -> Iterable[tuple[Tensor, Tensor]]:
        source = wide.blocks()[number]
        for images in batches:
            output = before = F.relu6(wide.conv0(images))
            for block in wide.blocks()[: number + 1]:
                output = block(output)
            if number:
                before = F.relu6(slim.conv0(images))
                for block in slim.blocks()[:number]:
                    before = block(before)
            yield _cells(source.hidden(before)), _cells(output - before if source.residual else output)

    return Moments.of(samples())


def _cells(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B h w, C)."""
    return features.movedim(1, -1).flatten(0, -2)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
