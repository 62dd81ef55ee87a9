"""Stand-ins for the layers around the one under test, and made-up people."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdc_core.pipeline import PipelineOptions
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.types import FrameResult, People


def random_people(count: int, image_hw: tuple[int, int], seed: int = 0, masks: bool = True) -> People:
    """People with random numbers in them, about a quarter of the keypoints missing, disjoint random masks."""
    rng = np.random.default_rng(seed)
    scores = rng.random((count, NUM_KEYPOINTS), np.float32)
    scores[rng.random(scores.shape) < 0.25] = 0
    return People(
        keypoints_xy=(rng.random((count, NUM_KEYPOINTS, 2)) * 700 - 50).astype(np.float32),
        keypoint_scores=scores,
        scores=rng.random(count, np.float32),
        boxes_xyxy=(rng.random((count, 4)) * 500).astype(np.float32),
        mask_labels=rng.integers(0, count + 1, image_hw).astype(np.uint16) if masks else None,
        mask_scores=rng.random(count, np.float32) if masks else None,
    )


class FakePipeline:
    """A pipeline that finds what it is told to, and remembers what it was asked."""

    backend_name = "fake"

    def __init__(self, people: People | None = None, error: Exception | None = None) -> None:
        self.people = people
        self.error = error
        self.options = PipelineOptions()
        self.images: list[np.ndarray] = []
        self.closed = False

    def __call__(self, image: np.ndarray) -> FrameResult:
        self.images.append(image)
        if self.error is not None:
            raise self.error
        hw = (image.shape[0], image.shape[1])
        return FrameResult(
            self.people if self.people is not None else People.empty(hw), hw, {"inference": 1.0}
        )

    def close(self) -> None:
        self.closed = True


class FakeLogger:
    """Keeps what is logged as (level, text)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def _keep(self, level: str, text: str) -> None:
        self.lines.append((level, text))

    def info(self, text: str, **_: Any) -> None:
        self._keep("info", text)

    def warning(self, text: str, **_: Any) -> None:
        self._keep("warning", text)

    def error(self, text: str, **_: Any) -> None:
        self._keep("error", text)


class FakeOutputs:
    """Keeps what is published. by_depth: whether depth images are of use."""

    def __init__(self) -> None:
        self.frames: list[tuple] = []
        self.by_depth = True

    def publish(self, frame, result, tracks, settings) -> bool:
        self.frames.append((frame, result, tracks, settings))
        return self.by_depth and frame.depth is not None
