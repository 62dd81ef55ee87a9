"""MoveNet MultiPose's trunk: MobileNetV2 of width 1.5 with folded batch norm, in TensorFlow's padding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdc_model.trunks.mobilenet_v1 import Downsample

# Expansion, output channels and stride of blocks 0..16.
_BLOCKS = (
    (1, 24, 1),
    (6, 40, 2), (6, 40, 1),
    (6, 48, 2), (6, 48, 1), (6, 48, 1),
    (6, 96, 2), (6, 96, 1), (6, 96, 1), (6, 96, 1), (6, 144, 1), (6, 144, 1), (6, 144, 1),
    (6, 240, 2), (6, 240, 1), (6, 240, 1), (6, 480, 1),
)  # fmt: skip
_FIRST_CHANNELS, _LAST_CHANNELS = 48, 1280
# Hidden channels of the slim trunk's first blocks, where a channel costs most; block 0 has the first convolution's.
_SLIM_HIDDEN = (32, 80, 144, 144)
# The blocks whose output the published pyramid takes, at strides 4, 8 and 16; `last` is the fourth level.
_TAPS = (2, 5, 9)


class InvertedResidual(nn.Module):
    """Inverted residual: expand 1x1 and ReLU6, depthwise 3x3 and ReLU6, project 1x1."""

    def __init__(self, channels_in: int, hidden: int, channels_out: int, stride: int, expands: bool) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels_in, hidden, 1) if expands else None
        self.dw: nn.Conv2d
        if stride == 2:
            self.dw = Downsample(hidden, hidden, hidden, pad_after=True)
        else:
            self.dw = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def hidden(self, x: Tensor) -> Tensor:
        """What the projection sees."""
        expanded = x if self.expand is None else F.relu6(self.expand(x))
        return F.relu6(self.dw(expanded))

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.hidden(x))
        return x + out if self.residual else out


class MoveNetTrunk(nn.Module):
    """MobileNetV2 x 1.5 up to its last 1x1 convolution, stride 32. Features at strides 4, 8, 16 and 32.

    Stride-2 layers pad right and below only, as the published weights were trained (sizes must be multiples
    of 32): cell i at stride s is centred on pixel s i + s - 1, and the layers after have learnt so. No batch
    norm: the published weights have it folded, so the trunk is made for fine-tuning.

    slim: fewer hidden channels in the first blocks (see `kdc_model.slim`); every block's output is as wide.
    """

    strides = (4, 8, 16, 32)
    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def __init__(self, slim: bool = False) -> None:
        super().__init__()
        self.slim = slim
        channels = _SLIM_HIDDEN[0] if slim else _FIRST_CHANNELS
        self.conv0 = Downsample(3, channels, 1, pad_after=True)
        taps = []
        for number, (expansion, out, stride) in enumerate(_BLOCKS):
            hidden = _SLIM_HIDDEN[number] if slim and number < len(_SLIM_HIDDEN) else channels * expansion
            block = InvertedResidual(channels, hidden, out, stride, expands=expansion > 1)
            self.add_module(f"block{number:02d}", block)
            channels = out
            if number in _TAPS:
                taps.append(out)
        self.last = nn.Conv2d(channels, _LAST_CHANNELS, 1)
        self.channels = (*taps, _LAST_CHANNELS)

    def blocks(self) -> list[InvertedResidual]:
        """The blocks from the first to the last."""
        return [getattr(self, f"block{number:02d}") for number in range(len(_BLOCKS))]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.conv0(x))
        features = []
        for number, block in enumerate(self.blocks()):
            x = block(x)
            if number in _TAPS:
                features.append(x)
        return [*features, F.relu6(self.last(x))]

    def stages(self) -> list[nn.Module]:
        """The trunk's modules from input to output, for freezing the first of them."""
        return [self.conv0, *self.blocks(), self.last]
