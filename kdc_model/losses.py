"""The losses of SPEC section 4, one function for each term; each averaged over what is valid only.

A term without a single valid element is an exact zero that still depends on the network: gradients exist. In
distributed training the averages run over the global batch (see `kdc_model.distributed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdc_core.geometry import cell_centres_xy
from kdc_model.data.dataset import Batch
from kdc_model.distributed import mean_over_processes
from kdc_model.network import FieldTensors


@dataclass(frozen=True)
class LossWeights:
    """Factor of each term in the total."""

    heatmap: float = 30.0
    offset: float = 1.0
    displacement: float = 0.25
    person: float = 2.0
    embedding: float = 1.0
    separation: float = 1.0
    sigma: float = 0.2


@dataclass(frozen=True)
class LossOptions:
    """Forms of the targets and of the averages.

    heatmap_sigma:  sigma of the heatmap's Gaussian (KDC Eq. 3) in radii of the disk; 0 = the disk itself, binary.
    person_balance: 0: every cell counts the same in the person term; 1: every person does. In between: a person of
                    A px^2 less than 9,600 (about COCO's border between medium and large), and the surroundings,
                    count (9600 / A) ** person_balance times, 6 times at most.
    """

    heatmap_sigma: float = 0.0
    person_balance: float = 0.0


_BALANCED_PX2 = 9600.0
_LARGEST_BALANCE = 6.0
_SURROUNDINGS = 6  # a person's box is enlarged by so manieth of its size to each side


def heatmap_loss(logits: Tensor, batch: Batch, sigma: float = 0.0) -> Tensor:
    """Binary cross-entropy of the disks (KDC Eq. 1), averaged over valid cells. logits (B, K, h, w).

    sigma: of the Gaussian in the disk (KDC Eq. 3), in its radii; 0 = 1 all over the disk.
    """
    target = torch.zeros_like(logits)
    in_disk = torch.zeros_like(logits, dtype=torch.bool)
    b, k, row, col = batch.disk_index.unbind(1)
    in_disk[b, k, row, col] = True
    if sigma > 0:
        distance = (batch.disk_offset**2).sum(1) / batch.disk_radius_px**2
        target[b, k, row, col] = torch.exp(-distance / (2 * sigma**2)).to(target.dtype)
    else:
        target[b, k, row, col] = 1.0
    valid = (batch.heatmap_valid[:, None] & batch.annotated_types[:, :, None, None]) | in_disk
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean((loss * valid).sum(), valid.sum())


def offset_loss(offset: Tensor, batch: Batch) -> Tensor:
    """L1 of the KeyCentroids over the disks' cells, in units of R (KDC Eq. 4). offset (B, K, 2, h, w).

    Every disk counts the same, whatever its size.
    """
    weight = batch.disk_radius_px**-2
    return _sparse_l1(offset, batch.disk_index, batch.disk_offset, batch.disk_radius_px, weight)


def displacement_loss(displacement: Tensor, batch: Batch) -> Tensor:
    """L1 of the edges' far ends over disk cells with both ends labelled, in units of R there. (B, E, 2, h, w)."""
    weight = torch.ones_like(batch.edge_radius_px)
    return _sparse_l1(displacement, batch.edge_index, batch.edge_offset, batch.edge_radius_px, weight)


def person_loss(logits: Tensor, batch: Batch, stride: int = 4, balance: float = 0.0) -> Tensor:
    """Binary cross-entropy of person or not, over the cells where that is known. logits (B, h, w).

    balance: `LossOptions.person_balance`. It weights places, not answers: probabilities stay what they are.
    """
    loss = F.binary_cross_entropy_with_logits(logits, batch.person, reduction="none")
    if balance > 0:
        loss = loss * _balance(batch, stride, balance)
    return _mean((loss * batch.person_valid).sum(), batch.person_valid.sum())


def _balance(batch: Batch, stride: int, exponent: float) -> Tensor:
    """What each cell counts, from 1; float32 (B, h, w). Where people are close, the smallest one decides."""
    weight = torch.ones_like(batch.person)
    for b, _, inside in _instances(batch):
        factor = (_BALANCED_PX2 / (float(inside.sum()) * stride**2)) ** exponent
        rows, columns = (_widened(inside.any(axis).nonzero()) for axis in (1, 0))
        weight[b, rows, columns].clamp_(min=min(max(factor, 1.0), _LARGEST_BALANCE))
    return weight


def _widened(cells: Tensor) -> slice:
    """From the first to the last of some rows or columns, and a little beyond."""
    first, end = int(cells[0]), int(cells[-1]) + 1
    margin = 1 + (end - first) // _SURROUNDINGS
    return slice(max(first - margin, 0), end + margin)


def _sparse_l1(field: Tensor, index: Tensor, target: Tensor, unit: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the L1 distances at P cells, each in its own unit (P,)."""
    b, c, row, col = index.unbind(1)
    distance = (field[b, c, :, row, col] - target).abs().sum(1) / unit
    return _mean((distance * weight).sum(), weight.sum())


def static_losses(fields: FieldTensors, batch: Batch, centres: Tensor) -> dict[str, Tensor]:
    """SM_c: a person's pixels point at its fixed centroid (KDC Eq. 5 as meant, in units of its size)."""
    return _embedding_losses(fields, batch, centres, dynamic=False)


def embedding_losses(fields: FieldTensors, batch: Batch, centres: Tensor) -> dict[str, Tensor]:
    """DM_c-embed (KDC Eq. 7): the centre is the mean of the person's embeddings, wherever they meet."""
    return _embedding_losses(fields, batch, centres, dynamic=True)


def bank_losses(fields: FieldTensors, batch: Batch, centres: Tensor) -> dict[str, Tensor]:
    """DM_c-bank: an offset to each of the person's labelled keypoints, L1 in units of the person's size."""
    pull, sigma, count = _zero(fields), _zero(fields), 0
    for b, n, inside in _instances(batch):
        labelled = batch.labelled[b][n]
        if not labelled.any():
            continue
        size = _size_px(inside, centres)
        bank = fields.embedding[b].unflatten(0, (-1, 2))[:, :, inside][labelled]
        goal = batch.keypoints_xy[b][n][labelled][:, :, None] - centres[None, :, inside]
        pull = pull + (bank - goal).abs().sum(1).mean() / size
        sigma = sigma + (fields.log_sigma[b][inside] - torch.log(0.2 * size)).abs().mean()
        count += 1
    return {"embedding": _mean(pull, count), "separation": _zero(fields), "sigma": _mean(sigma, count)}


MaskLosses = Callable[[FieldTensors, Batch, Tensor], dict[str, Tensor]]
MASK_LOSSES: dict[str, MaskLosses] = {
    "static": static_losses,
    "embedding": embedding_losses,
    "bank": bank_losses,
}


def all_losses(
    fields: FieldTensors, batch: Batch, stride: int, mask_mode: str, options: LossOptions | None = None
) -> dict[str, Tensor]:
    """Every term, unweighted, by the names of `LossWeights`."""
    options = options or LossOptions()
    height, width = fields.person.shape[1:]
    centres = torch.from_numpy(cell_centres_xy(height, width, stride)).to(fields.person.device)
    return {
        "heatmap": heatmap_loss(fields.heatmap, batch, options.heatmap_sigma),
        "offset": offset_loss(fields.offset, batch),
        "displacement": displacement_loss(fields.displacement, batch),
        "person": person_loss(fields.person, batch, stride, options.person_balance),
        **MASK_LOSSES[mask_mode](fields, batch, centres),
    }


def _embedding_losses(
    fields: FieldTensors, batch: Batch, centres: Tensor, dynamic: bool
) -> dict[str, Tensor]:
    """Pull to the centroid, Lovasz hinge on 2 phi - 1 against the other people, and sigma's variance."""
    pull, separation, spread, count = _zero(fields), _zero(fields), _zero(fields), 0
    for b, n, inside in _instances(batch):
        goal = batch.centroids_xy[b][n]
        if not dynamic and goal.isnan().any():
            continue
        everybody = batch.instance[b] > 0
        embedding = (centres + fields.embedding[b])[:, everybody]
        mine = inside[everybody]
        centre = embedding[:, mine].mean(1) if dynamic else goal
        log_sigma = fields.log_sigma[b][inside]
        mean_log_sigma = log_sigma.mean()
        squared = ((embedding - centre[:, None]) ** 2).sum(0)
        phi = torch.exp(-squared / (2 * torch.exp(2 * mean_log_sigma)))
        distance = (embedding[:, mine] - centre.detach()[:, None]).abs().sum(0)
        pull = pull + distance.mean() / _size_px(inside, centres)
        separation = separation + lovasz_hinge(2 * phi - 1, mine)
        spread = spread + ((log_sigma - mean_log_sigma.detach()) ** 2).mean()
        count += 1
    return {
        "embedding": _mean(pull, count),
        "separation": _mean(separation, count),
        "sigma": _mean(spread, count),
    }


def _mean(total: Tensor, count: Tensor | int) -> Tensor:
    """A sum over its count in the global batch; zero stays zero where nothing counts."""
    counted = mean_over_processes(torch.as_tensor(count, device=total.device))
    return total / (counted if counted > 0 else 1)


def lovasz_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovasz hinge of a binary mask (Berman et al., CVPR 2018): a convex surrogate of 1 - IoU. Both (P,)."""
    signs = 2.0 * labels.float() - 1.0
    errors, order = torch.sort(1.0 - logits * signs, descending=True)
    truth = labels[order].float()
    intersection = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (1.0 - truth).cumsum(0)
    jaccard = 1.0 - intersection / union
    gradient = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return torch.dot(F.relu(errors), gradient)


def _instances(batch: Batch) -> Iterator[tuple[int, int, Tensor]]:
    """Every person with a mask in view: sample, person, its cells as bool (h, w)."""
    for b in range(len(batch.instance)):
        for n in batch.instance[b].unique().tolist():
            if n > 0:
                yield b, n - 1, batch.instance[b] == n


def _size_px(inside: Tensor, centres: Tensor) -> Tensor:
    """A person's size: square root of its mask's bounding box, network pixels, at least four cells."""
    cells = centres[:, inside]
    extent = cells.amax(1) - cells.amin(1)
    return torch.sqrt(extent[0] * extent[1]).clamp(min=16.0)


def _zero(fields: FieldTensors) -> Tensor:
    return fields.embedding.sum() * 0.0 + fields.log_sigma.sum() * 0.0
