"""Masks for people whom nobody outlined, from their box and keypoints: MobileSAM's decoder, taught on true masks.

As published, a box alone gives a person's mask with what the person holds, and sometimes only the trousers. Some
thousand outlined people teach the decoder what a data set calls a person, which keypoint lies where on one, and that a
neighbour's keypoints lie outside. The image encoder stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_model.checkpoint import CheckpointError
from kdc_model.data.coco import AnnotationError, ImageRecord, Person
from kdc_model.data.dataset import read_image
from kdc_model.teacher.mobile_sam import STRIDE, Embedding, MobileSam, first_line
from kdc_model.train import computes_bfloat16

_POINTS = 2 * NUM_KEYPOINTS  # a person's own, and as many of others'
_TOGETHER = 16  # persons decoded in one go
_LEAST_PIXELS = 4
_MARGIN, _MARGIN_PX = 0.05, 3.0  # how far outside its box a mask may reach: share of the box, and source pixels


@dataclass(frozen=True)
class Prompts:
    """What is known of N people of one picture, in source pixels with edges at integers.

    boxes:  float32 (N, 4): x0, y0, x1, y1.
    points: float32 (N, P, 2).
    labels: int64 (N, P): 1 the person's own keypoint, 0 another's, -1 none.
    kinds:  int64 (N, P): 0 another's, 1 + k own keypoint k, visible, 1 + K + k own keypoint k, hidden.
    """

    boxes: Tensor
    points: Tensor
    labels: Tensor
    kinds: Tensor

    def boxes_only(self, only: np.ndarray) -> Prompts:
        """Without points for some: bool (N,)."""
        labels = torch.where(torch.from_numpy(only)[:, None], -1, self.labels)
        return Prompts(self.boxes, self.points, labels, self.kinds)


def prompts(persons: Sequence[Person], chosen: Sequence[int]) -> Prompts:
    """The prompts for some of a picture's persons; the visible keypoints of all the others within their box count
    against them, the nearest to its middle first."""
    boxes = np.array([_corners(persons[n]) for n in chosen], np.float32).reshape(-1, 4)
    points = np.zeros((len(chosen), _POINTS, 2), np.float32)
    labels = np.full((len(chosen), _POINTS), -1, np.int64)
    kinds = np.zeros((len(chosen), _POINTS), np.int64)
    for row, (n, box) in enumerate(zip(chosen, boxes)):
        types = np.nonzero(persons[n].keypoints[:, 2] > 0)[0]
        own = len(types)
        visible = persons[n].keypoints[types, 2] == 2
        points[row, :own] = persons[n].keypoints[types, :2] + 0.5
        labels[row, :own] = 1
        kinds[row, :own] = np.where(visible, 1 + types, 1 + NUM_KEYPOINTS + types)
        others = [p.keypoints[p.keypoints[:, 2] == 2, :2] + 0.5 for m, p in enumerate(persons) if m != n]
        other = np.concatenate([np.empty((0, 2), np.float32), *others])
        other = other[((other > box[:2]) & (other < box[2:])).all(1)]
        away = np.square(other - (box[:2] + box[2:]) / 2).sum(1)
        other = other[np.argsort(away, kind="stable")[:NUM_KEYPOINTS]]
        points[row, own : own + len(other)] = other
        labels[row, own : own + len(other)] = 0
    used = max(1, int((labels >= 0).sum(1).max(initial=0)))
    return Prompts(*(torch.from_numpy(a) for a in (boxes, points[:, :used], labels[:, :used], kinds[:, :used])))


def _corners(person: Person) -> tuple[float, float, float, float]:
    x, y, width, height = person.box_xywh
    return x, y, x + width, y + height


class PersonMasks(nn.Module):
    """MobileSAM with a learned addition to each kind of keypoint; zero at first.

    long_side: of the pictures as the encoder sees them, in pixels.
    quality:   slope and offset of the estimated IoU over the network's own estimate.
    """

    def __init__(self, sam: MobileSam, long_side: int) -> None:
        super().__init__()
        self.sam = sam
        self.long_side = long_side
        self.kinds = nn.Embedding(1 + 2 * NUM_KEYPOINTS, sam.prompt_encoder.no_mask_embed.embedding_dim)
        nn.init.zeros_(self.kinds.weight)
        self.quality = (1.0, 0.0)
        self._bfloat16 = computes_bfloat16(torch.device("cpu"))

    def forward(self, embedding: Embedding, given: Prompts) -> tuple[Tensor, Tensor]:
        """Logits (N, 4 h, 4 w) and estimated IoU (N,), float32."""
        kinds = self.kinds(given.kinds) * (given.labels >= 0)[..., None]
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            logits, iou = self.sam(embedding, given.boxes, given.points, given.labels, kinds)
        return logits.float(), iou.float()

    def encode(self, record: ImageRecord) -> Embedding:
        """A picture's embedding. Raises FileNotFoundError, UnreadableImageError, AnnotationError."""
        image = read_image(record)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            return self.sam.encode(image, self.long_side)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"person_masks": self.state_dict(), "long_side": self.long_side, "quality": list(self.quality)}
        torch.save(content, path)

    @classmethod
    def load(cls, path: Path) -> PersonMasks:
        """A checkpoint of `save`. Raises FileNotFoundError, CheckpointError."""
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            network = cls(MobileSam(), int(content["long_side"]))
            network.load_state_dict(content["person_masks"])
            slope, offset = content["quality"]
        except Exception as error:  # torch raises many kinds for a broken file
            reason = first_line(error)
            raise CheckpointError(f"{path} is not a checkpoint of `kdc masks --save`: {reason}") from error
        network.quality = (float(slope), float(offset))
        return network.eval()


