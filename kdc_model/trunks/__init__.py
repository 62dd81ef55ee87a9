"""Trunks: image in, features at several strides out."""

from __future__ import annotations

from kdc_model.trunks.mobilenet_v1 import MobileNetV1
from kdc_model.trunks.mobilenet_v2 import MobileNetV2
from kdc_model.trunks.movenet import MoveNetTrunk
from kdc_model.trunks.resnet import LAYERS as _RESNETS
from kdc_model.trunks.resnet import ResNet

Trunk = MobileNetV1 | MobileNetV2 | MoveNetTrunk | ResNet
TRUNK_NAMES = ("mobilenet_v1_075", "mobilenet_v1_100", "mobilenet_v2", "movenet", "movenet_slim", *_RESNETS)


def make_trunk(name: str, output_stride: int) -> Trunk:
    """Build a trunk by name. Raises ValueError for an unknown name or an output stride it does not have."""
    if name in ("mobilenet_v1_075", "mobilenet_v1_100"):
        if output_stride != 16:
            raise ValueError(f"{name} runs at output_stride 16, not {output_stride}")
        return MobileNetV1(0.75 if name.endswith("075") else 1.0)
    if name == "mobilenet_v2":
        return MobileNetV2(output_stride)
    if name in ("movenet", "movenet_slim"):
        if output_stride != 32:
            raise ValueError(f"{name} runs at output_stride 32, not {output_stride}")
        return MoveNetTrunk(slim=name == "movenet_slim")
    if name in _RESNETS:
        return ResNet(name, output_stride)
    raise ValueError(f"unknown trunk '{name}': choose one of {', '.join(TRUNK_NAMES)}")
