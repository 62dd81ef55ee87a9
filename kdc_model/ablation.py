"""Ablations: what each switch is worth, from a list of switches in one YAML file.

Variants under `decoding` change only how the base network's fields are decoded; variants under `training` are trained
like the base but for their changes, with every seed. All are scored on the base configuration's validation photos.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from kdc_core.decode.masks import MaskOptions
from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_core.spec import METADATA_KEY, ModelSpec
from kdc_model.checkpoint import MEANING, checkpoint_config, load_checkpoint, network_from_checkpoint
from kdc_model.config import INT_LIMIT, ConfigError, TrainConfig, read_yaml
from kdc_model.evaluate import TruthImage, evaluate, load_truth
from kdc_model.field_decoding import DecodingSwitches, FieldBackend
from kdc_model.from_onnx import load_exported
from kdc_model.network import KDCNet
from kdc_model.torch_backend import model_spec
from kdc_model.train import Trainer

logger = logging.getLogger(__name__)

BASE = "base"
METRICS = ("keypoints.AP", "keypoints.AP50", "segm.AP", "segm.AP50", "person_iou")


@dataclass(frozen=True)
class AblationPlan:
    """What to compare.

    config:   the base's training configuration, with validation photos. A plan's `common` changes keys of it for
              the base and every variant alike (shorter trainings, for one).
    model:    a file that `kdc export` wrote, or a checkpoint, as the base of the decoding variants; None: the base is
              trained too, with every seed.
    seeds:    of the training variants.
    decoding, training: by name, the switches, or the keys of the configuration, that differ from the base.
    """

    config: TrainConfig
    model: Path | None
    seeds: tuple[int, ...]
    decoding: Mapping[str, DecodingSwitches]
    training: Mapping[str, TrainConfig]

    @classmethod
    def load(cls, path: Path) -> AblationPlan:
        """Read a plan; relative paths in it are relative to the file. Raises ConfigError, FileNotFoundError."""
        data = read_yaml(path)
        known = {"config", "common", "model", "seeds", "decoding", "training"}
        if not isinstance(data, dict) or "config" not in data or set(data) - known:
            raise ConfigError(f"{path} must be a mapping with 'config' and any of {', '.join(sorted(known))}")
        config = TrainConfig.load((path.parent / str(data["config"])).resolve())
        if not isinstance(common := data.get("common") or {}, dict):
            raise ConfigError(f"{path}: 'common' must map keys of the configuration to values, got {common!r}")
        try:
            config = TrainConfig.from_dict({**config.to_dict(), **common}, path.parent.resolve())
        except ConfigError as error:
            raise ConfigError(f"{path}: common: {error}") from error
        if not config.val_annotations:
            raise ConfigError(f"{path}: the configuration names no val_annotations to score on")
        seeds = data.get("seeds", [config.seed])
        if not isinstance(seeds, list) or not seeds or not all(type(s) is int and 0 <= s < INT_LIMIT for s in seeds):
            raise ConfigError(f"{path}: seeds must be a list of whole numbers from 0 on, below 2**63, got {seeds!r}")
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"{path}: seeds must differ, got {seeds!r}")
        decoding = {}
        switches = [f.name for f in dataclasses.fields(DecodingSwitches)]
        for name, changes in _variants(path, data, "decoding").items():
            if unknown := sorted(str(key) for key in set(changes) - set(switches)):
                raise ConfigError(
                    f"{path}: decoding variant '{name}': unknown switches {', '.join(unknown)}; "
                    f"known: {', '.join(switches)}"
                )
            try:
                decoding[name] = DecodingSwitches(**changes)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{path}: decoding variant '{name}': {error}") from error
        training = {}
        for name, changes in _variants(path, data, "training").items():
            try:
                training[name] = TrainConfig.from_dict({**config.to_dict(), **changes}, path.parent.resolve())
            except ConfigError as error:
                raise ConfigError(f"{path}: training variant '{name}': {error}") from error
        model = (path.parent / str(data["model"])).resolve() if data.get("model") else None
        return cls(config, model, tuple(seeds), decoding, training)

    def only(self, seeds: Sequence[int]) -> AblationPlan:
        """The part of the plan with these seeds. Raises ConfigError for one that is not in it, or stands twice."""
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds must differ, got {_listed(seeds)}")
        if unknown := sorted(set(seeds) - set(self.seeds)):
            raise ConfigError(f"the plan has the seeds {_listed(self.seeds)}, not {_listed(unknown)}")
        return dataclasses.replace(self, seeds=tuple(seeds))


def _variants(path: Path, data: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    variants = data.get(part) or {}
    if not isinstance(variants, dict) or not all(
        isinstance(name, str) and isinstance(changes, dict) for name, changes in variants.items()
    ):
        raise ConfigError(f"{path}: '{part}' must map names to changes, as in 'R 8: {{disk_radius_px: 8}}'")
    if BASE in variants:
        raise ConfigError(f"{path}: '{BASE}' is the name of what the variants are compared with")
    folders: dict[str, str] = {_folder(BASE): BASE}
    for name in variants:
        # A name is a folder's, and a cell of a Markdown table.
        if not any(c.isalnum() for c in name) or any(c in name for c in "|\r\n"):
            raise ConfigError(f"{path}: {part} variant {name!r}: a name has a letter or digit, in one line without '|'")
        if (other := folders.setdefault(_folder(name), name)) != name:
            raise ConfigError(f"{path}: {part} variants '{other}' and '{name}' would share the folder {_folder(name)}")
    return variants


def run_plan(plan: AblationPlan, out: Path, device: str | None = None) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Score every variant; returns, by part and variant, the metrics of each seed (or of the one base network).

    What is finished in `out` is not done again; an interrupted training goes on. Writes ablation.json and ablation.md.
    """
    out.mkdir(parents=True, exist_ok=True)
    truth = load_truth(Path(plan.config.val_annotations), Path(plan.config.val_images))
    scores: dict[str, dict[str, list[dict[str, float]]]] = {"decoding": {}, "training": {}}
    if plan.training or plan.model is None:
        for name, config in {BASE: plan.config, **plan.training}.items():
            folder = out / "training" / _folder(name)
            scores["training"][name] = [
                _trained(dataclasses.replace(config, seed=seed), folder / f"seed_{seed}", truth, device)
                for seed in plan.seeds
            ]
    if plan.decoding:
        checkpoint = out / "training" / _folder(BASE) / f"seed_{plan.seeds[0]}" / "last.pt"
        network = _base_network(plan.model or checkpoint, plan.config)
        scored = {
            "weights": _digest(plan.model or checkpoint),
            "annotations": _digest(Path(plan.config.val_annotations)),
            "configuration": plan.config.to_dict(),
        }
        for name, switches in {BASE: DecodingSwitches(), **plan.decoding}.items():
            kept = out / "decoding" / f"{_folder(name)}.json"
            key = {"switches": dataclasses.asdict(switches), **scored}
            decode = functools.partial(decoded_scores, network, plan.config, switches, truth)
            scores["decoding"][name] = [_once(kept, key, decode)]
    (out / "ablation.json").write_text(json.dumps(scores, indent=2) + "\n")
    (out / "ablation.md").write_text(table(scores))
    return scores


