"""The model spec's way through the file's metadata."""

import dataclasses
import json

import pytest

from kdc_core.spec import FORMAT_VERSION, ModelSpec, ModelSpecError

SPEC = ModelSpec(
    input_hw=(320, 480),
    dynamic_input=False,
    disk_radius_px=12.0,
    mask_mode="bank",
    provenance={"data": ["a", "b"], "scores": {"AP": 0.3}},
)


def test_json_brings_back_the_same_spec():
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC
    assert ModelSpec.from_json(SPEC.to_json()).provenance["data"] == ["a", "b"]


def test_letterbox_of_a_fixed_and_a_dynamic_input():
    fixed = SPEC.letterbox((100, 300))
    assert fixed.input_hw == (320, 480) and fixed.scaled_hw == (160, 480)
    dynamic = dataclasses.replace(SPEC, dynamic_input=True, size_multiple=32).letterbox((100, 300))
    assert dynamic.scaled_hw == (160, 480) and dynamic.input_hw == (160, 480)


def changed(**values) -> str:
    return json.dumps({**json.loads(SPEC.to_json()), **values})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a KDC model spec"),
        ("null", "not a KDC model spec"),
        ("[1]", "not a KDC model spec"),
        ('{"input_hw": [1, 2]}', "not a KDC model spec"),
        (changed(format_version=FORMAT_VERSION + 1), "export the checkpoint again"),
        (changed(colour="red"), r"unknown fields \['colour'\]"),
        (json.dumps({"format_version": FORMAT_VERSION}), "incomplete.*input_hw"),
        (changed(keypoint_names=["nose"]), "keypoints or edges"),
        (changed(directed_edges=[[0, 1]]), "keypoints or edges"),
        (changed(input_hw=[320]), "input_hw"),
        (changed(input_hw=[320, 0]), "input_hw"),
        (changed(input_hw=[320, 470]), "input_hw"),
        (changed(stride=0), "stride"),
        (changed(stride=5), "stride"),
        (changed(mask_mode="boxes"), "mask_mode"),
        (changed(num_candidates=0), "num_candidates"),
        (changed(disk_radius_px=-1), "disk_radius_px"),
        (changed(disk_radius_px="8"), "disk_radius_px"),
        (changed(disk_radius_px=float("nan")), "disk_radius_px"),
        (changed(stride=4.0), "stride"),
        (changed(size_multiple=32.0), "size_multiple"),
        (changed(size_multiple=10**12), "size_multiple"),
        (changed(input_hw=[10**9, 10**9]), "input_hw"),
        (changed(input_hw=320), "input_hw"),
        (changed(num_candidates=True), "num_candidates"),
        (changed(dynamic_input="no"), "dynamic_input"),
        (changed(output_names=None), "output_names"),
        (changed(output_names=["people"]), "output_names"),
        ("[" * 100_000, "not a KDC model spec"),
    ],
)
def test_refuses_what_is_no_usable_spec(text, message):
    with pytest.raises(ModelSpecError, match=message):
        ModelSpec.from_json(text)
