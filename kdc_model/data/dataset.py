"""Records -> augmented samples -> batches for the losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kdc_core.encode import DiskRadius, GroundTruth, Targets, encode
from kdc_core.images import read_rgb
from kdc_model.data.augment import WarpRange, ground_truth, plain_warp, random_colour, random_warp
from kdc_model.data.coco import AnnotationError, ImageRecord
from kdc_model.data.compose import mosaic, mosaic_tiles, paste_person, pasteable, random_blur

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


# Whose mask is worse than this is not cut out: the background that comes along would be learned as a person.
_PASTE_QUALITY = 0.85


@dataclass(frozen=True)
class Mixing:
    """How often pictures are joined or blurred; chances 0..1.

    copy_paste: a person of another picture is pasted in front.
    mosaic:     four pictures in one.
    blur:       defocus or camera motion, up to `blur_px` network pixels wide.
    """

    copy_paste: float = 0.0
    mosaic: float = 0.0
    blur: float = 0.0
    blur_px: float = 6.0


class PeopleDataset(Dataset[Sample]):
    """Samples for training (with `ranges`) or as they are (without).

    A sample depends on seed, epoch, index and the side of the window (`input_size`, network pixels) only.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        input_size: int,
        stride: int,
        radius: float | DiskRadius,
        ranges: WarpRange | None = None,
        colour: float = 0.0,
        seed: int = 0,
        mixing: Mixing | None = None,
    ) -> None:
        self.records = list(records)
        self.mixing = mixing or Mixing()
        self._donors = [i for i, record in enumerate(self.records) if _has_pasteable(record)]
        self.input_hw = (input_size, input_size)
        self.stride, self.radius = stride, radius
        self.ranges, self.colour, self.seed = ranges, colour, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        if self.ranges is None:
            warp = plain_warp(record, self.input_hw)
            image, truth = warp.image(read_image(record)), ground_truth(record, warp)
        else:
            image, truth = self._augmented(index, np.random.default_rng((self.seed, self.epoch, index)))
        return image, encode(truth, self.stride, self.radius)

    def _augmented(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, GroundTruth]:
        mixing = self.mixing
        # A chance of zero draws nothing: a run without mixing sees the pictures it always saw.
        if mixing.mosaic > 0 and rng.random() < mixing.mosaic:
            tiles = mosaic_tiles(self.input_hw, rng)
            indices = [index, *rng.integers(len(self.records), size=len(tiles) - 1)]
            parts = [self._warped(int(i), (tile[3], tile[2]), rng) for i, tile in zip(indices, tiles)]
            image, truth = mosaic(parts, tiles, self.input_hw)
        else:
            image, truth = self._warped(index, self.input_hw, rng)
        if mixing.copy_paste > 0 and self._donors and rng.random() < mixing.copy_paste:
            image, truth = self._pasted(image, truth, rng)
        if mixing.blur > 0 and rng.random() < mixing.blur:
            image = random_blur(image, mixing.blur_px, rng)
        return image, truth

    def _warped(
        self, index: int, input_hw: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, GroundTruth]:
        assert self.ranges is not None
        record = self.records[index]
        warp = random_warp(record, input_hw, self.ranges, rng)
        image = random_colour(read_image(record), self.colour, rng)
        return warp.image(image), ground_truth(record, warp)

    def _pasted(
        self, image: np.ndarray, truth: GroundTruth, rng: np.random.Generator
    ) -> tuple[np.ndarray, GroundTruth]:
        """A person of another picture in front; nothing changes where the draw shows none whole enough."""
        index = self._donors[rng.integers(len(self._donors))]
        record = self.records[index]
        good = [p for p in record.persons if p.ignore or p.mask_quality >= _PASTE_QUALITY]
        # Only people with good masks are offered; the rest of the donor's picture does not come along.
        donor_record = replace(record, persons=tuple(good))
        assert self.ranges is not None
        warp = random_warp(donor_record, self.input_hw, self.ranges, rng)
        donor = ground_truth(donor_record, warp)
        chosen = pasteable(donor)
        if len(chosen) == 0:
            return image, truth
        donor_image = warp.image(random_colour(read_image(record), self.colour, rng))
        return paste_person(image, truth, donor_image, donor, int(chosen[rng.integers(len(chosen))]))


