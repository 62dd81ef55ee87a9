"""The trainer: batches in, checkpoints out."""

from __future__ import annotations

import copy
import csv
import logging
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from kdc_model.config import TrainConfig
from kdc_model.data.augment import WarpRange
from kdc_model.data.coco import ImageRecord, add_pseudo_masks, load_records
from kdc_model.data.dataset import Batch, EpochDataset, Mixing, PeopleDataset, StepSampler, collate
from kdc_model.from_onnx import unfold_norms
from kdc_model.losses import all_losses
from kdc_model.network import KDCNet
from kdc_model.pretrained import initialise
from kdc_model.validation import Validation

logger = logging.getLogger(__name__)

# Pictures whose statistics a network started from an exported file gets.
_NORM_SAMPLES = 96


class NonFiniteLoss(RuntimeError):
    """A loss term became NaN or infinite: names the term and the step."""


class Trainer:
    """One training run in one folder: `last.pt` and `log.csv`; with validation data `scores.csv` and `best.pt`.

    SIGTERM and SIGINT save and leave.
    """

    def __init__(
        self, config: TrainConfig, out: Path, resume: bool = False, device: str | None = None
    ) -> None:
        self.config, self.out = config, out
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)  # of the network's start; samples have their own generators
        self.network = KDCNet(config.network())
        last = out / "last.pt"
        if last.exists() and not resume:
            raise FileExistsError(f"{last} exists: go on with --resume, or choose another folder")
        if config.pretrained and not last.exists():
            initialise(self.network, Path(config.pretrained))
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for stage in self.network.trunk.stages()[: config.freeze_stages]:
            stage.requires_grad_(False)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.network, config))
        self.step = 0
        if last.exists():
            self._load(last)
        self.dataset = PeopleDataset(
            training_records(config),
            config.input_size,
            config.stride,
            config.disk_radius_px,
            WarpRange(config.long_side, config.scale_range, config.rotation_deg, config.flip),
            config.colour,
            config.seed,
            Mixing(config.copy_paste, config.mosaic, config.blur, config.blur_px),
        )
        self.total_steps = max(1, math.ceil(config.epochs * len(self.dataset) / config.batch_size))
        if config.pretrained.endswith(".onnx") and not last.exists():
            unfold_norms(self.network, self._first_images())
            self.average.load_state_dict(self.network.state_dict())
        self._stop = False
        self._validation = None
        if config.val_annotations and config.evaluate_epochs > 0:
            self._validation = Validation(config, out, len(self.dataset) / config.batch_size)

    def run(self) -> Path:
        """Train to the end (or a signal); returns the last checkpoint. Raises NonFiniteLoss."""
        config = self.config
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        remaining = max(0, self.total_steps - self.step) * config.batch_size
        loader = DataLoader(
            EpochDataset(self.dataset),
            batch_size=config.batch_size,
            sampler=StepSampler(len(self.dataset), config.seed, self.step * config.batch_size, remaining),
            num_workers=config.workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            persistent_workers=False,
            prefetch_factor=4 if config.workers else None,
            worker_init_fn=_quiet_worker,
        )
        saved = time.monotonic()
        sums: dict[str, float] = {}
        summed = 0
        progress = tqdm(total=self.total_steps, initial=self.step, unit="step", mininterval=2.0)
        try:
            for batch in loader:
                terms = self._train_step(batch.to(self.device))
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value
                summed += 1
                progress.update()
                if self.step % 20 == 0:
                    means = {name: value / summed for name, value in sums.items()}
                    sums.clear()
                    summed = 0
                    progress.set_postfix({k[:4]: f"{v:.3f}" for k, v in means.items()})
                    self._log(means)
                if self._validation and self._validation.due(self.step, self.total_steps) and not self._stop:
                    self._validation.run(self.average, self.save(), self.step)
                if self._stop or time.monotonic() - saved > config.checkpoint_minutes * 60:
                    self.save()
                    saved = time.monotonic()
                if self._stop:
                    logger.warning("stopped by a signal at step %d; go on with --resume", self.step)
                    break
        finally:
            progress.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.save()

    def _first_images(self) -> Iterator[Tensor]:
        """Some augmented pictures, as the first steps will see them."""
        count = min(_NORM_SAMPLES, len(self.dataset))
        for index in range(0, count, self.config.batch_size):
            part = range(index, min(index + self.config.batch_size, count))
            yield collate([self.dataset[i] for i in part]).to(self.device).images.float()

    def _train_step(self, batch: Batch) -> dict[str, float]:
        config = self.config
        self.network.train()
        for stage in self.network.trunk.stages()[: config.freeze_stages]:
            stage.eval()
        factor = _schedule(self.step, config.warmup_steps, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        images = batch.images.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            fields = self.network(images)
        fields = type(fields)(*(f.float() for f in fields))
        terms = all_losses(fields, batch, config.stride, config.disk_radius_px, config.mask_mode)
        for name, value in terms.items():
            if not torch.isfinite(value):
                raise NonFiniteLoss(f"the loss term '{name}' is {value.item()} at step {self.step}")
        weights = config.loss_weights()
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        if not torch.isfinite(norm):
            raise NonFiniteLoss(
                f"the gradient's norm is {norm.item()} at step {self.step}, though every loss is finite"
            )
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return {"total": total.item(), **{name: value.item() for name, value in terms.items()}}

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average forgets its start faster (as in TensorFlow's moving average).
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for average, value in zip(self.average.state_dict().values(), self.network.state_dict().values()):
            if average.dtype.is_floating_point:
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def save(self) -> Path:
        """Write `last.pt`: never half a file."""
        path = self.out / "last.pt"
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "config": self.config.to_dict(),
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            partial,
        )
        partial.replace(path)
        return path

    def _load(self, path: Path) -> None:
        checkpoint = load_checkpoint(path)
        self.network.load_state_dict(checkpoint["network"])
        self.average.load_state_dict(checkpoint["average"])
        rates = [(group["base_lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        # The configuration's rates hold, also where they were changed since.
        for group, (rate, decay) in zip(self.optimizer.param_groups, rates):
            group["base_lr"], group["weight_decay"] = rate, decay
        self.step = checkpoint["step"]
        now = self.config.to_dict()
        changed = sorted(k for k, v in now.items() if checkpoint["config"].get(k, v) != v)
        if changed:
            logger.warning("resumed with another configuration than before: %s", ", ".join(changed))
        logger.info("resumed from %s at step %d", path, self.step)

    def _log(self, means: dict[str, float]) -> None:
        path = self.out / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *means])
            writer.writerow([self.step, *(f"{v:.5f}" for v in means.values())])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True


def training_records(config: TrainConfig) -> list[ImageRecord]:
    """All the training images of a configuration."""
    records = []
    for i, (file, images) in enumerate(zip(config.train_annotations, config.train_images)):
        part = load_records(Path(file), Path(images))
        if config.pseudo_masks and config.pseudo_masks[i]:
            part = add_pseudo_masks(
                part, Path(file), Path(config.pseudo_masks[i]), config.pseudo_mask_quality
            )
        records += [r for r in part if r.crowd_prob <= config.max_crowd_prob]
    return records


class CheckpointError(ValueError):
    """A file that is no checkpoint of `kdc train`, or a broken one."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, running no code from it. Raises FileNotFoundError, CheckpointError."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or "average" not in checkpoint or "config" not in checkpoint:
        raise CheckpointError(f"{path} is not a checkpoint of `kdc train`")
    return checkpoint


def network_from_checkpoint(path: Path) -> tuple[KDCNet, TrainConfig, int]:
    """The averaged network of a checkpoint in evaluation mode, its configuration and its step."""
    checkpoint = load_checkpoint(path)
    config = TrainConfig.from_dict(checkpoint["config"])
    network = KDCNet(config.network())
    network.load_state_dict(checkpoint["average"])
    return network.eval(), config, int(checkpoint["step"])


def _parameter_groups(network: KDCNet, config: TrainConfig) -> list[dict[str, Any]]:
    """Pretrained parts learn slowly; biases and norms do not decay."""
    pretrained = {
        id(p) for m in (network.trunk, network.pose.coarse, network.seg.coarse) for p in m.parameters()
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            key = (id(parameter) in pretrained, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    out = []
    for (slow, decays), parameters in groups.items():
        rate = config.learning_rate * (config.trunk_rate if slow else 1.0)
        decay = config.weight_decay if decays else 0.0
        out.append({"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay})
    return out


def _schedule(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then a cosine down to one per cent."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _quiet_worker(worker: int) -> None:
    """OpenCV's threads in a loader process only fight over the cores; and the parent handles signals.

    A service manager or a terminal signals the whole process group: a worker that died of it would take the
    trainer along before it has saved.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
