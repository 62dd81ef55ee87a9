"""The training configuration: what it accepts, and that it names what is wrong."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from kdc_core.encode import DiskRadius
from kdc_model.config import ConfigError, TrainConfig, parse_yaml
from kdc_model.network import NetworkConfig

MINIMAL = {"train_annotations": ["a.json"], "train_images": ["images"]}


def write(folder: Path, change: dict | None = None, **values) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **(change or {}), **values}))
    return path


def test_yaml_round_trip(tmp_path):
    config = TrainConfig.from_dict(
        {
            **MINIMAL,
            "pseudo_masks": [""],
            "scale_range": [1, 2],
            "learning_rate": 0.5,
            "trunk": "resnet50",
            "output_stride": 8,
            "stride": 8,
            "separable": False,
            "mask_mode": "bank",
            "epochs": 3,
        },
        Path("/data"),
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert TrainConfig.load(path) == config
    assert TrainConfig.from_dict(config.to_dict()) == config  # as a checkpoint's
    assert isinstance(config.epochs, float) and config.scale_range == (1.0, 2.0)


def test_one_window_size_or_several(tmp_path):
    assert TrainConfig.load(write(tmp_path, input_size=320)).input_sizes == (320,)
    several = TrainConfig.load(write(tmp_path, input_size=[320, 320, 512]))
    assert several.input_size == several.input_sizes == (320, 320, 512)
    assert TrainConfig.from_dict(several.to_dict()) == several


def test_relative_paths_are_relative_to_the_file(tmp_path):
    config = TrainConfig.load(
        write(tmp_path, pretrained="w/x.npz", val_images="/abs/val", pseudo_masks=[""], val_annotations="v.json")
    )
    assert config.train_annotations == (str(tmp_path / "a.json"),)
    assert config.pretrained == str(tmp_path / "w/x.npz")
    assert config.val_images == "/abs/val"
    # No file stays no file.
    assert config.pseudo_masks == ("",)


def test_shipped_configurations_are_valid(repository):
    files = sorted((repository / "configs").glob("*.yaml"))
    assert files
    for path in files:
        TrainConfig.load(path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        # unknown
        ({"learning_rat": 0.1}, "learning_rat"),
        # of a wrong type
        ({"batch_size": "8"}, "batch_size"),
        ({"batch_size": 8.5}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"batch_size": None}, "batch_size"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"separable": 1}, "separable"),
        ({"trunk": 50}, "trunk"),
        ({"train_images": "images"}, "train_images"),
        ({"train_images": [3]}, "train_images"),
        ({"scale_range": ["a", 1]}, "scale_range"),
        ({"scale_range": 1.5}, "scale_range"),
        # impossible
        ({"train_images": ["a", "b"]}, "train_images"),
        ({"train_images": [], "train_annotations": []}, "train_annotations"),
        ({"pseudo_masks": ["a", "b"]}, "pseudo_masks"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes"),
        ({"disk_radius_px": 0}, "disk_radius_px"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"loss_person": -1}, "loss_person"),
        ({"workers": -1}, "workers"),
        ({"seed": -1}, "seed"),
        ({"flip": 1.5}, "flip"),
        ({"ema_decay": 1.01}, "ema_decay"),
        ({"colour": -0.1}, "colour"),
        ({"input_size": 100}, "input_size"),
        ({"input_size": 0}, "input_size"),
        ({"input_size": []}, "input_size"),
        ({"input_size": [320, 100]}, "input_size"),
        ({"input_size": [320, "512"]}, "input_size"),
        ({"input_size": 320.0}, "input_size"),
        ({"scale_range": [2, 1]}, "scale_range"),
        ({"scale_range": [0, 1]}, "scale_range"),
        ({"scale_range": [1]}, "scale_range"),
        ({"scale_range": [1, 2, 3]}, "scale_range"),
        ({"scale_range": [0, 0]}, "scale_range"),
        ({"disk_radius_range": [9, 8]}, "disk_radius_range"),
        ({"disk_radius_range": [0, 8]}, "disk_radius_range"),
        ({"disk_radius_range": [8]}, "disk_radius_range"),
        ({"disk_kappas": -1}, "disk_kappas"),
        ({"mask_mode": "boxes"}, "mask_mode"),
        ({"trunk": "vgg"}, "trunk"),
        ({"stride": 3}, "stride"),
        ({"output_stride": 8}, "output_stride"),
        ({"channels": 0}, "channels"),
        ({"head_units": -1}, "head_units"),
        ({"freeze_stages": 99}, "freeze_stages"),
        # more than torch takes
        ({"seed": 2**63}, "seed"),
        ({"batch_size": 10**30}, "batch_size"),
        ({"channels": 10**12}, "channels"),
        ({"learning_rate": 10**400}, "learning_rate"),
        # no text
        ({1: 2}, "unknown keys 1"),
        ({True: 2}, "unknown keys True"),
        ({None: 2, "zzz": 1}, "unknown keys None, zzz"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, key):
    with pytest.raises(ConfigError, match=rf"\b{key}\b") as caught:
        TrainConfig.load(write(tmp_path, change))
    assert str(tmp_path / "config.yaml") in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_key_shows_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown keys learning_rat; known: .*learning_rate"):
        TrainConfig.load(write(tmp_path, learning_rat=0.1))


def test_missing_key():
    with pytest.raises(ConfigError, match="lacks 'train_images'"):
        TrainConfig.from_dict({"train_annotations": ["a"]})


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "just text"])
def test_no_mapping(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)):
        TrainConfig.load(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"# \xdcbung\n", "is not text in UTF-8: invalid continuation byte at byte 2"),
        (b"a: 1\nb: 2\na: 3\n", "is not YAML: line 3: the key 'a' stands twice"),
        (b"x: {a: 1, 'a': 2}\n", "is not YAML: line 1: the key 'a' stands twice"),
        (b"a:\n\tb", r"is not YAML: line 2: while scanning for the next token, found character .* cannot start"),
        (b"a: [\nb: 1", "is not YAML: line 2: while parsing a flow sequence, expected ',' or ']'"),
        (b"? [1, 2]\n: 3\n", "is not YAML: line 1: while constructing a mapping, found unhashable key"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML: line 1: could not determine a constructor"),
        (b"a: 2026-13-45\n", "is not YAML: month must be in 1..12"),
        (b"a: \x00", "is not YAML: unacceptable character"),
        (b"a: " + b"[" * 3000, "is YAML nested too deeply"),
    ],
)
def test_a_text_that_is_no_mapping_is_one_line_with_its_place(tmp_path, content, match):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=match) as caught:
        TrainConfig.load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_merged_keys_are_no_duplicates():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a}") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2},
    }  # fmt: skip


def test_batch_norms_need_more_than_one_cell(tmp_path):
    one = {"trunk": "mobilenet_v2", "output_stride": 32, "input_size": [64, 32], "batch_size": 1}
    with pytest.raises(ConfigError, match=r"config\.yaml: batch_size 1 .* one cell of an input_size of 32"):
        TrainConfig.load(write(tmp_path, one))
    for change in ({"batch_size": 2}, {"input_size": 64}, {"freeze_norms": True}, {"trunk": "movenet"}):
        TrainConfig.load(write(tmp_path, one | change))


def test_scientific_notation_without_a_point(tmp_path):
    # YAML 1.1 reads 1e-3 as text; everybody writes it.
    path = tmp_path / "config.yaml"
    path.write_text("train_annotations: [a]\ntrain_images: [b]\nlearning_rate: 1e-3\n")
    assert TrainConfig.load(path).learning_rate == 1e-3


def test_network_and_weights_come_from_the_keys():
    config = TrainConfig.from_dict({**MINIMAL, "channels": 24, "loss_person": 7.0})
    assert config.network() == NetworkConfig(channels=24)
    assert config.loss_weights()["person"] == 7.0
    # Every choice of the network's is a key.
    assert {f.name for f in dataclasses.fields(NetworkConfig)} <= set(config.to_dict())


def test_disks_are_of_one_radius_unless_a_range_is_given():
    fixed = TrainConfig(("a.json",), ("a",), disk_radius_px=12.0)
    assert fixed.disk_radius() == 12.0
    ranged = dataclasses.replace(fixed, disk_radius_range=(8.0, 20.0), disk_kappas=1.5)
    assert ranged.disk_radius() == DiskRadius(8.0, 20.0, 1.5)
