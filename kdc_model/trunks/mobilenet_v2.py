"""MobileNetV2 with torchvision's module names, so that its published checkpoints load."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from kdc_model.trunks.convolution import Conv2d

# Expansion, output channels, repeats, stride of the first.
_SETTINGS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv_bn_relu(
    channels_in: int, channels_out: int, kernel: int, stride: int, dilation: int, groups: int
) -> nn.Sequential:
    padding = (kernel - 1) // 2 * dilation
    conv = Conv2d(
        channels_in, channels_out, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU6(inplace=True))


class _InvertedResidual(nn.Module):
    def __init__(
        self, channels_in: int, channels_out: int, expansion: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        hidden = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_bn_relu(channels_in, hidden, 1, 1, 1, 1))
        layers.append(_conv_bn_relu(hidden, hidden, 3, stride, dilation, hidden))
        layers += [nn.Conv2d(hidden, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 (width 1.0) up to `features.17`, at output stride 16 or 32 (dilated beyond it)."""

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def __init__(self, output_stride: int = 32) -> None:
        super().__init__()
        if output_stride not in (16, 32):
            raise ValueError(f"mobilenet_v2 runs at output_stride 16 or 32, not {output_stride}")
        layers: list[nn.Module] = [_conv_bn_relu(3, 32, 3, 2, 1, 1)]
        channels, reached, dilation = 32, 2, 1
        last: OrderedDict[int, tuple[int, int]] = OrderedDict()
        for expansion, out, repeats, first_stride in _SETTINGS:
            stride = first_stride
            if stride == 2 and reached == output_stride:
                stride, dilation = 1, dilation * 2
            reached *= stride
            for i in range(repeats):
                # The layer that would have had the stride keeps the dilation before it (as DeepLab's does).
                d = dilation // 2 if i == 0 and stride != first_stride else dilation
                layers.append(_InvertedResidual(channels, out, expansion, stride if i == 0 else 1, d))
                channels = out
            last[reached] = (len(layers) - 1, out)
        self.features = nn.Sequential(*layers)
        self.strides = tuple(s for s in last if s >= 4)
        self.channels = tuple(last[s][1] for s in self.strides)
        self._taps = {last[s][0] for s in self.strides}

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self._taps:
                features.append(x)
        return features

    def stages(self) -> list[nn.Module]:
        """The trunk's modules from input to output, for freezing the first of them."""
        return list(self.features)