def decoded_scores(
    network: KDCNet, config: TrainConfig, switches: DecodingSwitches, truth: list[TruthImage]
) -> dict[str, float]:
    """The metrics of a network decoded with these switches."""
    mask = MaskOptions(smoothing_cells=switches.igo_cells)
    options = PipelineOptions(person_threshold=0.01, mask_only=switches.mask_only, mask=mask)
    backend = FieldBackend(network, model_spec(network, config), switches)
    metrics = evaluate(Pipeline(backend, options), truth, progress=True, before=backend.look_at)
    return {name: metrics[name] for name in METRICS}


def _trained(config: TrainConfig, folder: Path, truth: list[TruthImage], device: str | None) -> dict[str, float]:
    def train() -> dict[str, float]:
        logger.info("training %s", folder)
        ours = dataclasses.replace(config, evaluate_epochs=0.0)
        if (last := folder / "last.pt").exists():
            started = checkpoint_config(load_checkpoint(last), last)
            if changed := ours.differences(started):
                raise ConfigError(
                    f"{last} was begun with other settings ({', '.join(changed)}): choose another folder, or remove it"
                )
        trainer = Trainer(ours, folder, resume=True, device=device)
        checkpoint = trainer.run()
        if trainer.step < trainer.total_steps:
            raise KeyboardInterrupt  # a signal: the next call goes on
        network, _, _ = network_from_checkpoint(checkpoint)
        return decoded_scores(network, config, DecodingSwitches(), truth)

    return _once(folder / "scores.json", config.to_dict(), train, lambda key: TrainConfig.from_dict(key).to_dict())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _once(
    kept: Path,
    key: dict[str, Any],
    work: Callable[[], dict[str, float]],
    completed: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, float]:
    """The result of `work`, kept in a file; taken from there when it was made with the same key.

    completed: adds to a kept key what later versions know, with its default. Raises ConfigError when the file was made
    with another one.
    """
    if (data := _kept(kept)) is not None:
        try:
            same = json.dumps(completed(data["key"]), sort_keys=True) == json.dumps(key, sort_keys=True)
        except ConfigError:
            same = False
        if not same:
            raise ConfigError(f"{kept} was made with other settings: choose another folder, or remove it")
        return data["metrics"]
    metrics = work()
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")  # several processes may share the folder
    partial.write_text(json.dumps({"key": key, "metrics": metrics}, indent=2) + "\n")
    partial.replace(kept)
    return metrics


