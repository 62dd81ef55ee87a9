"""An image in, a FrameResult out: letterbox, network, grouping, masks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdc_core.appearance import colour_histograms
from kdc_core.backends.base import Backend, NetworkOutputs, load_backend
from kdc_core.backends.mirrored import MirroredBackend
from kdc_core.decode.fragments import join_fragments
from kdc_core.decode.grouping import GroupingOptions, Poses, group
from kdc_core.decode.masks import InstanceMasks, MaskOptions, decode_masks
from kdc_core.geometry import Letterbox
from kdc_core.label_map import label_rois
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.spec import ModelSpec
from kdc_core.types import FrameResult, People

# So sure is a sure mask without a pose: never sure enough to begin a track (`tracking.options.SURE_SCORE`), but one
# that began with a pose goes on.
MASK_ONLY_SCORE = 0.249
# Network pixels. Beyond lie mistyped numbers, and pictures that no memory holds.
MOST_LONG_SIDE = 8192


@dataclass(frozen=True)
class PipelineOptions:
    """What to report.

    person_threshold:   people with a lower score are dropped.
    keypoint_threshold: keypoints with a lower score are reported as not found (score 0).
    max_people:         at most so many, the best first.
    masks:              whether to compute instance masks.
    mask_only:          whether to add people whom only the mask fields show, no keypoint of theirs; nothing without
                        masks. Their score is MASK_ONLY_SCORE of their mask's.
    appearance:         whether to add the colours of each person's mask, for a tracker; nothing without masks.
    fragment_membership: phi from which a pose joins a better one as its fragment; 1 = never.
    grouping, mask:     the decoder's own options.
    """

    person_threshold: float = 0.15
    keypoint_threshold: float = 0.0
    max_people: int = 100
    masks: bool = True
    mask_only: bool = True
    appearance: bool = False
    fragment_membership: float = 0.5
    grouping: GroupingOptions = field(default_factory=GroupingOptions)
    mask: MaskOptions = field(default_factory=MaskOptions)

    def __post_init__(self) -> None:
        for name in ("person_threshold", "keypoint_threshold"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be within 0..1, got {getattr(self, name)}")
        if self.max_people < 1:
            raise ValueError(f"max_people must be at least 1, got {self.max_people}")


class Pipeline:
    """A loaded network with its decoder. Not thread-safe: one thread owns it; `options` may be replaced at any time."""

    def __init__(
        self,
        backend: Backend,
        options: PipelineOptions | None = None,
        long_side: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`clock`, in seconds, is what stage times are taken with. Raises ValueError for an impossible long side."""
        self.options = options or PipelineOptions()
        self._backend = backend
        self._clock = clock
        self.spec: ModelSpec = backend.spec
        if long_side is not None:
            if not self.spec.dynamic_input:
                raise ValueError(f"this model only takes {self.spec.input_hw}: its long side cannot be changed")
            if not self.spec.size_multiple <= long_side <= MOST_LONG_SIDE:
                bounds = f"{self.spec.size_multiple} to {MOST_LONG_SIDE}"
                raise ValueError(f"long_side must be {bounds} pixels, got {long_side}")
            self.spec = dataclasses.replace(self.spec, input_hw=(long_side, long_side))

    @classmethod
    def load(
        cls,
        model: str | Path,
        backend: str = "auto",
        options: PipelineOptions | None = None,
        threads: int = 0,
        long_side: int | None = None,
        flip: bool = False,
        **runtime: Any,
    ) -> Pipeline:
        """Load a model file. `long_side` (network pixels) trades accuracy for speed; so does `flip`, which asks the
        network about every picture's mirror image too.

        runtime: what else `load_backend` takes (precision, device, engine_dir, progress ...). Raises ModelLoadError.
        """
        network = load_backend(Path(model), backend, threads, long_side=long_side, **runtime)
        return cls(MirroredBackend(network) if flip else network, options, long_side)

    @property
    def backend(self) -> Backend:
        """The loaded network."""
        return self._backend

    @property
    def backend_name(self) -> str:
        return self._backend.name

    def __call__(self, image: np.ndarray) -> FrameResult:
        """Find the people in an image, uint8 RGB (H, W, 3). Raises ValueError for another array, InferenceError."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"the image must be uint8 RGB (H, W, 3), got {image.dtype} {image.shape}")
        options = self.options
        source_hw = (image.shape[0], image.shape[1])
        clock = _StageClock(self._clock)
        letterbox = self.spec.letterbox(source_hw)
        network_image = letterbox.apply(image)
        clock.lap("preprocess")
        outputs = self._backend.run(network_image)
        clock.lap("inference")
        poses = decode_poses(outputs, options)
        clock.lap("decode")
        masks = decode_instances(outputs, poses, letterbox, options) if options.masks else None
        people = people_of(poses, masks, letterbox, options)
        if options.appearance and masks is not None:
            people = dataclasses.replace(people, appearance=colour_histograms(image, masks.labels, len(people)))
        clock.lap("masks")
        return FrameResult(people, source_hw, clock.stage_ms)

    def close(self) -> None:
        """Free the network."""
        self._backend.close()


class _StageClock:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.stage_ms: dict[str, float] = {}
        self._clock = clock
        self._last = clock()

    def lap(self, stage: str) -> None:
        now = self._clock()
        self.stage_ms[stage] = (now - self._last) * 1e3
        self._last = now


def decode_poses(outputs: NetworkOutputs, options: PipelineOptions) -> Poses:
    """The best people above the threshold, best first, in network pixels."""
    # Half: a pose too weak to be reported may be a fragment of a better one.
    poses = group(outputs.candidates, options.grouping, 0.5 * options.person_threshold)
    poses = join_fragments(poses, outputs.masks, options.mask.keypoint_confidence, options.fragment_membership)
    chosen = np.nonzero(poses.scores >= options.person_threshold)[0][: options.max_people]
    return Poses(poses.keypoints_xy[chosen], poses.keypoint_scores[chosen], poses.scores[chosen])


def decode_instances(
    outputs: NetworkOutputs, poses: Poses, letterbox: Letterbox, options: PipelineOptions
) -> InstanceMasks:
    """The masks of these people, and of people whom only the mask fields show, where these are asked for."""
    mask_only = options.max_people - len(poses.scores) if options.mask_only else 0
    least_score = options.person_threshold / MASK_ONLY_SCORE
    return decode_masks(outputs.masks, poses, letterbox, options.mask, mask_only, least_score)


def people_of(poses: Poses, masks: InstanceMasks | None, letterbox: Letterbox, options: PipelineOptions) -> People:
    """Poses in network pixels, masks in source pixels -> People: those with a pose, then those without, best first."""
    if masks is not None and len(masks.centroids_xy):
        poses = _with_poseless(poses, masks)
    scores = np.where(poses.keypoint_scores >= options.keypoint_threshold, poses.keypoint_scores, 0.0)
    keypoints = letterbox.to_source(poses.keypoints_xy)
    labels = None if masks is None else masks.labels
    return People(
        keypoints_xy=keypoints,
        keypoint_scores=scores.astype(np.float32),
        scores=poses.scores.astype(np.float32),
        boxes_xyxy=_boxes(keypoints, poses.keypoint_scores, labels, letterbox.source_hw),
        mask_labels=labels,
        mask_scores=None if masks is None else masks.scores,
    )


def _with_poseless(poses: Poses, masks: InstanceMasks) -> Poses:
    """People whom only the mask fields show as poses without a keypoint: all of theirs lie on the centroid."""
    count = len(masks.centroids_xy)
    places = np.repeat(masks.centroids_xy[:, None], NUM_KEYPOINTS, 1)
    return Poses(
        np.concatenate([poses.keypoints_xy, places]),
        np.concatenate([poses.keypoint_scores, np.zeros((count, NUM_KEYPOINTS))]),
        np.concatenate([poses.scores, MASK_ONLY_SCORE * masks.scores[-count:]]),
    )


def _boxes(
    keypoints: np.ndarray, scores: np.ndarray, labels: np.ndarray | None, source_hw: tuple[int, int]
) -> np.ndarray:
    """Each person's box: around the likelier keypoints, and around the mask where there is one; within the image.

    Without any keypoint around the mask alone.
    """
    count = len(keypoints)
    if count == 0:
        return np.zeros((0, 4), np.float32)
    likely = scores >= np.minimum(0.2, 0.5 * scores.max(1, keepdims=True))
    low = np.where(likely[..., None], keypoints, np.inf).min(1)
    high = np.where(likely[..., None], keypoints, -np.inf).max(1)
    if labels is not None:
        rois = label_rois(labels, count)
        seen = rois[:, 2] > 0
        poseless = seen & ~scores.any(1)
        low[poseless], high[poseless] = np.inf, -np.inf
        low[seen] = np.minimum(low[seen], rois[seen, :2])
        high[seen] = np.maximum(high[seen], rois[seen, :2] + rois[seen, 2:] - 1)
    limit = np.array([source_hw[1] - 1, source_hw[0] - 1], np.float32)
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], axis=1).astype(np.float32)
