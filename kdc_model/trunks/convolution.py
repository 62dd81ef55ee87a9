"""A convolution whose training in bfloat16 is as quick on a CPU at stride 2 as at stride 1."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, with another way to the gradient of a strided depthwise convolution's input.

    oneDNN has no bfloat16 code for it but a reference loop, ten to forty times slower than its float32 code
    (torch 2.13; `kdc bench training`). So a depthwise convolution that computes in bfloat16 on a CPU takes this
    one gradient in float32, and rounds it.

    quick_backward: whether to; for comparison.
    """

    quick_backward: ClassVar[bool] = True

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._slow_backward(input):
            half = torch.bfloat16
            return _StridedDepthwise.apply(
                input.to(half), weight.to(half), None if bias is None else bias.to(half), self.stride, self.padding
            )
        return super()._conv_forward(input, weight, bias)

    def _slow_backward(self, x: Tensor) -> bool:
        depthwise = self.groups == self.in_channels == self.out_channels > 1
        return (
            self.quick_backward
            and depthwise
            and max(self.stride) > 1
            and max(self.dilation) == 1
            and x.device.type == "cpu"
            and torch.is_grad_enabled()
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
        )


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]

        def gradient(out: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor | None, ...]:
            found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
                out, x, weight, [len(weight)], ctx.stride, ctx.padding, [1, 1], False, [0, 0], len(weight), wanted
            )
            return found

        dx = gradient(out.float(), weight.float(), [True, False, False])[0] if of_x else None
        dweight, dbias = gradient(out, weight, [False, of_weight, of_bias])[1:]
        return None if dx is None else dx.to(x.dtype), dweight, dbias, None, None
