"""The trainer: batches in, checkpoints out. One process, or several started by torchrun."""

from __future__ import annotations

import copy
import logging
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from kdc_model import distributed
from kdc_model.checkpoint import CheckpointError, checkpoint_config, load_checkpoint, load_part
from kdc_model.config import ConfigError, TrainConfig
from kdc_model.data.dataset import Batch, collate
from kdc_model.from_onnx import unfold_norms
from kdc_model.losses import all_losses
from kdc_model.network import KDCNet
from kdc_model.pretrained import initialise
from kdc_model.run_log import RunLog, write_curves
from kdc_model.training_data import batches, training_dataset
from kdc_model.validation import Validation

logger = logging.getLogger(__name__)

# Pictures whose statistics a network started from an exported file gets.
_NORM_SAMPLES = 96
# Steps from one row of the log to the next.
LOG_STEPS = 20


class NonFiniteLoss(RuntimeError):
    """A loss term became NaN or infinite: names the term and the step."""


class Trainer:
    """One training run in one folder: `last.pt`, `log.csv`, `curves.png` and TensorBoard's events; with validation
    data `scores.csv` and `best.pt`.

    SIGTERM and SIGINT save and leave. In several processes (inside `distributed.processes`) each takes its share of
    every batch, and only the first one writes.

    bfloat16: whether the device computes with it; None finds out.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        resume: bool = False,
        device: str | None = None,
        bfloat16: bool | None = None,
    ) -> None:
        self.config, self.out = config, out
        self.device = distributed.local_device(device)
        if config.batch_size % (world := distributed.world_size()):
            raise ConfigError(f"batch_size {config.batch_size} must be a multiple of the {world} processes")
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)  # of the network's start; samples have their own generators
        self.network = KDCNet(config.network())
        last = out / "last.pt"
        if last.exists() and not resume:
            raise FileExistsError(f"{last} exists: go on with --resume, or choose another folder")
        self.dataset = training_dataset(config)
        if config.pretrained and not last.exists():
            try:
                initialise(self.network, Path(config.pretrained), self._first_images)
            except ValueError as error:
                raise ConfigError(f"pretrained: {error}") from error
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze_stages(self.network, config)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.network, config))
        self.step = 0
        if last.exists():
            self._load(last)
        if len(set(steps := distributed.gathered(self.step))) > 1:
            raise ConfigError(
                f"the processes found checkpoints of the steps {', '.join(map(str, steps))} in {out}: going on takes "
                "one folder that all machines share, or the same last.pt on each"
            )
        self.total_steps = max(1, math.ceil(config.epochs * len(self.dataset) / config.batch_size))
        if config.pretrained.endswith((".onnx", ".json")) and not last.exists():
            unfold_norms(self.network, self._first_images())
            self.average.load_state_dict(self.network.state_dict())
        self._model: nn.Module = self.network
        if distributed.world_size() > 1:
            # Statistics over the global batch; torch has this for GPUs only.
            if self.device.type == "cuda":
                self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
            self._model = DistributedDataParallel(self.network)
        able = computes_bfloat16(self.device) if bfloat16 is None else bfloat16
        self._bfloat16 = config.mixed_precision and able
        self._stop = False
        self._validation = None
        if config.val_annotations and config.evaluate_epochs > 0:
            self._validation = Validation(config, out, len(self.dataset) / config.batch_size)

    def run(self) -> Path:
        """Train to the end (or a signal); returns the last checkpoint. Raises NonFiniteLoss."""
        config = self.config
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        first = distributed.rank() == 0
        log = RunLog(self.out, self.step) if first else None
        saved = asked = time.monotonic()
        means = Means()
        progress = tqdm(
            total=self.total_steps, initial=self.step, unit="step", mininterval=2.0, disable=not first
        )
        steps = batches(self.dataset, config, self.step, self.total_steps, self.device)
        try:
            # Only the first process has the scores' file.
            if self._validation and distributed.gathered(self._validation.missed(self.step, self.total_steps))[0]:
                self._validate()
            # Adam's moments and faint gradients decay into denormal numbers, with which a CPU is many times slower.
            torch.set_flush_denormal(True)
            for batch in steps:
                got = time.monotonic()
                terms = self.train_step(batch.to(self.device))
                done = time.monotonic()
                means.add(terms, config.batch_size, waited_s=got - asked, worked_s=done - got)
                progress.update()
                if self.step % LOG_STEPS == 0 and log is not None:
                    row = means.take()
                    progress.set_postfix({k[:4]: f"{v:.3g}" for k, v in row.items()})
                    log.write(self.step, row)
                stop = distributed.anywhere(self._stop, self.device)
                if self._validation and self._validation.due(self.step, self.total_steps) and not stop:
                    scores = self._validate()
                    if log is not None:
                        log.scalars("score", self.step, scores)
                if stop or time.monotonic() - saved > config.checkpoint_minutes * 60:
                    self.save()
                    saved = time.monotonic()
                if stop:
                    logger.warning("stopped by a signal at step %d; go on with --resume", self.step)
                    break
                asked = time.monotonic()
        finally:
            steps.close()
            torch.set_flush_denormal(False)  # it is the whole thread's, not only ours
            progress.close()
            if log is not None:
                log.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        path = self.save()
        if first:
            write_curves(self.out)
        return path

    def _validate(self) -> dict[str, float]:
        assert self._validation is not None
        distributed.from_first(self.average)
        scores = self._validation.run(self.average, self.save(), self.step)
        if distributed.rank() == 0:
            write_curves(self.out)
        return scores

    def _first_images(self) -> Iterator[Tensor]:
        """Some augmented pictures, as the first steps will see them."""
        count = min(_NORM_SAMPLES, len(self.dataset))
        for index in range(0, count, self.config.batch_size):
            part = range(index, min(index + self.config.batch_size, count))
            yield collate([self.dataset[i] for i in part]).to(self.device).images.float()

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step on this process's share of a batch; the loss terms and their weighted `total`.

        Raises NonFiniteLoss.
        """
        config = self.config
        self.network.train()
        for stage in self.network.trunk.stages()[: config.freeze_stages]:
            stage.eval()
        if config.freeze_norms:
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):  # of one GPU or synchronised between several
                    module.eval()
        factor = _schedule(self.step, config.warmup_steps, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        images = batch.images.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            fields = self._model(images)
        fields = type(fields)(*(f.float() for f in fields))
        terms = all_losses(fields, batch, config.stride, config.mask_mode, config.loss_options())
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
        values = torch.stack([total.detach(), *(value.detach() for value in terms.values())])
        return dict(zip(("total", *terms), distributed.mean_over_processes(values).tolist()))

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
        if distributed.rank() > 0:
            return path
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
        before = checkpoint_config(checkpoint, path)
        for what, was, now in (
            ("network", before.network(), self.config.network()),
            ("freeze_stages", before.freeze_stages, self.config.freeze_stages),
        ):
            if was != now:
                raise ConfigError(f"{path} cannot go on with another {what}: it has {was}, asked for is {now}")
        load_part(self.network, checkpoint, "network", path)
        load_part(self.average, checkpoint, "average", path)
        rates = [(group["base_lr"], group["weight_decay"]) for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            fits = all(
                moments[name].shape == parameter.shape
                for parameter, moments in self.optimizer.state.items() for name in ("exp_avg", "exp_avg_sq")
            )  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise CheckpointError(f"{path}: its 'optimizer' is lacking, or not of its network")
        # The configuration's rates hold, also where they were changed since.
        for group, (rate, decay) in zip(self.optimizer.param_groups, rates):
            group["base_lr"], group["weight_decay"] = rate, decay
        self.step = checkpoint["step"]
        if changed := sorted(self.config.differences(before)):
            logger.warning("resumed with another configuration than before: %s", ", ".join(changed))
        logger.info("resumed from %s at step %d", path, self.step)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True


class Means:
    """Mean loss terms over some steps, with the pace: images/s, and the share of the time spent waiting for data."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = self._images = 0
        self._waited_s = self._worked_s = 0.0

    def add(self, terms: dict[str, float], images: int, waited_s: float, worked_s: float) -> None:
        """Count one step."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._images += images
        self._waited_s += waited_s
        self._worked_s += worked_s

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        seconds = max(self._waited_s + self._worked_s, 1e-9)
        out = {name: value / self._steps for name, value in self._sums.items()}
        out |= {"images_per_s": self._images / seconds, "data_wait": self._waited_s / seconds}
        self.__init__()  # type: ignore[misc]
        return out


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by itself; where it does not, mixed precision would be slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def freeze_stages(network: KDCNet, config: TrainConfig) -> None:
    """No gradients for the trunk's first `freeze_stages` stages."""
    for stage in network.trunk.stages()[: config.freeze_stages]:
        stage.requires_grad_(False)


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
