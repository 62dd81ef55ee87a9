"""A picture and its mirror image, asked about together."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.backends.base import NetworkOutputs
from kdc_core.backends.mirrored import MirroredBackend, averaged, unmirrored
from kdc_core.decode.candidates import find_candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.encode import GroundTruth, encode, ideal_fields
from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_core.skeleton import FLIP_INDEX
from kdc_core.spec import ModelSpec
from tests.core.made_people import made_truth

INPUT_HW = (192, 256)


def outputs_of(truth: GroundTruth, bank: bool = False) -> NetworkOutputs:
    fields = ideal_fields(encode(truth, 4, 12.0), 4, bank)
    masks = MaskFields(fields.person, fields.embedding, fields.sigma, 4)
    return NetworkOutputs(find_candidates(fields, 12.0, 8), masks)


def mirrored_truth(truth: GroundTruth) -> GroundTruth:
    keypoints = truth.keypoints_xy[:, list(FLIP_INDEX)].copy()
    keypoints[..., 0] = INPUT_HW[1] - 1 - keypoints[..., 0]
    return GroundTruth(
        keypoints,
        truth.labelled[:, list(FLIP_INDEX)],
        truth.instance[:, ::-1],
        truth.has_mask,
        truth.keypoint_ignore[:, ::-1],
        truth.mask_ignore[:, ::-1],
    )


@pytest.mark.parametrize("bank", [False, True], ids=["centroid", "bank"])
def test_a_mirror_image_turned_back_is_the_image(bank: bool) -> None:
    truth = made_truth([(60.0, 20.0, 150.0), (150.0, 30.0, 140.0)], INPUT_HW)
    # Centroid of the static form: the right shoulder, which is the left one in the mirror.
    truth.labelled[:, [5, 6]] = False
    plain, back = outputs_of(truth, bank), unmirrored(outputs_of(mirrored_truth(truth), bank), INPUT_HW[1])
    np.testing.assert_allclose(back.masks.person, plain.masks.person, atol=1e-6)
    seen = plain.masks.person > 0.9
    difference = np.abs(back.masks.embedding - plain.masks.embedding)[:, seen]
    # A mask's cells are sampled beside their centre: mirrored, on the other side of it.
    assert np.quantile(difference, 0.9) < 1.0
    for kind in range(17):
        for m in np.flatnonzero(plain.candidates.points[kind, :, 2] > 0.3):
            person = plain.candidates.people[kind, m]
            known = person[:, 2] > 0.3
            off = np.abs(back.candidates.people[kind][:, known, :2] - person[known, :2])
            assert off.max((1, 2)).min() < 0.1, kind


def test_what_both_runs_find_is_averaged_and_the_rest_counts_half() -> None:
    a, b = np.zeros((2, 17, 2, 17, 3), np.float32)
    nose, eye, hip = 0, 1, 11
    a[nose, 0, [nose, eye, hip]] = (100, 50, 0.8), (110, 40, 0.6), (100, 200, 0.2)
    b[nose, 0, [nose, eye, hip]] = (104, 50, 0.8), (116, 40, 0.3), (160, 200, 0.4)
    b[nose, 1, nose] = (300, 50, 0.5)
    people = averaged(a, b, same_px=12.0)
    assert people.shape == (17, 4, 17, 3)
    for both in (people[nose, 0], people[nose, 2]):
        assert both[nose] == pytest.approx((102, 50, 0.8))
        assert both[eye] == pytest.approx((112, 40, 0.45)), "weighted by the scores"
        assert both[hip] == pytest.approx((160, 200, 0.2)), "they differ: the surer place, at half its score"
    assert people[nose, 3, nose] == pytest.approx((300, 50, 0.25)), "only the mirror image shows it"
    assert (people[1:, :, :, 2] == 0).all()


class TwoSided:
    """Sees a person, and in the mirror image two people."""

    name, closed = "two-sided", False
    spec = ModelSpec(input_hw=INPUT_HW, dynamic_input=False, disk_radius_px=12.0)

    def run(self, image: np.ndarray) -> NetworkOutputs:
        places = [(60.0, 20.0, 150.0)] if image[0, 0, 0] else [(195.0, 20.0, 150.0), (90.0, 20.0, 150.0)]
        return outputs_of(made_truth(places, INPUT_HW))

    def close(self) -> None:
        self.closed = True


def test_what_either_sees_is_found_once() -> None:
    network = TwoSided()
    picture = np.zeros((*INPUT_HW, 3), np.uint8)
    picture[:, :128] = 255
    pipeline = Pipeline(MirroredBackend(network), PipelineOptions(person_threshold=0.2))
    people = pipeline(picture).people
    centres = sorted(people.keypoints_xy[:, [11, 12], 0].mean(1).tolist())
    assert centres == pytest.approx([60.0, 165.0], abs=6.0)
    assert "mirror" in pipeline.backend_name
    pipeline.close()
    assert network.closed