def _kept(path: Path) -> dict[str, Any] | None:
    """What `_once` wrote; None where there is nothing, or not the whole of it."""
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
        if isinstance(data["key"], dict) and all(isinstance(data["metrics"][name], (int, float)) for name in METRICS):
            return data
    except (KeyError, TypeError, ValueError):
        pass
    logger.warning("%s is not readable: it is made again", path)
    return None


def _base_network(path: Path, config: TrainConfig) -> KDCNet:
    """The network to decode with a configuration.

    Raises FileNotFoundError, CheckpointError, and ConfigError where its fields would mean something else with it.
    """
    if path.suffix != ".onnx":
        network, trained, _ = network_from_checkpoint(path)
        _check_meaning(path, config, {name: getattr(trained, name) for name in MEANING})
        return network
    spec = _exported_spec(path)
    _check_meaning(path, config, {name: getattr(spec, name) for name in ("stride", "mask_mode", "disk_radius_px")})
    network = KDCNet(config.network())
    try:
        load_exported(network, path)
    except ValueError as error:
        raise ConfigError(f"the plan's model does not fit its configuration: {error}") from error
    return network.eval()


def _check_meaning(path: Path, config: TrainConfig, model: dict[str, Any]) -> None:
    for name, value in model.items():
        if value != (wanted := getattr(config, name)):
            raise ConfigError(f"the plan's model {path} has {name} {value}, the plan's configuration {wanted}")


def _exported_spec(path: Path) -> ModelSpec:
    if not path.is_file():
        raise FileNotFoundError(f"no model at {path}")
    try:
        properties = {item.key: item.value for item in onnx.load(str(path)).metadata_props}
        return ModelSpec.from_json(properties[METADATA_KEY])
    except Exception as error:  # protobuf raises its own kinds
        raise ConfigError(f"the plan's model {path} is not one that `kdc export` wrote: {error}") from error


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(v) for v in values)


def _folder(name: str) -> str:
    """A variant's name as a folder's."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)


def table(scores: Mapping[str, Mapping[str, list[dict[str, float]]]]) -> str:
    """Markdown: the mean over the seeds, with the range where there are several, and the change from the base."""
    lines = []
    for part, variants in scores.items():
        if not variants:
            continue
        lines += [f"### {part}", "", "| variant | seeds | " + " | ".join(METRICS) + " |"]
        lines += ["| --- " * (2 + len(METRICS)) + "|"]
        base = variants[BASE]
        for name, runs in variants.items():
            cells = []
            for metric in METRICS:
                values = np.array([run[metric] for run in runs])
                mean = float(values.mean())
                text = f"{mean:.3f}"
                if len(values) > 1:
                    text += f" ({values.min():.3f} to {values.max():.3f})"
                if name != BASE:
                    text += f" {mean - float(np.mean([run[metric] for run in base])):+.3f}"
                cells.append(text)
            lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)