@dataclass(frozen=True)
class TuneOptions:
    """How the decoder learns.

    epochs:        passes over the pictures.
    learning_rate: at the start; it falls to zero along a cosine.
    pictures:      in a step.
    held_out:      share of the pictures (150 at most) kept to measure on.
    without_points: chance that a person is shown as a box only, as people without labelled keypoints are.
    """

    epochs: float = 3.0
    learning_rate: float = 1e-4
    pictures: int = 8
    held_out: float = 0.1
    without_points: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class _Example:
    """A picture with true masks; its embedding is kept in half precision."""

    record: ImageRecord
    embedding: Embedding
    outlined: list[int]

    def at_hand(self) -> Embedding:
        return Embedding(self.embedding.features.float(), self.embedding.scale, self.embedding.source_hw)

    def mask(self, n: int) -> np.ndarray:
        return _mask(self.record.persons[n], self.record)


def tune(
    network: PersonMasks,
    records: Sequence[ImageRecord],
    options: TuneOptions | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Teach the decoder the true masks of some pictures, and calibrate its estimates on those held out.

    Returns, of the held-out people: their number, the mean IoU before and after, and the mean error of the estimates.
    Raises ValueError where fewer than two pictures have masks.
    """
    options = options or TuneOptions()
    rng = np.random.default_rng(options.seed)
    chosen = [(r, outlined) for r in records if (outlined := _outlined(r))]
    if len(chosen) < 2:
        raise ValueError(f"{len(chosen)} of {len(records)} pictures have masks: at least 2 are needed")
    report(f"encoding {len(chosen)} pictures")
    examples = [_encoded(network, record, outlined) for record, outlined in chosen]
    order = rng.permutation(len(examples))
    held = max(1, min(150, round(options.held_out * len(examples))))
    kept, learnt = [examples[i] for i in order[:held]], [examples[i] for i in order[held:]]
    before = _measure(network, kept)[:, 1].mean()
    report(f"IoU of {sum(len(e.outlined) for e in kept)} held-out people before: {before:.3f}")
    _learn(network, learnt, options, rng, report)
    scored = _measure(network, kept)
    if len(scored) > 2 and np.ptp(scored[:, 0]) > 0:
        slope, offset = np.polyfit(scored[:, 0], scored[:, 1], 1)
        network.quality = (float(slope), float(offset))
    error = np.abs(np.polyval(network.quality, scored[:, 0]) - scored[:, 1]).mean()
    report(f"after: {scored[:, 1].mean():.3f}, mean error of its estimates {error:.3f}")
    return {"people": len(scored), "before": float(before), "after": float(scored[:, 1].mean()), "error": float(error)}


def _encoded(network: PersonMasks, record: ImageRecord, outlined: list[int]) -> _Example:
    embedding = network.encode(record)
    half = Embedding(embedding.features.half(), embedding.scale, embedding.source_hw)
    return _Example(record, half, outlined)


def _learn(
    network: PersonMasks,
    examples: Sequence[_Example],
    options: TuneOptions,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> None:
    learning = [*network.sam.mask_decoder.parameters(), *network.sam.prompt_encoder.parameters()]
    learning += network.kinds.parameters()
    optimizer = torch.optim.AdamW(learning, lr=options.learning_rate, weight_decay=1e-2)
    steps = max(1, math.ceil(options.epochs * len(examples) / options.pictures))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 30) * 0.5 * (1 + math.cos(math.pi * s / steps))
    )
    endless = _endless(len(examples), rng)
    network.train()
    network.sam.image_encoder.eval()
    for step in range(steps):
        optimizer.zero_grad()
        for _ in range(options.pictures):
            example = examples[next(endless)]
            n = rng.permutation(example.outlined)[:6].tolist()  # memory: no more than six of a crowd
            given = prompts(example.record.persons, n)
            given = given.boxes_only(rng.random(len(n)) < options.without_points)
            target = torch.from_numpy(np.stack([example.embedding.from_source(example.mask(i)) for i in n]))
            logits, iou = network(example.at_hand(), given)
            loss = mask_loss(logits, iou, target, given.boxes * (example.embedding.scale / STRIDE))
            (loss / options.pictures).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            report(f"step {step + 1} of {steps}")
    network.eval()


def mask_loss(logits: Tensor, iou: Tensor, target: Tensor, boxes: Tensor) -> Tensor:
    """Cross-entropy in and around the box, Dice loss, and the squared error of the estimated IoU; people alike.

    logits, target (N, h, w); iou (N,); boxes (N, 4), in cells.
    """
    y, x = (torch.arange(side)[None] + 0.5 for side in logits.shape[1:])
    margin = 0.15 * (boxes[:, 2:] - boxes[:, :2]) + 4
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    across, down = (x >= low[:, :1]) & (x <= high[:, :1]), (y >= low[:, 1:]) & (y <= high[:, 1:])
    near = (down[:, :, None] & across[:, None]).float()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = (entropy * near).sum((1, 2)) / near.sum((1, 2)).clamp(min=1)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * target).sum((1, 2)) + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
    with torch.no_grad():
        found, true = logits > 0, target > 0.5
        reached = (found & true).sum((1, 2)) / (found | true).sum((1, 2)).clamp(min=1)
    return (2 * entropy + dice + (iou - reached) ** 2).mean()


@torch.inference_mode()
def _measure(network: PersonMasks, examples: Sequence[_Example]) -> np.ndarray:
    """Estimated and true IoU of everybody, (N, 2)."""
    rows = []
    for example in examples:
        embedding = example.at_hand()
        for some in _portions(example.outlined):
            logits, estimated = network(embedding, prompts(example.record.persons, some))
            for n, cells, estimate in zip(some, logits.numpy(), estimated.tolist()):
                found, true = embedding.to_source(cells) > 0, example.mask(n) > 0
                rows.append((estimate, (found & true).sum() / max((found | true).sum(), 1)))
    return np.array(rows)


@torch.inference_mode()
def make_masks(network: PersonMasks, record: ImageRecord) -> dict[int, dict[str, Any]]:
    """Masks for the people of a picture who have none, by annotation id: COCO RLE (size, counts) and `quality`.

    A pixel belongs to one person at most; true masks come first. `quality` is the estimated IoU, less where neighbours
    have won parts of the mask.
    """
    missing = [
        n for n, p in enumerate(record.persons)
        if p.segmentation is None and not p.crowd and min(p.box_xywh[2:]) >= 1
    ]  # fmt: skip
    if not missing:
        return {}
    embedding = network.encode(record)
    best = np.full((record.height, record.width), 0.5, np.float32)
    owner = np.full(best.shape, -1, np.int64)
    for person in record.persons:
        if person.segmentation is not None and not person.crowd:
            best[_mask(person, record) > 0] = 2.0
    own: dict[int, tuple[float, int]] = {}
    for some in _portions(missing):
        logits, estimated = network(embedding, prompts(record.persons, some))
        for n, cells, estimate in zip(some, logits, estimated.tolist()):
            p = _within(embedding.to_source(cells.sigmoid().numpy()), record.persons[n])
            won = p > best
            best[won], owner[won] = p[won], n
            own[n] = (float(np.clip(np.polyval(network.quality, estimate), 0, 1)), int((p > 0.5).sum()))
    out = {}
    for n in missing:
        mask = owner == n
        if (pixels := int(mask.sum())) < _LEAST_PIXELS:
            continue
        estimate, alone = own[n]
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        number = record.persons[n].annotation_id
        if number is None:
            raise AnnotationError(f"a person in {record.path.name} has no id to file the mask under")
        out[number] = {
            "size": [record.height, record.width],
            "counts": rle["counts"].decode(),
            "quality": round(estimate * math.sqrt(pixels / alone), 3),
        }
    return out


def _within(p: np.ndarray, person: Person) -> np.ndarray:
    """Zero outside the person's box and a margin."""
    x, y, width, height = person.box_xywh
    across, down = _MARGIN * width + _MARGIN_PX, _MARGIN * height + _MARGIN_PX
    rows = slice(max(0, int(y - down)), max(0, int(y + height + down) + 1))
    cols = slice(max(0, int(x - across)), max(0, int(x + width + across) + 1))
    out = np.zeros_like(p)
    out[rows, cols] = p[rows, cols]
    return out


def _outlined(record: ImageRecord) -> list[int]:
    return [
        n for n, p in enumerate(record.persons)
        if p.segmentation is not None and not p.crowd and p.mask_quality == 1 and _mask(p, record).any()
    ]  # fmt: skip


def _mask(person: Person, record: ImageRecord) -> np.ndarray:
    """uint8 (H, W)."""
    shape = person.polygons_or_mask(record.height, record.width)
    if isinstance(shape, list):
        rles = coco_mask.frPyObjects([p.ravel().tolist() for p in shape], record.height, record.width)
        shape = coco_mask.decode(coco_mask.merge(rles)) if rles else None
    return np.zeros((record.height, record.width), np.uint8) if shape is None else shape


def _portions(chosen: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(chosen), _TOGETHER):
        yield chosen[start : start + _TOGETHER]


def _endless(count: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(count).tolist()
