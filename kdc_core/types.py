"""What flows through the system: `People` found in one image, and the `FrameResult` around them.

Structs of arrays, checked where they are made. N persons, K = 17 keypoints, H x W source image. Zero persons
is an ordinary value everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kdc_core.appearance import SIZE as APPEARANCE_SIZE
from kdc_core.label_map import label_rois
from kdc_core.skeleton import NUM_KEYPOINTS

MAX_PEOPLE = int(np.iinfo(np.uint16).max)  # a label map is uint16 with 0 for the background


def _check(name: str, value: np.ndarray, dtype: type, shape: tuple[int | None, ...]) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"People.{name} must be a numpy array of {np.dtype(dtype)}, got {got}")
    if value.ndim != len(shape) or any(s is not None and s != v for s, v in zip(shape, value.shape)):
        wanted = tuple("any" if s is None else s for s in shape)
        raise ValueError(f"People.{name} must have shape {wanted}, got {value.shape}")


@dataclass(frozen=True, eq=False)
class People:
    """The people of one image, in its pixels (x to the right, y down, a pixel's centre is an integer).

    keypoints_xy:    float32 (N, K, 2). Meaningless where the keypoint's score is 0.
    keypoint_scores: float32 (N, K) in 0..1; 0 = keypoint not found.
    scores:          float32 (N,), how sure the system is of each person.
    boxes_xyxy:      float32 (N, 4), x_min, y_min, x_max, y_max.
    mask_labels:     uint16 (H, W), 0 = background, i + 1 = person i; None where masks were not asked for.
    mask_scores:     float32 (N,), how sure the system is of each mask: the IoU it expects; None where not known.
    appearance:      uint8 (N, appearance.SIZE), colours of each person's mask (`kdc_core.appearance`), a row of zeros
                     where too little is seen; None where they were not asked for.

    Raises TypeError / ValueError on any other dtype or shape, or on a label beyond N.
    """

    keypoints_xy: np.ndarray
    keypoint_scores: np.ndarray
    scores: np.ndarray
    boxes_xyxy: np.ndarray
    mask_labels: np.ndarray | None = None
    mask_scores: np.ndarray | None = None
    appearance: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        _check("scores", self.scores, np.float32, (None,))
        _check("keypoints_xy", self.keypoints_xy, np.float32, (n, NUM_KEYPOINTS, 2))
        _check("keypoint_scores", self.keypoint_scores, np.float32, (n, NUM_KEYPOINTS))
        _check("boxes_xyxy", self.boxes_xyxy, np.float32, (n, 4))
        if n > MAX_PEOPLE:
            raise ValueError(f"at most {MAX_PEOPLE} people fit a label map, got {n}")
        if self.mask_labels is not None:
            _check("mask_labels", self.mask_labels, np.uint16, (None, None))
            if (highest := int(self.mask_labels.max(initial=0))) > n:
                raise ValueError(f"People.mask_labels has label {highest} for {n} people")
        if self.mask_scores is not None:
            _check("mask_scores", self.mask_scores, np.float32, (n,))
        if self.appearance is not None:
            _check("appearance", self.appearance, np.uint8, (n, APPEARANCE_SIZE))

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls, image_hw: tuple[int, int] | None = None) -> People:
        """Nobody. With `image_hw` the (empty) masks are there too."""
        return cls(
            keypoints_xy=np.zeros((0, NUM_KEYPOINTS, 2), np.float32),
            keypoint_scores=np.zeros((0, NUM_KEYPOINTS), np.float32),
            scores=np.zeros(0, np.float32),
            boxes_xyxy=np.zeros((0, 4), np.float32),
            mask_labels=None if image_hw is None else np.zeros(image_hw, np.uint16),
            mask_scores=None if image_hw is None else np.zeros(0, np.float32),
        )

    def mask(self, person: int) -> np.ndarray:
        """Instance mask of one person, bool (H, W).

        Raises ValueError without masks, IndexError beyond the people.
        """
        if self.mask_labels is None:
            raise ValueError("these People carry no masks")
        if not 0 <= person < len(self):  # -1 would be the background
            raise IndexError(f"person {person} of {len(self)}")
        return self.mask_labels == person + 1

    def mask_rois(self) -> np.ndarray:
        """Tight rectangle of each person's mask, int32 (N, 4): x, y, width, height; all 0 without any."""
        if self.mask_labels is None:
            raise ValueError("these People carry no masks")
        return label_rois(self.mask_labels, len(self))


@dataclass(frozen=True, eq=False)
class FrameResult:
    """One processed image.

    people:   who was found.
    image_hw: height and width of the source image in pixels.
    stage_ms: wall time of each pipeline stage in milliseconds ("preprocess", "inference", "decode", "masks").
    """

    people: People
    image_hw: tuple[int, int]
    stage_ms: dict[str, float] = field(default_factory=dict)
