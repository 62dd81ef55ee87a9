"""What an engine belongs to: one model file, one TensorRT, one kind of GPU, one precision, one range of sizes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdc_core.backends.base import PRECISIONS
from kdc_core.spec import ModelSpec

ANY_GPU = "any"
_CAPABILITY = re.compile(r"SM\d{2,3}")

Size = tuple[int, int]


@dataclass(frozen=True)
class ShapeProfile:
    """Sizes (height, width) of the input that an engine takes: least, the one to be fastest at, and largest."""

    least_hw: Size
    best_hw: Size
    largest_hw: Size

    def __post_init__(self) -> None:
        rising = (self.least_hw, self.best_hw, self.largest_hw)
        if any(not 0 < low <= best <= high for low, best, high in zip(*rising)):
            raise ValueError(f"the sizes of an engine must rise: {rising}")

    def takes(self, hw: Size) -> bool:
        """Whether an input of this size may be run."""
        return all(low <= side <= high for low, side, high in zip(self.least_hw, hw, self.largest_hw))

    @classmethod
    def of(cls, spec: ModelSpec, long_side: int | None = None, sizes: tuple[Size, ...] = ()) -> ShapeProfile:
        """The profile for a model.

        A fixed model has its one size. `sizes` are the network inputs (height, width) that must be taken, the first
        one the fastest. Else whatever pictures of any shape scaled to `long_side` (default: the model's own) need,
        fastest at 4:3. Raises ValueError for sizes that the model cannot have.
        """
        if not spec.dynamic_input:
            if any(tuple(size) != tuple(spec.input_hw) for size in sizes):
                raise ValueError(f"this model only takes {spec.input_hw[0]} x {spec.input_hw[1]} (height x width)")
            return cls(*(tuple(spec.input_hw),) * 3)  # type: ignore[arg-type]
        multiple = spec.size_multiple
        if sizes:
            for size in sizes:
                if any(side < multiple or side % multiple for side in size):
                    raise ValueError(f"{size[0]}x{size[1]}: both sides must be multiples of {multiple}")
            heights, widths = zip(*sizes)
            return cls((min(heights), min(widths)), tuple(sizes[0]), (max(heights), max(widths)))  # type: ignore[arg-type]
        if long_side is not None and long_side < multiple:
            raise ValueError(f"the long side must be at least {multiple} pixels, got {long_side}")
        long = _whole(long_side or max(spec.input_hw), multiple)
        return cls((multiple, multiple), (_whole(long * 3 // 4, multiple), long), (long, long))


def _whole(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on; another value of any part means another engine.

    model_sha256: of the ONNX file.  flavour, version: the TensorRT.  gpu: the GPU's name, or ANY_GPU where every GPU
    of the compute capability will do (TensorRT for RTX finishes its kernels on the machine that runs them).
    capability: "SM89" and so on.  precision: one of PRECISIONS.
    """

    model_sha256: str
    flavour: str
    version: str
    gpu: str
    capability: str
    precision: str
    profile: ShapeProfile

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision '{self.precision}': choose one of {', '.join(PRECISIONS)}")
        if not _CAPABILITY.fullmatch(self.capability):
            raise ValueError(f"a compute capability is written like SM89, got '{self.capability}'")

    def to_dict(self) -> dict[str, Any]:
        """The key as JSON holds it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the whole key."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def file_name(self, model: Path) -> str:
        """Name of the engine's file, readable and unique."""
        return f"{model.stem}-{self.precision}-{self.capability}-{self.digest}.engine"

    def differences(self, other: dict[str, Any]) -> list[str]:
        """In which parts another engine's key is not this one, for a log."""
        mine = self.to_dict()
        return [f"{part} {other.get(part)} instead of {mine[part]}" for part in mine if other.get(part) != mine[part]]
