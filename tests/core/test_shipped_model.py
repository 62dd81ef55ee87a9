"""The network that comes with the package, on the public-domain photographs that scikit-image brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdc_core.backends.base import load_backend
from kdc_core.pipeline import Pipeline
from kdc_core.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS

data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def pipeline(shipped_model: Path) -> Pipeline:
    return Pipeline.load(shipped_model)


def test_file_is_small_and_says_what_it_is(shipped_model: Path) -> None:
    assert shipped_model.stat().st_size < 30e6
    spec = load_backend(shipped_model).spec
    assert spec.mask_mode == "embedding" and spec.stride == 4
    assert spec.provenance["trunk"] == "movenet_slim"


def test_astronaut(pipeline: Pipeline) -> None:
    """Eileen Collins: places read off the enlarged photograph."""
    people = pipeline(data.astronaut()).people
    best = int(people.scores.argmax())
    for name, place, tolerance_px in (
        ("nose", (223, 126), 15),
        ("left_eye", (246, 103), 15),
        ("right_eye", (203, 101), 15),
    ):
        found = people.keypoints_xy[best, KEYPOINT_INDEX[name]]
        assert np.linalg.norm(found - place) < tolerance_px, (name, found)
    mask = people.mask(best)
    assert mask[60:300, 180:260].mean() > 0.9, "head and chest"
    assert mask[:200, :100].mean() < 0.1, "the flag is nobody"


def test_empty_pictures_have_nobody_in_them(pipeline: Pipeline) -> None:
    for picture in (np.zeros((240, 320, 3), np.uint8), np.full((240, 320, 3), 128, np.uint8), data.rocket()):
        assert len(pipeline(np.ascontiguousarray(picture)).people) == 0


def test_size_of_the_picture_hardly_matters(pipeline: Pipeline) -> None:
    """The same photographs at half the size give the same joints, by the half-pixel rule: no common shift."""
    away = []
    for photo in (data.astronaut(), np.repeat(data.camera()[..., None], 3, axis=2)):
        half = photo.reshape(256, 2, 256, 2, 3).mean((1, 3)).astype(np.uint8)
        places, sure = [], np.ones(NUM_KEYPOINTS, bool)
        for picture, factor in ((photo, 1), (half, 2)):
            people = pipeline(np.ascontiguousarray(picture)).people
            best = int(people.scores.argmax())
            places.append((people.keypoints_xy[best] + 0.5) * factor - 0.5)
            sure &= people.keypoint_scores[best] > 0.3
        away.append((places[1] - places[0])[sure])
    shifts = np.concatenate(away)
    assert len(shifts) > 10
    assert np.abs(np.median(shifts, axis=0)).max() < 1.5
    assert np.median(np.linalg.norm(shifts, axis=1)) < 4
