"""The KDC network: trunk, feature pyramid, PoseNet and SegNet heads.

Every field is the sum of two predictions: a coarse one, 1x1 on the trunk's deepest features (which know the
whole person), upsampled; and a fine one from the pyramid at the decoder's stride. Offsets are linear in the
cell's place, so upsampling a coarse offset field costs it nothing inside a person; the fine head sharpens
edges and separates neighbours. The coarse heads have BodyPix's form and can start from its weights (see
`pretrained.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdc_core.skeleton import NUM_DIRECTED_EDGES, NUM_KEYPOINTS
from kdc_core.spec import MASK_MODES
from kdc_model.trunks import make_trunk
from kdc_model.trunks.mobilenet_v1 import MobileNetV1
from kdc_model.trunks.movenet import MoveNetTrunk

_POSE_CHANNELS = NUM_KEYPOINTS + 2 * NUM_KEYPOINTS + 2 * NUM_DIRECTED_EDGES


_OFFSET_UNIT_PX = 8.0


class FieldTensors(NamedTuple):
    """Dense outputs for a batch of B images with h x w cells; offsets in network pixels, x before y.

    heatmap:      (B, K, h, w) logits.
    offset:       (B, K, 2, h, w) KeyCentroid.
    displacement: (B, E, 2, h, w) to the far end of each directed edge.
    person:       (B, h, w) logits.
    embedding:    (B, C, h, w) MaskCentroid offset; C = 2, or 2K in the bank form.
    log_sigma:    (B, h, w) natural logarithm of sigma in network pixels.
    """

    heatmap: Tensor
    offset: Tensor
    displacement: Tensor
    person: Tensor
    embedding: Tensor
    log_sigma: Tensor


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network.

    trunk:         one of `kdc_model.trunks.TRUNK_NAMES`.
    output_stride: stride of the trunk's deepest features (dilated beyond it).
    stride:        stride of the fields.
    channels:      channels of the pyramid and the heads.
    head_units:    residual units in each head.
    separable:     depthwise-separable 3x3 convolutions in pyramid and heads (else full ones; the pyramid of the trunk
                   `movenet` is always separable, as its published weights are).
    mask_mode:     "static", "embedding" or "bank".
    """

    trunk: str = "mobilenet_v1_075"
    output_stride: int = 16
    stride: int = 4
    channels: int = 64
    head_units: int = 2
    separable: bool = True
    mask_mode: str = "embedding"

    def __post_init__(self) -> None:
        if self.mask_mode not in MASK_MODES:
            raise ValueError(f"mask_mode must be one of {MASK_MODES}, got '{self.mask_mode}'")
        if self.channels < 1 or self.head_units < 0:
            raise ValueError(
                "channels must be at least 1 and head_units at least 0, "
                f"got {self.channels} and {self.head_units}"
            )

    @property
    def embedding_channels(self) -> int:
        return 2 * NUM_KEYPOINTS if self.mask_mode == "bank" else 2


def _units(unit: float, first: int, end: int, after: int = 0) -> Tensor | None:
    """(end + after, 1, 1): `unit` for channels first..end, 1 for the others; None when it is all 1."""
    if unit == 1.0:
        return None
    units = torch.ones(end + after, 1, 1)
    units[first:end] = unit
    return units


