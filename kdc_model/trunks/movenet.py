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
# The blocks whose output the published pyramid takes, at strides 4, 8 and 16; `last` is the fourth level.
_TAPS = (2, 5, 9)


class _Block(nn.Module):
    """Inverted residual: expand 1x1 and ReLU6, depthwise 3x3 and ReLU6, project 1x1."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, hidden, 1) if expansion > 1 else None
        self.dw: nn.Conv2d
        if stride == 2:
            self.dw = Downsample(hidden, hidden, hidden, pad_after=True)
        else:
            self.dw = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        out = self.project(F.relu6(self.dw(hidden)))
        return x + out if self.residual else out


class MoveNetTrunk(nn.Module):
    """MobileNetV2 x 1.5 up to its last 1x1 convolution, stride 32. Features at strides 4, 8, 16 and 32.

    Stride-2 layers pad right and below only, as the published weights were trained (sizes must be multiples
    of 32): cell i at stride s is centred on pixel s i + s - 1, and the layers after have learnt so. No batch
    norm: the published weights have it folded, so the trunk is made for fine-tuning.
    """

    strides = (4, 8, 16, 32)
    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = Downsample(3, _FIRST_CHANNELS, 1, pad_after=True)
        channels = _FIRST_CHANNELS
        taps = []
        for number, (expansion, out, stride) in enumerate(_BLOCKS):
            self.add_module(f"block{number:02d}", _Block(channels, out, expansion, stride))
            channels = out
            if number in _TAPS:
                taps.append(out)
        self.last = nn.Conv2d(channels, _LAST_CHANNELS, 1)
        self.channels = (*taps, _LAST_CHANNELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.conv0(x))
        features = []
        for number in range(len(_BLOCKS)):
            x = getattr(self, f"block{number:02d}")(x)
            if number in _TAPS:
                features.append(x)
        return [*features, F.relu6(self.last(x))]

    def stages(self) -> list[nn.Module]:
        """The trunk's modules from input to output, for freezing the first of them."""
        return [self.conv0, *(getattr(self, f"block{n:02d}") for n in range(len(_BLOCKS))), self.last]
