"""Trunks: names and sizes of the published networks, strides, dilation, and where the cells lie."""

import numpy as np
import pytest
import torch
from torch import nn

from kdc_model.trunks import TRUNK_NAMES, make_trunk
from kdc_model.trunks.mobilenet_v1 import MobileNetV1


def on_meta(name: str, output_stride: int) -> nn.Module:
    """Shapes without numbers."""
    with torch.device("meta"):
        return make_trunk(name, output_stride)


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # torchvision's networks without their classifiers (mobilenet_v2 also without features.18).
        ("mobilenet_v2", 1_811_712),
        ("resnet50", 23_508_032),
        ("resnet101", 42_500_160),
        ("resnet152", 58_143_808),
    ],
)
@pytest.mark.parametrize("output_stride", [16, 32])
def test_as_many_parameters_as_published(name, count, output_stride):
    assert parameter_count(on_meta(name, output_stride)) == count


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "mobilenet_v2",
            {
                "features.0.0.weight": (32, 3, 3, 3),
                "features.0.1.running_mean": (32,),
                "features.1.conv.0.0.weight": (32, 1, 3, 3),
                "features.1.conv.1.weight": (16, 32, 1, 1),
                "features.1.conv.2.bias": (16,),
                "features.2.conv.0.0.weight": (96, 16, 1, 1),
                "features.2.conv.1.0.weight": (96, 1, 3, 3),
                "features.14.conv.2.weight": (160, 576, 1, 1),
                "features.17.conv.3.running_var": (320,),
            },
        ),
        (
            "resnet50",
            {
                "conv1.weight": (64, 3, 7, 7),
                "bn1.num_batches_tracked": (),
                "layer1.0.conv1.weight": (64, 64, 1, 1),
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer1.0.downsample.1.running_var": (256,),
                "layer2.0.conv2.weight": (128, 128, 3, 3),
                "layer3.5.bn3.weight": (1024,),
                "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
                "layer4.2.conv3.weight": (2048, 512, 1, 1),
            },
        ),
    ],
)
def test_torchvisions_names_and_shapes(name, shapes):
    state = on_meta(name, 32).state_dict()
    for key, shape in shapes.items():
        assert tuple(state[key].shape) == shape, key


def test_resnets_have_their_depth():
    for number, depths in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3))):
        trunk = on_meta(f"resnet{number}", 32)
        assert tuple(len(getattr(trunk, f"layer{i}")) for i in range(1, 5)) == depths


