"""The node's parameters: names, defaults, descriptions, ranges and validation.

Most may change at any time and are read anew for each frame. What the network is loaded with, and what the
subscriptions are made with, may change while the network is not loaded, or the node not active.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from kdc_core.backends.base import BACKENDS, PRECISIONS
from kdc_core.body_distance import BodyOptions
from kdc_core.lifting import LiftingOptions
from kdc_core.model_path import default_model_path
from kdc_core.pipeline import MOST_LONG_SIDE, PipelineOptions
from kdc_ros import image_subscription, pairing
from kdc_ros.body_names import frames_fault, prefix_fault


@dataclass(frozen=True)
class Settings:
    """The values of all parameters at one moment; config/kdc.yaml explains each."""

    model: str = ""
    backend: str = "auto"
    precision: str = "auto"
    engine_dir: str = ""
    threads: int = 0
    long_side: int = 0
    person_threshold: float = PipelineOptions.person_threshold
    keypoint_threshold: float = PipelineOptions.keypoint_threshold
    max_people: int = PipelineOptions.max_people
    masks: bool = PipelineOptions.masks
    mask_only: bool = PipelineOptions.mask_only
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
    max_rate_hz: float = 0.0
    max_age_s: float = 0.0
    max_image_megapixels: int = 64
    image_transport: str = "raw"
    image_reliability: str = "auto"
    use_depth: bool = False
    sync_policy: str = "approximate"
    sync_slop_s: float = 0.05
    autostart: bool = True
    load_timeout_s: float = 1800.0
    no_frame_timeout_s: float = 5.0
    no_frame_error_s: float = 30.0
    age_warn_s: float = 0.5
    age_error_s: float = 2.0
    rate_warn_hz: float = 0.0
    rate_error_hz: float = 0.0
    memory_warn_mb: int = 0
    memory_error_mb: int = 0


@dataclass(frozen=True)
class _Description:
    """What a parameter is, its range or choices, and in which phase of the node (LOADED, ACTIVE) it is fixed."""

    text: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    fixed_while: str = ""
    read_only: bool = False
    # Why a value cannot be taken; empty when it can.
    check: Callable[[Any], str] = lambda _: ""


# Phases in which some parameters cannot change.
LOADED, ACTIVE = "loaded", "active"
_REFUSALS = {
    LOADED: "can only be changed while the network is not loaded: deactivate the node, or clean it up, first",
    ACTIVE: "can only be changed while the node is not active: deactivate it first",
}


_PRECISIONS = ("auto", *PRECISIONS)

_DESCRIPTIONS = {
    "model": _Description(
        "ONNX file of the network; empty = $KDC_MODEL or the package's own", fixed_while=LOADED
    ),
    "backend": _Description(f"inference runtime: {', '.join(BACKENDS)}", choices=BACKENDS, fixed_while=LOADED),
    "precision": _Description(
        f"arithmetic of the network: {', '.join(_PRECISIONS)}; auto = the fastest that passed its accuracy check",
        choices=_PRECISIONS,
        fixed_while=LOADED,
    ),
    "engine_dir": _Description("folder of TensorRT's engines; empty = the user's cache folder", fixed_while=LOADED),
    "threads": _Description(
        "CPU threads of the inference runtime; 0 = its own choice", 0, 256, fixed_while=LOADED
    ),
    "long_side": _Description(
        "longer side of the network's input in pixels; 0 = what the model was made for",
        0,
        MOST_LONG_SIDE,
        fixed_while=LOADED,
    ),
    "person_threshold": _Description("people below this score are left out", 0.0, 1.0),
    "keypoint_threshold": _Description(
        "keypoints below this score are published as not found (score 0); 0 = publish all",
        0.0,
        1.0,
    ),
    "max_people": _Description("at most so many people in one image, the best first", 1, 1000),
    "masks": _Description("whether instance masks are made and published"),
    "mask_only": _Description("whether people of whom only a mask can be made out are published, without any keypoint"),
    "tracking": _Description("whether people keep a track id from frame to frame; without, every id is 0"),
    "markers": _Description("whether markers are published (while somebody listens)"),
    "overlay": _Description(
        "whether the image with the people drawn on it is published (while somebody listens)"
    ),
    "drawing_threshold": _Description(
        "keypoints below this score are not drawn (markers, overlay)", 0.0, 1.0
    ),
    "max_rate_hz": _Description("at most so many frames per second are processed; 0 = as many as come", 0.0, 1000.0),
    "max_age_s": _Description("frames older than this when their turn comes are dropped; 0 = none is", 0.0, 3600.0),
    "max_image_megapixels": _Description("larger images are dropped, compressed ones undecoded", 1, 1000),
    "image_transport": _Description(
        "raw (sensor_msgs/Image), or compressed (sensor_msgs/CompressedImage on <image>/compressed)",
        choices=image_subscription.TRANSPORTS,
        fixed_while=ACTIVE,
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
        fixed_while=ACTIVE,
    ),
    "use_depth": _Description(
        "whether depth images (topic 'depth') are subscribed and paired with the colour images", fixed_while=ACTIVE
    ),
    "sync_policy": _Description(
        "how depth is paired with colour: by equal stamps (exact), or the nearest within the slop (approximate)",
        choices=pairing.CHOICES,
        fixed_while=ACTIVE,
    ),
    "sync_slop_s": _Description(
        "how far the stamps of a pair may be apart, and how long a colour frame waits for its depth image",
        0.001,
        1.0,
        fixed_while=ACTIVE,
    ),
    "autostart": _Description("whether the node configures and activates itself", read_only=True),
    "load_timeout_s": _Description("loading the network is given up after so many seconds; 0 = never", 0.0, 86400.0),
    "no_frame_timeout_s": _Description(
        "a warning after so many seconds without an image; 0 = never", 0.0, 3600.0
    ),
    "no_frame_error_s": _Description(
        "diagnostics: an error after so many seconds without an image; 0 = never", 0.0, 3600.0
    ),
    "age_warn_s": _Description("diagnostics: warn when results are older (95th percentile); 0 = never", 0.0, 3600.0),
    "age_error_s": _Description("diagnostics: an error when results are older (95th percentile)", 0.0, 3600.0),
    "rate_warn_hz": _Description("diagnostics: warn when fewer frames per second are processed", 0.0, 1000.0),
    "rate_error_hz": _Description("diagnostics: an error when fewer frames per second are processed", 0.0, 1000.0),
    "memory_warn_mb": _Description("diagnostics: warn when the process takes more memory; 0 = never", 0, 1 << 20),
    "memory_error_mb": _Description("diagnostics: an error when the process takes more memory", 0, 1 << 20),
}


class SettingsError(ValueError):
    """A parameter of the wrong type or outside its range."""


class NodeParameters:
    """Declares the parameters on a node and reads them. Raises SettingsError on a bad initial value.

    in_phase: asked whether the node is in a phase (LOADED, ACTIVE), in which some parameters cannot change.
    """

    def __init__(self, node: Node, in_phase: Callable[[str], bool] = lambda _: False) -> None:
        self._node = node
        self._in_phase = in_phase
        for field in fields(Settings):
            try:
                node.declare_parameter(field.name, field.default, _descriptor(field.name, field.default))
            except ParameterException as error:
                raise SettingsError(f"parameter '{field.name}': {error}") from error
        if fault := _fault([node.get_parameter(field.name) for field in fields(Settings)]):
            raise SettingsError(fault)
        node.add_on_set_parameters_callback(self._validate)

    def current(self) -> Settings:
        """The values as they are now; cheap enough for every frame, and callable from any thread."""
        values: dict[str, Any] = {f.name: self._node.get_parameter(f.name).value for f in fields(Settings)}
        return Settings(**values)

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        fault = _fault(parameters) or self._fixed(parameters)
        return SetParametersResult(successful=not fault, reason=fault)

    def _fixed(self, parameters: Sequence[Parameter]) -> str:
        for parameter in parameters:
            phase = _DESCRIPTIONS[parameter.name].fixed_while if parameter.name in _DESCRIPTIONS else ""
            if phase and self._in_phase(phase) and parameter.value != self._node.get_parameter(parameter.name).value:
                return f"parameter '{parameter.name}' {_REFUSALS[phase]}"
        return ""


def pipeline_options(settings: Settings, base: PipelineOptions | None = None) -> PipelineOptions:
    """The pipeline's options by these settings; what is no parameter stays as in `base`."""
    return dataclasses.replace(
        base or PipelineOptions(),
        person_threshold=settings.person_threshold,
        keypoint_threshold=settings.keypoint_threshold,
        max_people=settings.max_people,
        masks=settings.masks,
        mask_only=settings.mask_only,
        appearance=settings.tracking,
    )


def model_path(settings: Settings) -> Path:
    """The network's file: the parameter, else the default one. Raises ModelLoadError where there is none."""
    return Path(os.path.expanduser(settings.model)) if settings.model else default_model_path()


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


def _fault(parameters: Sequence[Parameter]) -> str:
    """What rclpy's own type and range checks let through but makes no sense; empty when all is well."""
    for parameter in parameters:
        if isinstance(parameter.value, float) and not math.isfinite(parameter.value):
            return f"parameter '{parameter.name}' must be a finite number, got {parameter.value}"
        description = _DESCRIPTIONS.get(parameter.name)
        if description is None:
            continue
        # rclpy's own check has a tolerance; what it lets through would fail on every frame.
        low, high = description.low, description.high
        if low is not None and high is not None and not low <= parameter.value <= high:
            return f"parameter '{parameter.name}' must be within {low:g}..{high:g}, got {parameter.value}"
        if description.choices and parameter.value not in description.choices:
            choices = ", ".join(description.choices)
            return f"parameter '{parameter.name}' must be one of {choices}, got '{parameter.value}'"
        if fault := description.check(parameter.value):
            return f"parameter '{parameter.name}' {fault}"
    return ""
