"""The part of decoding that runs on the device: fields -> candidates, as torch operations for the exported graph.

The same arithmetic as `kdc_core.decode.candidates.find_candidates`, which is the reference and explains it. Only
operations that every runtime takes: convolution, max-pool, top-k, gather.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdc_core.decode.candidates import REFINEMENTS, SMOOTHING_KERNEL, WINDOW, smoothing_kernels, smoothing_sigmas
from kdc_core.skeleton import DIRECTED_EDGES, NUM_KEYPOINTS
from kdc_model.network import FieldTensors, KDCNet


class CandidateFinder(nn.Module):
    """Fields of ONE image -> points (K, M, 3) and far ends (E, M, 3): x, y in network pixels, score."""

    kernels: Tensor
    sources: Tensor
    targets: Tensor

    def __init__(self, stride: int, radius_px: float, count: int) -> None:
        super().__init__()
        self.stride, self.radius_px, self.count = stride, radius_px, count
        line = torch.from_numpy(smoothing_kernels(smoothing_sigmas()))
        self.register_buffer("kernels", torch.einsum("ky,kx->kyx", line, line)[:, None])
        self.register_buffer("sources", torch.tensor([a for a, _ in DIRECTED_EDGES]))
        self.register_buffer("targets", torch.tensor([b for _, b in DIRECTED_EDGES]))

    def forward(self, fields: FieldTensors) -> tuple[Tensor, Tensor]:
        """Candidates of the batch's only image."""
        height, width = fields.heatmap.shape[2:]
        heatmap = torch.sigmoid(fields.heatmap)
        smooth = F.conv2d(heatmap, self.kernels, padding=SMOOTHING_KERNEL // 2, groups=NUM_KEYPOINTS)
        squared = fields.offset.square().sum(2)
        strength = smooth * torch.exp(squared * (-2.0 / self.radius_px**2))
        peak = F.max_pool2d(strength, 3, stride=1, padding=1) == strength
        ranked = torch.where(peak, strength, torch.zeros_like(strength))[0].flatten(1)
        best, cells = ranked.topk(self.count, dim=1)
        grid = _Grid(height, width, self.stride)
        probability = smooth[0].flatten(1)
        offset = fields.offset[0].flatten(2)
        xy = grid.centre(cells)
        for _ in range(REFINEMENTS):
            xy = _vote(grid, xy, probability, offset)
        score = probability.gather(1, cells) * (best > 0)
        points = torch.cat([xy, score[..., None]], dim=2)
        far_probability = probability[self.targets]
        far_offset = offset[self.targets]
        far = _vote(grid, xy[self.sources], probability[self.sources], fields.displacement[0].flatten(2))
        for _ in range(REFINEMENTS):
            cell = grid.cell(far)
            pull = far_probability.gather(1, cell)[..., None]
            far = far + pull * (grid.centre(cell) + _gather_xy(far_offset, cell) - far)
        far_score = far_probability.gather(1, grid.cell(far)) * grid.inside(far)
        return points, torch.cat([far, far_score[..., None]], dim=2)


class _Grid:
    """Cells of a field by their flat index; height and width may be symbolic."""

    def __init__(self, height: int, width: int, stride: int) -> None:
        self.height, self.width, self.stride = height, width, stride

    def cell(self, xy: Tensor) -> Tensor:
        cells = torch.floor((xy + 0.5) / self.stride).long()
        col = cells[..., 0].clamp(0, self.width - 1)
        row = cells[..., 1].clamp(0, self.height - 1)
        return row * self.width + col

    def centre(self, cell: Tensor) -> Tensor:
        row = torch.div(cell, self.width, rounding_mode="floor")
        xy = torch.stack([cell - row * self.width, row], dim=-1).float()
        return (xy + 0.5) * self.stride - 0.5

    def inside(self, xy: Tensor) -> Tensor:
        x, y = xy[..., 0], xy[..., 1]
        right, bottom = self.width * self.stride - 0.5, self.height * self.stride - 0.5
        return ((x >= -0.5) & (x < right) & (y >= -0.5) & (y < bottom)).float()


def _gather_xy(field: Tensor, cell: Tensor) -> Tensor:
    """field (C, 2, h*w) at cells (C, M) -> (C, M, 2)."""
    return field.gather(2, cell[:, None].expand(-1, 2, -1)).transpose(1, 2)


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

    def __init__(self, network: KDCNet, radius_px: float, count: int) -> None:
        super().__init__()
        self.network = network
        self.find = CandidateFinder(network.config.stride, radius_px, count)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """candidates, far_ends, person, embedding, sigma of one image."""
        # Cast first: TensorRT's parser takes no uint8 transpose.
        fields = self.network(image.float().permute(2, 0, 1)[None])
        points, far_ends = self.find(fields)
        person = torch.sigmoid(fields.person[0])
        return points, far_ends, person, fields.embedding[0], torch.exp(fields.log_sigma[0])
