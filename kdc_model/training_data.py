"""What a training run is shown: its photos, augmented, in batches of every process's share."""

from __future__ import annotations

import math
import signal
from collections.abc import Generator
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader

from kdc_core.images import UnreadableImageError
from kdc_model import distributed
from kdc_model.config import ConfigError, TrainConfig
from kdc_model.data.augment import WarpRange
from kdc_model.data.coco import AnnotationError, ImageRecord, add_pseudo_masks, load_records
from kdc_model.data.dataset import Batch, Mixing, PeopleDataset, StepDataset, StepSampler, collate


def training_records(config: TrainConfig) -> list[ImageRecord]:
    """All the training images of a configuration."""
    records = []
    for i, (file, images) in enumerate(zip(config.train_annotations, config.train_images)):
        part = load_records(Path(file), Path(images))
        if missing := [r.path for r in part if not r.path.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(part)} pictures of {file} are not there, for one {missing[0]}"
            )
        if config.pseudo_masks and config.pseudo_masks[i]:
            part = add_pseudo_masks(part, Path(config.pseudo_masks[i]), config.pseudo_mask_quality)
        records += [r for r in part if r.crowd_prob <= config.max_crowd_prob]
    if not records:
        raise ConfigError(f"there is no picture to train on in {', '.join(config.train_annotations)}")
    return records


def training_dataset(config: TrainConfig) -> PeopleDataset:
    """All the training samples of a configuration, augmented."""
    return PeopleDataset(
        training_records(config),
        config.input_sizes[0],
        config.stride,
        config.disk_radius(),
        WarpRange(
            config.long_side,
            config.scale_range,
            config.rotation_deg,
            config.flip,
            config.max_enlargement or math.inf,
        ),
        config.colour,
        config.seed,
        Mixing(config.copy_paste, config.mosaic, config.blur, config.blur_px),
    )


def batches(
    dataset: PeopleDataset, config: TrainConfig, step: int, total_steps: int, device: torch.device
) -> Generator[Batch, None, None]:
    """This process's share of the batches from a step on; the loader's processes have ended when this is closed.

    They ignore signals (see `_quiet_worker`) and would outlive an error: Python waits for them at its end. Raises
    AnnotationError, FileNotFoundError, UnreadableImageError.
    """
    world = distributed.world_size()
    remaining = max(0, total_steps - step) * config.batch_size
    loader = DataLoader(
        StepDataset(dataset, config.batch_size, config.input_sizes),
        batch_size=config.batch_size // world,
        sampler=StepSampler(
            len(dataset), config.seed, step * config.batch_size, remaining, distributed.rank(), world
        ),
        num_workers=config.workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        persistent_workers=False,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_quiet_worker,
    )
    loaded = iter(loader)
    try:
        yield from loaded
    except (AnnotationError, UnreadableImageError, FileNotFoundError) as error:
        # A worker's error comes as the whole traceback there.
        raise type(error)(str(error).strip().rpartition("\n")[2].removeprefix(_qualified_name(error) + ": ")) from None
    finally:
        if shut_down := getattr(loaded, "_shutdown_workers", None):
            shut_down()


def _qualified_name(error: Exception) -> str:
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _quiet_worker(worker: int) -> None:
    """OpenCV's threads in a loader process only fight over the cores; and the parent handles signals.

    A service manager or a terminal signals the whole process group: a worker that died of it would take the
    trainer along before it has saved.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
