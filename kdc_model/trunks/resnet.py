"""ResNet-50/101/152 with torchvision's module names, so that its published checkpoints load."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
_EXPANSION = 4


class _Bottleneck(nn.Module):
    def __init__(self, channels_in: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        out = planes * _EXPANSION
        self.conv1 = nn.Conv2d(channels_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """ResNet (v1.5) at output stride 8, 16 or 32; beyond the output stride the layers are dilated instead."""

    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def __init__(self, name: str, output_stride: int = 32) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"{name} runs at output_stride 8, 16 or 32, not {output_stride}")
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels, reached, dilation = 64, 4, 1
        last: dict[int, tuple[int, int]] = {}
        for index, count in enumerate(LAYERS[name]):
            planes = 64 * 2**index
            wanted = 1 if index == 0 else 2
            first_dilation = dilation
            if wanted == 2 and reached == output_stride:
                wanted, dilation = 1, dilation * 2
            reached *= wanted
            blocks = [_Bottleneck(channels, planes, wanted, first_dilation)]
            channels = planes * _EXPANSION
            blocks += [_Bottleneck(channels, planes, 1, dilation) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            last[reached] = (index + 1, channels)
        self.strides = tuple(last)
        self.channels = tuple(last[s][1] for s in self.strides)
        self._taps = {last[s][0] for s in self.strides}

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        features = []
        for index in range(1, 5):
            x = getattr(self, f"layer{index}")(x)
            if index in self._taps:
                features.append(x)
        return features

    def stages(self) -> list[nn.Module]:
        """The trunk's modules from input to output, for freezing the first of them."""
        return [nn.ModuleList([self.conv1, self.bn1]), *(getattr(self, f"layer{i}") for i in range(1, 5))]
