"""The pipeline with an oracle in the network's place: people come out in source pixels, whatever the image's size."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.backends.base import NetworkOutputs
from kdc_core.decode.candidates import find_candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.encode import GroundTruth, encode, ideal_fields
from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_core.spec import ModelSpec
from tests.core.made_people import made_truth


class Oracle:
    """Answers every image with the ideal fields of the given people (network pixels)."""

    name = "oracle"

    def __init__(self, placements: list[tuple[float, float, float]], spec: ModelSpec) -> None:
        self.placements, self.spec = placements, spec
        self.inputs: list[np.ndarray] = []
        self.truth: GroundTruth | None = None

    def run(self, image: np.ndarray) -> NetworkOutputs:
        self.inputs.append(image)
        self.truth = made_truth(self.placements, image.shape[:2])
        fields = ideal_fields(encode(self.truth, 4, 12.0), 4)
        return NetworkOutputs(
            find_candidates(fields, 12.0, 32), MaskFields(fields.person, fields.embedding, fields.sigma, 4)
        )

    def close(self) -> None:
        self.inputs.clear()


SPEC = ModelSpec(input_hw=(320, 320), disk_radius_px=12.0)
TWO = [(80.0, 20.0, 190.0), (220.0, 30.0, 180.0)]


@pytest.mark.parametrize("source_hw", [(480, 640), (240, 320), (1080, 1440)])
def test_people_come_out_in_source_pixels(source_hw: tuple[int, int]) -> None:
    oracle = Oracle(TWO, SPEC)
    result = Pipeline(oracle)(np.zeros((*source_hw, 3), np.uint8))
    assert oracle.inputs[0].shape == (256, 320, 3)  # 240 rows of picture, rounded up to a multiple of 32
    assert oracle.truth is not None
    people, factor = result.people, source_hw[1] / 320
    assert len(people) == 2 and result.image_hw == source_hw
    for n, person in enumerate(np.argsort(people.keypoints_xy[:, 0, 0])):
        expected = (oracle.truth.keypoints_xy[n] + 0.5) * factor - 0.5
        assert np.abs(people.keypoints_xy[person] - expected).max() < 1.0 * factor
        ys, xs = np.nonzero(people.mask(person))
        mask_centre = np.array([xs.mean(), ys.mean()])
        true_ys, true_xs = np.nonzero(oracle.truth.instance == n + 1)
        true_centre = (np.array([true_xs.mean(), true_ys.mean()]) + 0.5) * factor - 0.5
        assert np.abs(mask_centre - true_centre).max() < 2.0 * factor
        box = people.boxes_xyxy[person]
        assert (box[:2] <= (xs.min(), ys.min())).all() and (box[2:] >= (xs.max(), ys.max())).all()
    assert set(result.stage_ms) == {"preprocess", "inference", "decode", "masks"}


def test_nobody() -> None:
    result = Pipeline(Oracle([], SPEC))(np.zeros((90, 160, 3), np.uint8))
    assert len(result.people) == 0
    assert result.people.mask_labels is not None and not result.people.mask_labels.any()


def test_options() -> None:
    pipeline = Pipeline(Oracle(TWO, SPEC), PipelineOptions(max_people=1, masks=False))
    people = pipeline(np.zeros((240, 320, 3), np.uint8)).people
    assert len(people) == 1 and people.mask_labels is None
    pipeline.options = PipelineOptions(person_threshold=1.0)
    assert len(pipeline(np.zeros((240, 320, 3), np.uint8)).people) == 0
    for wrong in ({"person_threshold": 1.5}, {"keypoint_threshold": -0.1}, {"max_people": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PipelineOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("source_hw", [(1, 1), (1, 500), (500, 1), (2, 3), (31, 4000)])
def test_absurd_sizes_are_answered(source_hw: tuple[int, int]) -> None:
    result = Pipeline(Oracle([], SPEC))(np.zeros((*source_hw, 3), np.uint8))
    assert result.people.mask_labels is not None and result.people.mask_labels.shape == source_hw


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        Pipeline(Oracle([], SPEC))(image)


def test_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing in it"):
        Pipeline(Oracle([], SPEC))(np.zeros((0, 7, 3), np.uint8))


def test_long_side() -> None:
    oracle = Oracle([], SPEC)
    Pipeline(oracle, long_side=640)(np.zeros((480, 640, 3), np.uint8))
    assert oracle.inputs[0].shape == (480, 640, 3)
    fixed = Oracle([], ModelSpec(input_hw=(320, 320), dynamic_input=False))
    with pytest.raises(ValueError, match="cannot be changed"):
        Pipeline(fixed, long_side=640)
    Pipeline(fixed)(np.zeros((480, 640, 3), np.uint8))
    assert fixed.inputs[0].shape == (320, 320, 3)
    for wrong in (7, 999_999):
        with pytest.raises(ValueError, match="to 8192 pixels"):
            Pipeline(oracle, long_side=wrong)
