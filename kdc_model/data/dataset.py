"""Records -> augmented samples -> batches for the losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kdc_core.encode import Targets, encode
from kdc_core.images import read_rgb
from kdc_model.data.augment import WarpRange, ground_truth, plain_warp, random_colour, random_warp
from kdc_model.data.coco import AnnotationError, ImageRecord

Sample = tuple[np.ndarray, Targets]


def read_image(record: ImageRecord) -> np.ndarray:
    """The picture as its annotations see it, uint8 RGB (H, W, 3).

    Raises FileNotFoundError, UnreadableImageError, or AnnotationError when it has another size than recorded.
    """
    image = read_rgb(record.path, upright=False)
    if image.shape[:2] != (record.height, record.width):
        raise AnnotationError(
            f"{record.path} is {image.shape[1]} x {image.shape[0]}, "
            f"its record says {record.width} x {record.height}"
        )
    return image


class PeopleDataset(Dataset[Sample]):
    """Samples for training (with `ranges`) or as they are (without).

    A sample depends on seed, epoch and index only.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        input_size: int,
        stride: int,
        radius_px: float,
        ranges: WarpRange | None = None,
        colour: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.records = list(records)
        self.input_hw = (input_size, input_size)
        self.stride, self.radius_px = stride, radius_px
        self.ranges, self.colour, self.seed = ranges, colour, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        image = read_image(record)
        if self.ranges is None:
            warp = plain_warp(record, self.input_hw)
        else:
            warp = random_warp(record, self.input_hw, self.ranges, rng)
            image = random_colour(image, self.colour, rng)
        return warp.image(image), encode(ground_truth(record, warp), self.stride, self.radius_px)


class StepSampler(Sampler[tuple[int, int]]):
    """Shuffled (epoch, index) pairs that can start at any sample, so that a resumed run goes on exactly."""

    def __init__(self, length: int, seed: int, start: int, count: int) -> None:
        self.length, self.seed, self.start, self.count = length, seed, start, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, np.empty(0, np.int64)
        for position in range(self.start, self.start + self.count):
            if position // self.length != epoch:
                epoch = position // self.length
                order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            yield epoch, int(order[position % self.length])


class EpochDataset(Dataset[Sample]):
    """A PeopleDataset addressed by (epoch, index): augmentation depends on both, whoever loads the sample."""

    def __init__(self, dataset: PeopleDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        self.dataset.epoch = key[0]
        return self.dataset[key[1]]


@dataclass
class Batch:
    """B samples. Sparse targets carry the sample's number in front of their index.

    images:       uint8 (B, 3, H, W).
    disk_index:   int64 (P, 4): sample, keypoint type, row, column;  disk_offset float32 (P, 2).
    edge_index:   int64 (Q, 4): sample, directed edge, row, column;  edge_offset float32 (Q, 2).
    heatmap_valid, person_valid: bool (B, h, w);  person: float32 (B, h, w);  instance: int64 (B, h, w).
    centroids_xy: per sample float32 (N, 2);  keypoints_xy: float32 (N, K, 2);  labelled: bool (N, K).
    """

    images: Tensor
    disk_index: Tensor
    disk_offset: Tensor
    edge_index: Tensor
    edge_offset: Tensor
    heatmap_valid: Tensor
    person: Tensor
    person_valid: Tensor
    instance: Tensor
    centroids_xy: list[Tensor]
    keypoints_xy: list[Tensor]
    labelled: list[Tensor]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        move: dict[str, Any] = {
            name: [v.to(device) for v in value]
            if isinstance(value, list)
            else value.to(device, non_blocking=True)
            for name, value in vars(self).items()
        }
        return Batch(**move)


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples into a batch."""
    targets = [t for _, t in samples]

    def dense(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(t, name) for t in targets]))

    def sparse(name: str) -> Tensor:
        parts = [
            np.column_stack([np.full(len(getattr(t, name)), b, np.int64), getattr(t, name).astype(np.int64)])
            for b, t in enumerate(targets)
        ]
        return torch.from_numpy(np.concatenate(parts))

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(t, name) for t in targets]).astype(np.float32))

    images = np.stack([image for image, _ in samples]).transpose(0, 3, 1, 2)
    return Batch(
        images=torch.from_numpy(np.ascontiguousarray(images)),
        disk_index=sparse("disk_index"),
        disk_offset=joined("disk_offset"),
        edge_index=sparse("edge_index"),
        edge_offset=joined("edge_offset"),
        heatmap_valid=dense("heatmap_valid"),
        person=dense("person"),
        person_valid=dense("person_valid"),
        instance=dense("instance").long(),
        centroids_xy=[torch.from_numpy(t.centroids_xy) for t in targets],
        keypoints_xy=[torch.from_numpy(t.keypoints_xy) for t in targets],
        labelled=[torch.from_numpy(t.labelled) for t in targets],
    )
