"""The part of decoding that runs on the device: fields -> candidates, as torch operations for the exported graph.

The same arithmetic as `kdc_core.decode.candidates.find_candidates`, which is the reference and explains it. Only
operations that every runtime takes: convolution, max-pool, top-k, gather.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdc_core.decode.candidates import (
    LANDINGS,
    REFINEMENTS,
    SMOOTHING_KERNEL,
    WALK,
    WALK_ORDER,
    WINDOW,
    smoothing_kernels,
    smoothing_sigmas,
)
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.spec import ModelSpec
from kdc_model.network import FieldTensors, KDCNet


class CandidateFinder(nn.Module):
    """Fields of ONE image -> people (K, M, K, 3): x, y in network pixels, score.

    product:     cells are numbered by a matrix product, which is faster in ONNX Runtime and TensorRT; torch's autocast
                 would compute it in half precision, which cannot hold the numbers.
    least_cells: of the fields of the smallest picture; fewer than `count` need care.
    """

    kernels: Tensor
    order: Tensor
    joints: Tensor
    walked: Tensor

    def __init__(
        self, stride: int, radius_px: float, count: int, *, product: bool = True, least_cells: int | None = None
    ) -> None:
        super().__init__()
        self.stride, self.radius_px, self.count, self.product = stride, radius_px, count, product
        self.pads = least_cells is not None and least_cells < count
        line = torch.from_numpy(smoothing_kernels(smoothing_sigmas()))
        self.register_buffer("kernels", torch.einsum("ky,kx->kyx", line, line)[:, None])
        self.register_buffer("order", torch.from_numpy(WALK_ORDER))
        self.register_buffer("joints", torch.arange(NUM_KEYPOINTS).reshape(1, -1, 1))
        self.register_buffer("walked", _x_and_y(np.concatenate([step.joint for step in WALK])))
        for i, step in enumerate(WALK):
            self.register_buffer(f"parent{i}", torch.from_numpy(step.parent))
            self.register_buffer(f"edge{i}", _x_and_y(step.edge))
            self.register_buffer(f"joint{i}", _x_and_y(step.joint))

    def forward(self, fields: FieldTensors) -> Tensor:
        """Candidates of the batch's only image, each with its person."""
        height, width = fields.heatmap.shape[2:]
        heatmap = torch.sigmoid(fields.heatmap) * torch.sigmoid(fields.person)[:, None]
        smooth = F.conv2d(heatmap, self.kernels, padding=SMOOTHING_KERNEL // 2, groups=NUM_KEYPOINTS)
        squared = fields.offset.square().sum(2)
        strength = smooth * torch.exp(squared * (-2.0 / self.radius_px**2))
        peak = F.max_pool2d(strength, 3, stride=1, padding=1) == strength
        ranked = torch.where(peak, strength, torch.zeros_like(strength))[0].flatten(1)
        if self.pads:
            ranked = F.pad(ranked, (0, self.count))
        best, cells = ranked.topk(self.count, dim=1)
        if self.pads:
            cells = cells.clamp(max=height * width - 1)
        grid = _Grid(height, width, self.stride, self.product)
        probability = smooth[0].flatten(1)
        offset = fields.offset[0].flatten(2)
        xy = grid.centre(cells)
        for _ in range(REFINEMENTS):
            xy = _vote(grid, xy, probability, offset)
        places = self._walk(grid, (xy + 0.5) / self.stride - 0.5, offset.flatten(), fields.displacement.flatten())
        cell = grid.nearest(places)
        at = grid.flat_index(cell)[..., 0] + self.joints * (height * width)
        inside = ((places - cell).abs() <= 0.5).all(-1)
        score = probability.flatten()[at] * inside * (best > 0)[:, None]
        # (root, joint, candidate) -> (root, candidate, joint)
        return torch.cat([(places + 0.5) * self.stride - 0.5, score[..., None]], dim=3).transpose(1, 2)

    def _walk(self, grid: _Grid, candidates: Tensor, offset: Tensor, displacement: Tensor) -> Tensor:
        """From every candidate (K, M, 2) through the tree: (K, K, M, 2) by root, then keypoint type; in cells."""
        places = [candidates]
        for i in range(len(WALK)):
            start = places[-1][getattr(self, f"parent{i}")]
            far = _land(grid, start, getattr(self, f"edge{i}"), displacement)
            for _ in range(LANDINGS - 1):
                far = _land(grid, far, getattr(self, f"joint{i}"), offset)
            places.append(far)
        far = _land(grid, torch.cat(places[1:]), self.walked, offset)
        return torch.cat([candidates, far])[self.order].reshape(NUM_KEYPOINTS, NUM_KEYPOINTS, -1, 2)


class _Grid:
    """Cells of a field by their flat index; height and width may be symbolic."""

    def __init__(self, height: int, width: int, stride: int, product: bool = True) -> None:
        self.height, self.width, self.stride, self.product = height, width, stride, product

    def cell(self, xy: Tensor) -> Tensor:
        cells = torch.floor((xy + 0.5) / self.stride).long()
        col = cells[..., 0].clamp(0, self.width - 1)
        row = cells[..., 1].clamp(0, self.height - 1)
        return row * self.width + col

    def centre(self, cell: Tensor) -> Tensor:
        row = torch.div(cell, self.width, rounding_mode="floor")
        xy = torch.stack([cell - row * self.width, row], dim=-1).float()
        return (xy + 0.5) * self.stride - 0.5

    def nearest(self, places: Tensor) -> Tensor:
        """Column and row of the cell nearest to each place given in cells (..., 2), as whole numbers."""
        limit = torch.tensor([self.width - 1, self.height - 1], dtype=places.dtype, device=places.device)
        return torch.minimum(torch.relu(torch.round(places)), limit)

    def flat_index(self, cell: Tensor) -> Tensor:
        """Flat index of each cell (..., 2), twice: for its x and its y. One product instead of a cut and a sum."""
        if not self.product:
            index = (cell[..., 1:] * self.width + cell[..., :1]).long()
            return index.expand(*index.shape[:-1], 2)
        columns = torch.ones(2, dtype=cell.dtype, device=cell.device)
        return (cell @ torch.stack([columns, columns * self.width])).long()


def _x_and_y(channel: np.ndarray) -> Tensor:
    """Index of each channel's x and y among the planes of a field (C, 2, ...): (n, 1, 2)."""
    return torch.from_numpy(np.stack([2 * channel, 2 * channel + 1], axis=-1)[:, None])


def _gather_xy(field: Tensor, cell: Tensor) -> Tensor:
    """field (C, 2, h*w) at cells (C, M) -> (C, M, 2)."""
    return field.gather(2, cell[:, None].expand(-1, 2, -1)).transpose(1, 2)


def _land(grid: _Grid, places: Tensor, planes: Tensor, field: Tensor) -> Tensor:
    """Where the cells that hold the places (n, M, 2) send them, by one channel each (n, 1, 2) of the flat field."""
    cell = grid.nearest(places)
    return cell + field[grid.flat_index(cell) + planes * (grid.height * grid.width)] / grid.stride


def _vote(grid: _Grid, xy: Tensor, probability: Tensor, offset: Tensor) -> Tensor:
    """Mean of the votes of the cells around each point, weighted by probability; all the window's cells at once."""
    channels, count = xy.shape[:2]
    half = WINDOW // 2
    steps = torch.arange(-half, half + 1, dtype=xy.dtype, device=xy.device) * grid.stride
    window = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(1, 1, -1, 2)
    cell = grid.cell(xy[:, :, None] + window).flatten(1)
    p = probability.gather(1, cell).reshape(channels, count, -1)
    votes = (grid.centre(cell) + _gather_xy(offset, cell)).reshape(channels, count, -1, 2) - xy[:, :, None]
    return xy + (votes * p[..., None]).sum(2) / (p.sum(2) + 1e-6)[..., None]


class ExportedKDC(nn.Module):
    """What the ONNX file holds: uint8 image (H, W, 3) in; the outputs of `kdc_core.spec.OUTPUT_NAMES` out."""

    def __init__(self, network: KDCNet, spec: ModelSpec, product: bool = True) -> None:
        super().__init__()
        self.network = network
        least_cells = (spec.size_multiple // spec.stride) ** 2
        self.find = CandidateFinder(
            spec.stride, spec.disk_radius_px, spec.num_candidates, product=product, least_cells=least_cells
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """people, person, embedding, sigma of one image."""
        # Cast first: TensorRT's parser takes no uint8 transpose.
        fields = self.network(image.float().permute(2, 0, 1)[None])
        person = torch.sigmoid(fields.person[0])
        return self.find(fields), person, fields.embedding[0], torch.exp(fields.log_sigma[0])