def _conv3x3(channels: int, separable: bool) -> nn.Sequential:
    """3x3 convolution, batch norm; separable: depthwise, batch norm, ReLU, pointwise, batch norm."""
    if not separable:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def _enlarge(x: Tensor, factor: float) -> Tensor:
    """Bilinear, by the half-pixel rule."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class _ResidualUnit(nn.Module):
    def __init__(self, channels: int, separable: bool) -> None:
        super().__init__()
        self.conv = _conv3x3(channels, separable)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class _Pyramid(nn.Module):
    """Top-down feature pyramid from the trunk's levels to one map at the decoder's stride."""

    def __init__(
        self, channels_in: tuple[int, ...], strides: tuple[int, ...], channels: int, separable: bool
    ) -> None:
        super().__init__()
        self.factors = [1.0, *(coarse / fine for coarse, fine in zip(strides, strides[1:]))]
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for c in channels_in
        )
        self.smooth = nn.ModuleList(_conv3x3(channels, separable) for _ in channels_in)

    def forward(self, features: list[Tensor]) -> Tensor:
        x: Tensor | None = None
        for feature, factor, lateral, smooth in zip(features[::-1], self.factors, self.lateral, self.smooth):
            level = lateral(feature)
            if x is not None:
                level = level + _enlarge(x, factor)
            level = F.relu(level)
            x = F.relu(level + smooth(level))
        assert x is not None
        return x


class MoveNetPyramid(nn.Module):
    """MoveNet's form of the pyramid: a separable convolution and one ReLU a level, none at the deepest.

    Wider than the published one, whose 64, 32, 24 and 24 channels are the first of each level (see
    `pretrained.py`).
    """

    def __init__(self, channels_in: tuple[int, ...], strides: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.factors = [coarse / fine for coarse, fine in zip(strides, strides[1:])]
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in channels_in)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
            for _ in self.factors
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        deepest, *others = features[::-1]
        x: Tensor = self.lateral[0](deepest)
        for feature, factor, lateral, smooth in zip(others, self.factors, self.lateral[1:], self.smooth):
            x = F.relu(smooth(_enlarge(x, factor) + lateral(feature)))
        return x


class _Head(nn.Module):
    """Coarse 1x1 on the deepest features (upsampled) plus residual units and 1x1 on the pyramid.

    unit: (channels_out, 1, 1) or None; what both predictions count in (None: 1).
    """

    unit: Tensor | None

    def __init__(
        self, config: NetworkConfig, deep_channels: int, factor: float, channels_out: int, unit: Tensor | None
    ) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("unit", unit, persistent=False)
        self.coarse = nn.Conv2d(deep_channels, channels_out, 1)
        self.units = nn.Sequential(
            *(_ResidualUnit(config.channels, config.separable) for _ in range(config.head_units))
        )
        self.fine = nn.Conv2d(config.channels, channels_out, 1)
        nn.init.normal_(self.coarse.weight, std=0.001)
        nn.init.normal_(self.fine.weight, std=0.001)
        for conv in (self.coarse, self.fine):
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        coarse, fine = self.coarse(deep), self.fine(self.units(shallow))
        if self.unit is not None:
            coarse, fine = coarse * self.unit, fine * self.unit
        return _enlarge(coarse, self.factor) + fine


class KDCNet(nn.Module):
    """Images to fields.

    Input: float32 (B, 3, H, W), RGB, 0..255 (normalised inside); H and W multiples of 32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = make_trunk(config.trunk, config.output_stride)
        if config.stride not in self.trunk.strides:
            raise ValueError(
                f"stride {config.stride} is not among the levels {self.trunk.strides} of {config.trunk} at "
                f"output_stride {config.output_stride}"
            )
        self._first = self.trunk.strides.index(config.stride)
        levels = self.trunk.channels[self._first :]
        strides = self.trunk.strides[self._first :]
        self.pyramid: nn.Module
        if isinstance(self.trunk, MoveNetTrunk):
            self.pyramid = MoveNetPyramid(levels[::-1], strides[::-1], config.channels)
        else:
            self.pyramid = _Pyramid(levels[::-1], strides[::-1], config.channels, config.separable)
        factor = strides[-1] / strides[0]
        # Published heads (BodyPix) count in pixels. Heads from scratch count offsets in larger units: in
        # pixels Adam would take a thousand steps to make them long enough.
        unit = 1.0 if isinstance(self.trunk, MobileNetV1) else _OFFSET_UNIT_PX
        embedding = config.embedding_channels
        self.pose = _Head(config, levels[-1], factor, _POSE_CHANNELS, _units(unit, NUM_KEYPOINTS, _POSE_CHANNELS))
        self.seg = _Head(config, levels[-1], factor, 2 + embedding, _units(unit, 1, 1 + embedding, 1))
        self.register_buffer("mean", torch.tensor(self.trunk.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.trunk.std).view(1, 3, 1, 1), persistent=False)
        # A rare positive should not cost the first steps: start every heatmap near 1 %, people near 10 %.
        with torch.no_grad():
            assert self.pose.coarse.bias is not None and self.seg.coarse.bias is not None
            self.pose.coarse.bias[:NUM_KEYPOINTS] = -4.6
            self.seg.coarse.bias[0] = -2.2
            self.seg.coarse.bias[-1] = 3.0

    def forward(self, images: Tensor) -> FieldTensors:
        """Fields of a batch of images."""
        features = self.trunk((images - self.mean) / self.std)[self._first :]
        shallow = self.pyramid(features)
        pose = self.pose(features[-1], shallow)
        seg = self.seg(features[-1], shallow)
        heatmap, offset, displacement = pose.split(
            (NUM_KEYPOINTS, 2 * NUM_KEYPOINTS, 2 * NUM_DIRECTED_EDGES), dim=1
        )
        return FieldTensors(
            heatmap=heatmap,
            offset=offset.unflatten(1, (NUM_KEYPOINTS, 2)),
            displacement=displacement.unflatten(1, (NUM_DIRECTED_EDGES, 2)),
            person=seg[:, 0],
            embedding=seg[:, 1:-1],
            log_sigma=seg[:, -1],
        )
