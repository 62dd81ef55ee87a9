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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdc_core.decode.masks import MaskOptions
from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_model.checkpoint import network_from_checkpoint
from kdc_model.config import ConfigError, TrainConfig
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
        try:
            data = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {error}") from error
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
        if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds):
            raise ConfigError(f"{path}: seeds must be a list of whole numbers from 0 on, got {seeds!r}")
        decoding = {}
        for name, changes in _variants(path, data, "decoding").items():
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
        """The part of the plan with these seeds. Raises ConfigError for one that is not in it."""
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
        trainer = Trainer(dataclasses.replace(config, evaluate_epochs=0.0), folder, resume=True, device=device)
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
    if kept.is_file():
        data = json.loads(kept.read_text())
        if json.dumps(completed(data["key"]), sort_keys=True) != json.dumps(key, sort_keys=True):
            raise ConfigError(f"{kept} was made with other settings: choose another folder, or remove it")
        return data["metrics"]
    metrics = work()
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"key": key, "metrics": metrics}, indent=2) + "\n")
    return metrics


def _base_network(path: Path, config: TrainConfig) -> KDCNet:
    if path.suffix == ".onnx":
        network = KDCNet(config.network())
        try:
            load_exported(network, path)
        except ValueError as error:
            raise ConfigError(f"the plan's model does not fit its configuration: {error}") from error
        return network.eval()
    return network_from_checkpoint(path)[0]


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
