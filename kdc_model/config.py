"""The training configuration: one flat YAML file, every key a field here."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from kdc_core.encode import DiskRadius
from kdc_model.losses import LossOptions, LossWeights
from kdc_model.network import KDCNet, NetworkConfig

_ABOVE_ZERO = (
    "batch_size", "epochs", "learning_rate", "long_side", "disk_radius_px", "clip_norm", "checkpoint_minutes",
    "blur_px",
)  # fmt: skip
_NOT_NEGATIVE = (
    "trunk_rate", "weight_decay", "warmup_steps", "freeze_stages", "rotation_deg", "seed", "workers",
    "evaluate_epochs", "disk_kappas", "max_enlargement", "heatmap_sigma",
)  # fmt: skip
_PATHS = (
    "train_annotations", "train_images", "pseudo_masks", "val_annotations", "val_images", "pretrained",
)  # fmt: skip
_SHARES = (
    "flip", "colour", "ema_decay", "pseudo_mask_quality", "max_crowd_prob", "copy_paste", "mosaic", "blur",
    "person_balance",
)  # fmt: skip


# Whole numbers that torch takes are below it.
INT_LIMIT = 2**63


class ConfigError(ValueError):
    """A configuration with an unknown key or an impossible value."""


class _Loader(yaml.SafeLoader):
    """Plain data; a key that stands twice in a mapping is an error, where YAML's own loader takes the last value."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        # Here rather than where mappings are made of nodes: a merge (<<) has added its keys to the node by then.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key '{key.value}' stands twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str) -> Any:
    """The plain data of a YAML text. Raises ConfigError saying in one line what is wrong with the text, and where."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"not YAML: {where}{what}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that there is none
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError("YAML nested too deeply") from error


def read_yaml(path: Path) -> Any:
    """The plain data of a YAML file. Raises ConfigError, FileNotFoundError."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from error
    except ConfigError as error:
        raise ConfigError(f"{path} is {error}") from error


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on; saved whole in every checkpoint.

    Data: `train_annotations` and `train_images` are lists of equal length; `pseudo_masks` (optional, one for
    each or empty) are machine-made masks used from `pseudo_mask_quality` (estimated IoU) up. Images whose
    `crowd_prob` (chance of unmarked crowds) is above `max_crowd_prob` are left out.
    Sizes in network pixels: `input_size` is the side of the square training window, or a list of sides that the
    steps take in turns (small windows for many pictures, large ones for people who fill them); `long_side` the size
    at which the network will be used; `scale_range` is the range of sizes around it, `max_enlargement` the limit on
    enlarging a picture's own pixels (0 = none): blur teaches a network to do without detail. `copy_paste`, `mosaic`
    and `blur` are the chances of each (see `kdc_model.data.dataset.Mixing`).
    Keypoint disks: `disk_radius_px` is R, which decoding counts with, too. With a `disk_radius_range` (network pixels)
    the disks of training have `disk_kappas` OKS kappas within it instead (see `kdc_core.encode.DiskRadius`).
    Learning rates: `learning_rate` for pyramid and heads, times `trunk_rate` for the pretrained trunk and
    coarse heads. `freeze_stages` leaves the first stages of the trunk as they are; `freeze_norms` keeps the
    statistics of all batch norms, for batches too small to have good ones. `batch_size` is that of all processes
    together. With `mixed_precision` the network computes in bfloat16 where the device does (a GPU, or a CPU with
    AVX512-BF16 or AMX); weights, losses and their sums stay float32. `heatmap_sigma` and `person_balance`: see
    `kdc_model.losses.LossOptions`.
    With `val_annotations` and `val_images` the averaged network is scored every `evaluate_epochs` passes over the
    data (0 = never) and at the end.
    """

    train_annotations: tuple[str, ...]
    train_images: tuple[str, ...]
    pseudo_masks: tuple[str, ...] = ()
    pseudo_mask_quality: float = 0.7
    max_crowd_prob: float = 0.5
    val_annotations: str = ""
    val_images: str = ""
    pretrained: str = ""
    # network
    trunk: str = "mobilenet_v1_075"
    output_stride: int = 16
    stride: int = 4
    channels: int = 64
    head_units: int = 2
    separable: bool = True
    mask_mode: str = "embedding"
    disk_radius_px: float = 8.0
    disk_radius_range: tuple[float, float] = (0.0, 0.0)
    disk_kappas: float = 1.25
    # pictures
    input_size: int | tuple[int, ...] = 384
    long_side: int = 480
    scale_range: tuple[float, float] = (0.6, 1.6)
    max_enlargement: float = 0.0
    rotation_deg: float = 20.0
    flip: float = 0.5
    colour: float = 0.3
    copy_paste: float = 0.0
    mosaic: float = 0.0
    blur: float = 0.0
    blur_px: float = 6.0
    # optimisation
    epochs: float = 10.0
    batch_size: int = 8
    learning_rate: float = 1e-3
    trunk_rate: float = 0.1
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    freeze_stages: int = 0
    freeze_norms: bool = False
    clip_norm: float = 5.0
    ema_decay: float = 0.998
    mixed_precision: bool = True
    loss_heatmap: float = LossWeights.heatmap
    loss_offset: float = LossWeights.offset
    loss_displacement: float = LossWeights.displacement
    loss_person: float = LossWeights.person
    loss_embedding: float = LossWeights.embedding
    loss_separation: float = LossWeights.separation
    loss_sigma: float = LossWeights.sigma
    heatmap_sigma: float = 0.0
    person_balance: float = 0.0
    # running
    seed: int = 0
    workers: int = 1
    checkpoint_minutes: float = 5.0
    evaluate_epochs: float = 1.0

    def __post_init__(self) -> None:
        if not self.train_annotations or len(self.train_annotations) != len(self.train_images):
            raise ConfigError(
                "train_annotations and train_images must be lists of the same length, at least 1"
            )
        if bool(self.val_annotations) != bool(self.val_images):
            raise ConfigError("val_annotations and val_images go together: both or neither")
        if self.pseudo_masks and len(self.pseudo_masks) != len(self.train_annotations):
            raise ConfigError("pseudo_masks must be empty or one for each of train_annotations")
        if not self.input_sizes or any(side % 32 or side <= 0 for side in self.input_sizes):
            raise ConfigError(f"input_size must be a multiple of 32, or a list of them, got {self.input_size}")
        for name, value in vars(self).items():
            if isinstance(value, int) and value >= INT_LIMIT:
                raise ConfigError(f"{name} must be below 2**63, got {value}")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in (*_NOT_NEGATIVE, *(f"loss_{f.name}" for f in dataclasses.fields(LossWeights))):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be within 0..1, got {getattr(self, name)}")
        for name in ("scale_range", "disk_radius_range"):
            ends = getattr(self, name)
            if len(ends) != 2 or not (0 < ends[0] <= ends[1] or (ends == (0, 0) and name != "scale_range")):
                raise ConfigError(f"{name} must be two rising numbers above 0, got {ends}")
        try:
            # Shapes without numbers: a wrong combination should not wait for the data.
            with torch.device("meta"):
                network = KDCNet(self.network())
        except ValueError as error:
            raise ConfigError(str(error)) from error
        except RuntimeError as error:
            raise ConfigError(f"channels {self.channels} are more than torch can count") from error
        if self.batch_size == 1 and not self.freeze_norms:
            self._check_norms(network)
        if self.freeze_stages > (stages := len(network.trunk.stages())):
            raise ConfigError(f"freeze_stages is {self.freeze_stages}, but {self.trunk} has {stages} stages")

    def _check_norms(self, network: KDCNet) -> None:
        """Raises ConfigError where a batch norm of a network without numbers gets one cell of one picture."""
        side = min(self.input_sizes)
        try:
            network.train()(torch.zeros(1, 3, side, side, device="meta"))
        except ValueError as error:
            raise ConfigError(
                f"batch_size 1 leaves batch norms nothing to average: {self.trunk} makes one cell of an input_size of "
                f"{side}; take more or larger windows, or freeze_norms"
            ) from error

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """The sides of the training windows, one for each turn."""
        return (self.input_size,) if isinstance(self.input_size, int) else self.input_size

    def network(self) -> NetworkConfig:
        """The part that shapes the network."""
        names = [f.name for f in dataclasses.fields(NetworkConfig)]
        return NetworkConfig(**{name: getattr(self, name) for name in names})

    def disk_radius(self) -> float | DiskRadius:
        """R of each joint's disk in the training targets."""
        if not any(self.disk_radius_range):
            return self.disk_radius_px
        return DiskRadius(*self.disk_radius_range, self.disk_kappas)

    def loss_options(self) -> LossOptions:
        """Forms of the targets and of the averages."""
        return LossOptions(self.heatmap_sigma, self.person_balance)

    def loss_weights(self) -> dict[str, float]:
        """Factor of each loss term, by the names of `LossWeights`."""
        return {f.name: getattr(self, f"loss_{f.name}") for f in dataclasses.fields(LossWeights)}

    def differences(self, other: TrainConfig) -> list[str]:
        """The keys with other values there."""
        return [name for name, value in vars(self).items() if value != getattr(other, name)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints and YAML."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], base: Path | None = None) -> TrainConfig:
        """Check and build. Relative paths are taken from `base`. Raises ConfigError."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if unknown := sorted(str(name) for name in set(data) - set(fields)):
            raise ConfigError(f"unknown keys {', '.join(unknown)}; known: {', '.join(fields)}")
        for name in ("train_annotations", "train_images"):
            if name not in data:
                raise ConfigError(f"the configuration lacks '{name}'")
        values: dict[str, Any] = {}
        for name, value in data.items():
            values[name] = _convert(name, value, str(fields[name].type))
        for name in _PATHS:
            if base is not None and values.get(name):
                value = values[name]
                # An empty entry of pseudo_masks (none for that annotation file) stays empty.
                many = isinstance(value, tuple)
                values[name] = tuple(v and str(base / v) for v in value) if many else str(base / value)
        return cls(**values)

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a YAML file; relative paths in it are relative to the file.

        Raises ConfigError, FileNotFoundError.
        """
        data = read_yaml(path)
        if not isinstance(data, dict):
            raise ConfigError(f"{path} must be a mapping of keys to values")
        try:
            return cls.from_dict(data, path.parent.resolve())
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def _convert(name: str, value: Any, kind: str) -> Any:
    """A YAML value as the type its field has."""
    if " | " in kind:  # one or several
        one, several = kind.split(" | ")
        kind = several if isinstance(value, list) else one
    if kind.startswith("tuple"):
        if not isinstance(value, list):
            raise ConfigError(f"{name} must be a list, got {value!r}")
        return tuple(_convert(name, v, kind.removeprefix("tuple[").split(",")[0]) for v in value)
    if kind == "float" and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML 1.1 reads 1e-3, without a point, as text
    types = {"int": int, "float": (int, float), "str": str, "bool": bool}
    if not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "bool"):  # type: ignore[arg-type]
        raise ConfigError(f"{name} must be {kind}, got {value!r}")
    if kind != "float":
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be a finite number, got {value!r}")
    return number
