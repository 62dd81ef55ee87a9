"""The quick gradient of a strided depthwise convolution in bfloat16 is the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdc_model.trunks import make_trunk
from kdc_model.trunks.convolution import Conv2d
from kdc_model.trunks.mobilenet_v1 import Downsample


def gradients(conv: nn.Conv2d, x: Tensor, bfloat16: bool) -> tuple[Tensor, list[Tensor]]:
    """Output and, for a loss that weights it unevenly, the gradients of input, weight and bias."""
    conv.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        out = conv(x)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out.float() * weights).sum().backward()
    return out, [p.grad.clone() for p in (x, conv.weight, conv.bias) if p is not None and p.grad is not None]


@pytest.mark.parametrize("pad_after", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_as_in_float32(pad_after: bool, trained: bool) -> None:
    torch.manual_seed(3)
    conv = Downsample(24, 24, 24, pad_after=pad_after).requires_grad_(trained)
    x = torch.randn(2, 24, 18, 14).contiguous(memory_format=torch.channels_last)
    out, quick = gradients(conv, x, bfloat16=True)
    assert "StridedDepthwise" in type(out.grad_fn).__name__
    exact_out, exact = gradients(conv, x, bfloat16=False)
    assert "StridedDepthwise" not in type(exact_out.grad_fn).__name__
    assert out.dtype == torch.bfloat16 and len(quick) == len(exact) == (3 if trained else 1)
    for a, b in zip([out, *quick], [exact_out, *exact]):
        assert a.shape == b.shape
        assert (a.float() - b).abs().max() < 0.01 * b.abs().max()


def test_as_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    conv = Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
    x = torch.randn(1, 8, 12, 12)
    _, quick = gradients(conv, x, bfloat16=True)
    monkeypatch.setattr(Conv2d, "quick_backward", False)
    out, slow = gradients(conv, x, bfloat16=True)
    assert "StridedDepthwise" not in type(out.grad_fn).__name__
    for a, b in zip(quick, slow):
        assert a.dtype == b.dtype and (a - b).abs().max() < 0.01 * b.abs().max()


def test_other_convolutions_go_the_usual_way() -> None:
    x = torch.randn(1, 8, 12, 12)
    for conv in (
        Conv2d(8, 8, 3, padding=1, groups=8),
        Conv2d(8, 16, 3, stride=2, padding=1),
        Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=8),
    ):
        out, _ = gradients(conv, x, bfloat16=True)
        assert "StridedDepthwise" not in type(out.grad_fn).__name__
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert Conv2d(8, 8, 3, stride=2, groups=8)(x).grad_fn is None


@pytest.mark.parametrize("name", ["movenet_slim", "mobilenet_v1_075", "mobilenet_v2"])
def test_the_trunks_have_them(name: str) -> None:
    """Every depthwise convolution of stride 2."""
    for module in make_trunk(name, 16 if name == "mobilenet_v1_075" else 32).modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.stride) > 1:
            assert isinstance(module, Conv2d)