def _has_pasteable(record: ImageRecord) -> bool:
    return any(
        p.segmentation is not None and p.has_keypoints and not p.ignore and p.mask_quality >= _PASTE_QUALITY
        for p in record.persons
    )


# Of a sample: its place in the run's order, the pass over the data, and its index there.
Key = tuple[int, int, int]


class StepSampler(Sampler[Key]):
    """Shuffled keys that can start at any sample, so that a resumed run goes on exactly.

    `rank` of `world` processes gets every world-th sample, so that together they see each global batch once
    (as torch's DistributedSampler deals them out, which cannot start in the middle of an epoch).
    """

    def __init__(self, length: int, seed: int, start: int, count: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.seed, self.start, self.count = length, seed, start, count
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return len(self._positions())

    def _positions(self) -> range:
        return range(self.start + self.rank, self.start + self.count, self.world)

    def __iter__(self) -> Iterator[Key]:
        epoch, order = -1, np.empty(0, np.int64)
        for position in self._positions():
            if position // self.length != epoch:
                epoch = position // self.length
                order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            yield position, epoch, int(order[position % self.length])


class StepDataset(Dataset[Sample]):
    """A PeopleDataset addressed by a sampler's keys: augmentation depends on them alone, whoever loads the sample.

    The steps of `batch_size` samples (of all processes) take windows of `input_sizes` in turns: all the windows of a
    step have one size.
    """

    def __init__(self, dataset: PeopleDataset, batch_size: int, input_sizes: Sequence[int]) -> None:
        self.dataset, self.batch_size, self.input_sizes = dataset, batch_size, tuple(input_sizes)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        position, self.dataset.epoch, index = key
        side = self.input_sizes[position // self.batch_size % len(self.input_sizes)]
        self.dataset.input_hw = (side, side)
        return self.dataset[index]


@dataclass
class Batch:
    """B samples. Sparse targets carry the sample's number in front of their index.

    images:       uint8 (B, 3, H, W).
    disk_index:   int64 (P, 4): sample, keypoint type, row, column;  disk_offset float32 (P, 2);  disk_radius_px (P,).
    edge_index:   int64 (Q, 4): sample, directed edge, row, column;  edge_offset float32 (Q, 2);  edge_radius_px (Q,).
    heatmap_valid, person_valid: bool (B, h, w);  person: float32 (B, h, w);  instance: int64 (B, h, w).
    annotated_types: bool (B, K): whose heatmaps say anything.
    centroids_xy: per sample float32 (N, 2);  keypoints_xy: float32 (N, K, 2);  labelled: bool (N, K).
    """

    images: Tensor
    disk_index: Tensor
    disk_offset: Tensor
    disk_radius_px: Tensor
    edge_index: Tensor
    edge_offset: Tensor
    edge_radius_px: Tensor
    heatmap_valid: Tensor
    annotated_types: Tensor
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
        disk_radius_px=joined("disk_radius_px"),
        edge_index=sparse("edge_index"),
        edge_offset=joined("edge_offset"),
        edge_radius_px=joined("edge_radius_px"),
        heatmap_valid=dense("heatmap_valid"),
        annotated_types=dense("annotated_types"),
        person=dense("person"),
        person_valid=dense("person_valid"),
        instance=dense("instance").long(),
        centroids_xy=[torch.from_numpy(t.centroids_xy) for t in targets],
        keypoints_xy=[torch.from_numpy(t.keypoints_xy) for t in targets],
        labelled=[torch.from_numpy(t.labelled) for t in targets],
    )