@pytest.mark.parametrize(
    ("name", "output_stride", "strides", "channels"),
    [
        ("mobilenet_v1_075", 16, (4, 8, 16), (96, 192, 384)),
        ("mobilenet_v1_100", 16, (4, 8, 16), (128, 256, 1024)),
        ("mobilenet_v2", 16, (4, 8, 16), (24, 32, 320)),
        ("mobilenet_v2", 32, (4, 8, 16, 32), (24, 32, 96, 320)),
        ("movenet", 32, (4, 8, 16, 32), (40, 48, 96, 1280)),
        ("movenet_slim", 32, (4, 8, 16, 32), (40, 48, 96, 1280)),
        ("resnet50", 8, (4, 8), (256, 2048)),
        ("resnet50", 16, (4, 8, 16), (256, 512, 2048)),
        ("resnet50", 32, (4, 8, 16, 32), (256, 512, 1024, 2048)),
    ],
)
def test_levels_have_the_strides_and_channels_they_say(name, output_stride, strides, channels):
    trunk = on_meta(name, output_stride)
    assert trunk.strides == strides and trunk.channels == channels
    features = trunk(torch.empty(2, 3, 64, 96, device="meta"))
    for feature, stride, count in zip(features, strides, channels, strict=True):
        assert feature.shape == (2, count, 64 // stride, 96 // stride)
    assert len(trunk.stages()) >= 5


def test_unknown_trunk_or_stride_is_refused():
    with pytest.raises(ValueError, match=f"unknown trunk 'vgg'.*{TRUNK_NAMES[0]}"):
        make_trunk("vgg", 16)
    without = {"mobilenet_v1_075": 32, "mobilenet_v2": 8, "movenet": 16, "movenet_slim": 16, "resnet50": 4}
    for name, stride in without.items():
        with pytest.raises(ValueError, match=f"output_stride.*not {stride}"):
            on_meta(name, stride)


@pytest.mark.parametrize(
    ("name", "dilated", "strided"), [("mobilenet_v2", 16, 32), ("resnet50", 16, 32), ("resnet50", 8, 16)]
)
def test_every_second_cell_of_the_dilated_trunk_is_the_strided_one(name, dilated, strided):
    torch.manual_seed(0)
    dense, sparse = make_trunk(name, dilated).eval(), make_trunk(name, strided).eval()
    sparse.load_state_dict(dense.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        a, b = dense(image)[-1], sparse(image)[-1]
    assert a.shape[2] == 2 * b.shape[2]
    np.testing.assert_allclose(
        a[:, :, ::2, ::2].numpy(), b.numpy(), rtol=1e-3, atol=1e-4 * float(b.abs().max())
    )


def dilation_of(block: nn.Module) -> int:
    return block.conv2.dilation[0]


def test_dilations_of_the_papers_forms():
    trunk = on_meta("resnet50", 8)
    first = [dilation_of(layer[0]) for layer in (trunk.layer2, trunk.layer3, trunk.layer4)]
    rest = [dilation_of(layer[1]) for layer in (trunk.layer2, trunk.layer3, trunk.layer4)]
    assert (first, rest) == ([1, 1, 2], [1, 2, 4])
    # DeepLab's MobileNetV2: features 14 without, 15 to 17 with dilation.
    mobile = on_meta("mobilenet_v2", 16)
    assert [mobile.features[i].conv[1][0].dilation[0] for i in (13, 14, 15, 16, 17)] == [1, 1, 2, 2, 2]


def test_bodypix_100_dilates_its_last_block_only():
    for name, dilation in (("mobilenet_v1_075", 1), ("mobilenet_v1_100", 2)):
        trunk = on_meta(name, 16)
        assert trunk.block13.dw.dilation[0] == dilation
        assert trunk.block12.dw.dilation[0] == 1


def receptive_centres(trunk: MobileNetV1, side: int) -> list[np.ndarray]:
    """Mean x, y of what a cell in each level's middle sees, weighted by how much, from stride * cell."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            # A plain mean of what it sees: no ReLU6 is ever in its way.
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            nn.init.zeros_(module.bias)
    image = torch.full((1, 3, side, side), 3.0, requires_grad=True)
    centres = []
    for feature, stride in zip(trunk(image), trunk.strides):
        cell = side // stride // 2
        seen = torch.autograd.grad(feature[0, 0, cell, cell], image, retain_graph=True)[0]
        weight = seen[0].sum(0).numpy()
        ys, xs = np.mgrid[:side, :side]
        centres.append(np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum() - stride * cell)
    return centres


@pytest.mark.parametrize("width", [0.75, 1.0])
def test_mobilenet_v1_cells_lie_where_its_docstring_says(width):
    # Cell i's centre lies 2, 2 and 10 pixels from stride * i, where half-pixels have (stride - 1) / 2.
    centres = receptive_centres(MobileNetV1(width), 512)
    for centre, expected, stride in zip(centres, (2, 2, 10), (4, 8, 16)):
        np.testing.assert_allclose(centre, expected, atol=0.05)
        assert np.abs(centre - (stride - 1) / 2).max() <= 0.2 * stride


def test_moving_the_picture_moves_the_features():
    torch.manual_seed(0)
    trunk = MobileNetV1(0.75).eval()
    image = torch.rand(1, 3, 192, 192) * 2 - 1
    moved = torch.roll(image, (16, 32), (2, 3))
    with torch.no_grad():
        for before, after, stride in zip(trunk(image), trunk(moved), trunk.strides):
            back = torch.roll(after, (-16 // stride, -32 // stride), (2, 3))
            middle = slice(96 // stride - 1, 96 // stride + 1)
            # Exact where no border is in sight; the deepest level sees the border from everywhere.
            if stride < 16:
                torch.testing.assert_close(
                    before[..., middle, middle], back[..., middle, middle], rtol=1e-4, atol=1e-5
                )
