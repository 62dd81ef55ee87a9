"""A pipeline without a network for runs in this process; it can be made to stop in the middle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdc_core.appearance import colour_histograms
from kdc_core.pipeline import Pipeline
from kdc_core.types import FrameResult, People
from tests.cli.stub import StubPipeline


class Stopped(KeyboardInterrupt):
    """What Ctrl-C does."""


class ReplayStub(StubPipeline):
    """Sees one person in the bright rectangle, with scores that no short decimal number is equal to."""

    backend_name = "stub"
    frames = 0
    stop_after: int | None = None

    def __call__(self, image: np.ndarray) -> FrameResult:
        if ReplayStub.stop_after is not None and ReplayStub.frames >= ReplayStub.stop_after:
            raise Stopped
        ReplayStub.frames += 1
        result = super().__call__(image)
        people = result.people
        odd = People(
            keypoints_xy=people.keypoints_xy / np.float32(3) * np.float32(2.9),
            keypoint_scores=np.sqrt(people.keypoint_scores),
            scores=people.scores / np.float32(0.9),
            boxes_xyxy=people.boxes_xyxy,
            mask_labels=people.mask_labels,
            mask_scores=people.scores / np.float32(0.7),
            appearance=colour_histograms(image, people.mask_labels, len(people)),
        )
        return FrameResult(odd, result.image_hw, {"inference": 1.5})


def use_stub(monkeypatch, tmp_path: Path, stop_after: int | None = None) -> None:
    """Every pipeline loaded from now on is a stub, and the default model a file of no meaning."""
    model = tmp_path / "model.onnx"
    model.write_bytes(b"stub")
    monkeypatch.setenv("KDC_MODEL", str(model))
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: ReplayStub())
    monkeypatch.setattr(ReplayStub, "frames", 0)
    monkeypatch.setattr(ReplayStub, "stop_after", stop_after)
