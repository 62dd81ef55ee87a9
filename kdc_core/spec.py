"""What a network file says about itself: `ModelSpec`, carried in the ONNX file's metadata."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdc_core.geometry import Letterbox
from kdc_core.skeleton import DIRECTED_EDGES, KEYPOINT_NAMES, OKS_SIGMAS

METADATA_KEY = "kdc_model_spec"
FORMAT_VERSION = 2

# Names and meaning of the graph's outputs; one image, M candidates of each of K keypoint types, h x w cells.
OUTPUT_NAMES: tuple[str, ...] = (
    "people",  # float32 (K, M, K, 3): for each candidate its person's keypoints, x, y in network pixels, score 0..1
    "person",  # float32 (h, w): probability 0..1
    "embedding",  # float32 (2 or 2K, h, w): MaskCentroid offset x, y in network pixels
    "sigma",  # float32 (h, w): radius of the person in the embedding, network pixels
)

# Sides in pixels and counts beyond it are no network's.
_LARGEST = 16384

MASK_MODES = ("static", "embedding", "bank")


class ModelSpecError(ValueError):
    """A model file that carries no spec, or one that this version cannot use."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything a runtime must know of a network.

    input_hw:       (height, width) the network was made for, network pixels.
    dynamic_input:  whether any multiple of `size_multiple` is accepted instead of just `input_hw`.
    stride:         network pixels for each field cell.
    disk_radius_px: R of the keypoint disks (KDC section 3.1), network pixels.
    mask_mode:      "static", "embedding" (SM_c / DM_c with 2 channels) or "bank" (DM_c with 2K channels).
    num_candidates: M, the candidates of each keypoint type that the graph returns.
    mean, std:      input normalisation (x - mean) / std for x in 0..255; it happens inside the graph.
    provenance:     how the weights came about (data, configuration, scores); free-form.

    Raises ModelSpecError for values that no network can have.
    """

    input_hw: tuple[int, int]
    dynamic_input: bool = True
    size_multiple: int = 32
    stride: int = 4
    disk_radius_px: float = 8.0
    mask_mode: str = "embedding"
    num_candidates: int = 32
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    keypoint_names: tuple[str, ...] = KEYPOINT_NAMES
    directed_edges: tuple[tuple[int, int], ...] = DIRECTED_EDGES
    oks_sigmas: tuple[float, ...] = tuple(float(s) for s in OKS_SIGMAS)
    output_names: tuple[str, ...] = OUTPUT_NAMES
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("size_multiple", "stride", "disk_radius_px", "num_candidates"):
            if not getattr(self, name) > 0:
                raise ModelSpecError(f"the spec's {name} must be above 0, got {getattr(self, name)}")
        if self.size_multiple % self.stride:
            raise ModelSpecError(f"the spec's stride {self.stride} does not divide {self.size_multiple}")
        # A dynamic input's size is only a wish; it is padded to whole multiples.
        cell = 1 if self.dynamic_input else self.stride
        if len(self.input_hw) != 2 or any(side < 1 or side % cell for side in self.input_hw):
            raise ModelSpecError(f"the spec's input_hw must be two sizes of whole cells, got {self.input_hw}")
        if self.mask_mode not in MASK_MODES:
            raise ModelSpecError(f"the spec's mask_mode must be one of {MASK_MODES}, got '{self.mask_mode}'")

    def _check_types(self) -> None:
        """What came out of a file may be anything."""
        if not isinstance(self.input_hw, tuple):
            raise ModelSpecError(f"the spec's input_hw must be two sizes of whole cells, got {self.input_hw!r:.80}")
        sizes = {f"input_hw[{i}]": side for i, side in enumerate(self.input_hw)}
        sizes |= {name: getattr(self, name) for name in ("size_multiple", "stride", "num_candidates")}
        for name, value in sizes.items():
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value > _LARGEST:
                raise ModelSpecError(f"the spec's {name} must be a whole number up to {_LARGEST}, got {value!r:.80}")
        if not isinstance(self.dynamic_input, bool):
            raise ModelSpecError(f"the spec's dynamic_input must be true or false, got {self.dynamic_input!r:.80}")
        if not isinstance(self.disk_radius_px, (int, float)) or not math.isfinite(self.disk_radius_px):
            raise ModelSpecError(f"the spec's disk_radius_px must be a number, got {self.disk_radius_px!r:.80}")
        if self.output_names != OUTPUT_NAMES:
            raise ModelSpecError(f"the spec's output_names must be {OUTPUT_NAMES}, got {self.output_names!r:.80}")

    def letterbox(self, source_hw: tuple[int, int]) -> Letterbox:
        """How a source image of this size enters the network."""
        if self.dynamic_input:
            return Letterbox.fit_long_side(source_hw, max(self.input_hw), self.size_multiple)
        return Letterbox.fit(source_hw, self.input_hw)

    def to_json(self) -> str:
        """The spec as JSON, for the model file's metadata."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read a spec back.

        Raises ModelSpecError when it is not one, or not of this format or joint order.
        """
        try:
            data = json.loads(text)
            version = data["format_version"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ModelSpecError(f"the model's metadata is not a KDC model spec: {error}") from error
        if version != FORMAT_VERSION:
            raise ModelSpecError(
                f"the model's spec has format {version}, this runtime reads format {FORMAT_VERSION}: "
                "export the checkpoint again with this version's `kdc export`"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ModelSpecError(f"the model's spec has unknown fields {unknown}")
        try:
            spec = cls(**{k: _tupled(v) if k != "provenance" else v for k, v in data.items()})
        except TypeError as error:
            raise ModelSpecError(f"the model's spec is incomplete: {error}") from error
        if spec.keypoint_names != KEYPOINT_NAMES or spec.directed_edges != DIRECTED_EDGES:
            raise ModelSpecError("the model's keypoints or edges are not this runtime's")
        return spec


def _tupled(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value
