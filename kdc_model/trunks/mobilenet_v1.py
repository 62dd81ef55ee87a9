"""MobileNetV1 with folded batch norm, in the layout of the published BodyPix and PoseNet files."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdc_model.trunks.convolution import Conv2d

# Depthwise stride and output channels (at width 1.00) of blocks 1..13, for an output stride of 16.
_BLOCKS = (
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 1024),
    (1, 1024),
)


class Downsample(Conv2d):
    """A stride-2 3x3 convolution that pads either both sides by one, or only right and below.

    Padding both sides puts output cell i on input cell 2i, padding right and below on 2i + 1. Taking turns
    keeps the grid of every level within 0.2 cells of the half-pixel rule of `kdc_core.geometry`, so that
    trained offsets stay true and levels line up, at no cost.
    """

    def __init__(self, channels_in: int, channels_out: int, groups: int, pad_after: bool) -> None:
        super().__init__(
            channels_in, channels_out, 3, stride=2, padding=0 if pad_after else 1, groups=groups
        )
        self.pad_after = pad_after

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)) if self.pad_after else x)


class _Block(nn.Module):
    """Depthwise 3x3 and pointwise 1x1 convolution, ReLU6 after each."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, dilation: int, pad_after: bool
    ) -> None:
        super().__init__()
        self.dw: nn.Conv2d
        if stride == 2:
            self.dw = Downsample(channels_in, channels_in, channels_in, pad_after)
        else:
            self.dw = nn.Conv2d(
                channels_in, channels_in, 3, padding=dilation, dilation=dilation, groups=channels_in
            )
        self.pw = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.pw(F.relu6(self.dw(x))))


class MobileNetV1(nn.Module):
    """MobileNetV1 at output stride 16 (width 0.75 or 1.00). Returns features at strides 4, 8 and 16.

    Width 1.00 has dilation 2 in block 13, as BodyPix's weights need at this stride. There is no batch norm:
    the published weights have it folded, so the trunk is made for fine-tuning and not to start from scratch.
    """

    strides = (4, 8, 16)
    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def __init__(self, width: float = 0.75) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv0 = Downsample(3, channels, 1, pad_after=False)
        downsamples, level = 1, {}
        for number, (stride, full) in enumerate(_BLOCKS, start=1):
            # PoseNet's and BodyPix's 0.75 form stays at 384 channels to the end.
            out = int(min(full, 512 if width < 1.0 else 1024) * width)
            dilation = 2 if number == 13 and width == 1.0 else 1
            pad_after = downsamples % 2 == 1
            self.add_module(f"block{number:02d}", _Block(channels, out, stride, dilation, pad_after))
            downsamples += stride == 2
            channels = out
            level[2**downsamples] = (number, out)
        self._taps = {level[s][0] for s in self.strides}
        self.channels = tuple(level[s][1] for s in self.strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.conv0(x))
        features = []
        for number in range(1, len(_BLOCKS) + 1):
            x = getattr(self, f"block{number:02d}")(x)
            if number in self._taps:
                features.append(x)
        return features

    def stages(self) -> list[nn.Module]:
        """The trunk's modules from input to output, for freezing the first of them."""
        return [self.conv0, *(getattr(self, f"block{n:02d}") for n in range(1, len(_BLOCKS) + 1))]


def load_published(trunk: MobileNetV1, weights: dict[str, Tensor]) -> None:
    """Load BodyPix's or PoseNet's trunk. Raises ValueError naming the first layer that does not fit."""
    state = trunk.state_dict()
    for name, value in state.items():
        if name not in weights:
            raise ValueError(f"the weights have no '{name}'")
        if weights[name].shape != value.shape:
            raise ValueError(
                f"'{name}' is {tuple(weights[name].shape)}, the trunk needs {tuple(value.shape)}"
            )
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(weights[name])
