"""The node's parameters: names, defaults, descriptions, ranges and validation.

What is read-only is needed before the first frame; everything else may change at run time and is read anew
for each frame.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from kdc_core.backends.base import BACKENDS
from kdc_core.body_distance import BodyOptions
from kdc_core.lifting import LiftingOptions
from kdc_core.model_path import default_model_path
from kdc_core.pipeline import PipelineOptions
from kdc_ros import image_subscription
from kdc_ros.body_names import frames_fault, prefix_fault


@dataclass(frozen=True)
class Settings:
    """The values of all parameters at one moment; config/kdc.yaml explains each."""

    model: str = ""
    backend: str = "auto"
    threads: int = 0
    long_side: int = 0
    person_threshold: float = PipelineOptions.person_threshold
    keypoint_threshold: float = PipelineOptions.keypoint_threshold
    max_people: int = PipelineOptions.max_people
    masks: bool = PipelineOptions.masks
    tracking: bool = True
    markers: bool = True
    overlay: bool = True
    drawing_threshold: float = 0.2
    overlay_jpeg_quality: int = 80
    polygon_tolerance_px: float = 1.0
    image_rectified: bool = False
    depth_max_m: float = LiftingOptions.far_m
    estimate_distance: bool = True
    body_height_m: float = BodyOptions.height_m
    body_frames: bool = False
    body_prefix: str = "p"
    image_reliability: str = "auto"
    no_frame_timeout_s: float = 5.0


@dataclass(frozen=True)
class _Description:
    text: str
    low: float | None = None
    high: float | None = None
    read_only: bool = False
    choices: tuple[str, ...] = ()
    # Why a value cannot be taken; empty when it can.
    check: Callable[[Any], str] = lambda _: ""


_DESCRIPTIONS = {
    "model": _Description(
        "ONNX file of the network; empty = $KDC_MODEL or the package's own", read_only=True
    ),
    "backend": _Description(f"inference runtime: {', '.join(BACKENDS)}", read_only=True),
    "threads": _Description(
        "CPU threads of the inference runtime; 0 = its own choice", 0, 256, read_only=True
    ),
    "long_side": _Description(
        "longer side of the network's input in pixels; 0 = what the model was made for",
        0,
        8192,
        read_only=True,
    ),
    "person_threshold": _Description("people below this score are left out", 0.0, 1.0),
    "keypoint_threshold": _Description(
        "keypoints below this score are published as not found (score 0); 0 = publish all",
        0.0,
        1.0,
    ),
    "max_people": _Description("at most so many people in one image, the best first", 1, 1000),
    "masks": _Description("whether instance masks are made and published"),
    "tracking": _Description("whether people keep a track id from frame to frame; without, every id is 0"),
    "markers": _Description("whether markers are published (while somebody listens)"),
    "overlay": _Description(
        "whether the image with the people drawn on it is published (while somebody listens)"
    ),
    "drawing_threshold": _Description(
        "keypoints below this score are not drawn (markers, overlay)", 0.0, 1.0
    ),
    "overlay_jpeg_quality": _Description("JPEG quality of ~/overlay/compressed", 1, 100),
    "polygon_tolerance_px": _Description(
        "how far the outlines on ~/polygons may be from the masks, in pixels; 0 = every pixel", 0.0, 100.0
    ),
    "image_rectified": _Description(
        "whether the images are rectified: then CameraInfo's P holds, and no distortion"
    ),
    "depth_max_m": _Description("depths beyond are no measurements, in metres", 0.2, 1000.0),
    "estimate_distance": _Description(
        "whether people without depth get a distance estimated from the size of their bodies (needs CameraInfo)"
    ),
    "body_height_m": _Description("mean height of the people, for estimated distances, in metres", 0.5, 2.5),
    "body_frames": _Description(
        "whether a TF frame body_<body_prefix><track id> is sent for each tracked person", check=frames_fault
    ),
    "body_prefix": _Description(
        "begins the names of people's frames: a letter, then letters, digits and underscores", check=prefix_fault
    ),
    "image_reliability": _Description(
        "how images are subscribed: reliable, best_effort, or auto (reliable when all publishers are)",
        choices=image_subscription.CHOICES,
        read_only=True,
    ),
    "no_frame_timeout_s": _Description(
        "a warning after so many seconds without an image; 0 = never", 0.0, 3600.0
    ),
}


class SettingsError(ValueError):
    """A parameter of the wrong type or outside its range."""


class NodeParameters:
    """Declares the parameters on a node and reads them. Raises SettingsError on a bad initial value."""

    def __init__(self, node: Node) -> None:
        self._node = node
        for field in fields(Settings):
            try:
                node.declare_parameter(field.name, field.default, _descriptor(field.name, field.default))
            except ParameterException as error:
                raise SettingsError(f"parameter '{field.name}': {error}") from error
        if fault := _fault([node.get_parameter(field.name) for field in fields(Settings)]):
            raise SettingsError(fault)
        node.add_on_set_parameters_callback(_validate)

    def current(self) -> Settings:
        """The values as they are now; cheap enough for every frame, and callable from any thread."""
        values: dict[str, Any] = {f.name: self._node.get_parameter(f.name).value for f in fields(Settings)}
        return Settings(**values)


def pipeline_options(settings: Settings, base: PipelineOptions | None = None) -> PipelineOptions:
    """The pipeline's options by these settings; what is no parameter stays as in `base`."""
    return dataclasses.replace(
        base or PipelineOptions(),
        person_threshold=settings.person_threshold,
        keypoint_threshold=settings.keypoint_threshold,
        max_people=settings.max_people,
        masks=settings.masks,
    )


def model_path(settings: Settings) -> Path:
    """The network's file: the parameter, else the default one. Raises ModelLoadError where there is none."""
    return Path(settings.model).expanduser() if settings.model else default_model_path()


def _descriptor(name: str, default: Any) -> ParameterDescriptor:
    """ROS's description of a parameter, with its range."""
    description = _DESCRIPTIONS[name]
    descriptor = ParameterDescriptor(name=name, description=description.text, read_only=description.read_only)
    if description.low is not None and description.high is not None:
        if isinstance(default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=description.low, to_value=description.high)
            ]
        else:
            descriptor.integer_range = [
                IntegerRange(from_value=int(description.low), to_value=int(description.high), step=1)
            ]
    return descriptor


def _validate(parameters: Sequence[Parameter]) -> SetParametersResult:
    fault = _fault(parameters)
    return SetParametersResult(successful=not fault, reason=fault)


def _fault(parameters: Sequence[Parameter]) -> str:
    """What rclpy's own type and range checks let through but makes no sense; empty when all is well."""
    for parameter in parameters:
        if isinstance(parameter.value, float) and not math.isfinite(parameter.value):
            return f"parameter '{parameter.name}' must be a finite number, got {parameter.value}"
        description = _DESCRIPTIONS.get(parameter.name)
        if description is None:
            continue
        if description.choices and parameter.value not in description.choices:
            choices = ", ".join(description.choices)
            return f"parameter '{parameter.name}' must be one of {choices}, got '{parameter.value}'"
        if fault := description.check(parameter.value):
            return f"parameter '{parameter.name}' {fault}"
    return ""
