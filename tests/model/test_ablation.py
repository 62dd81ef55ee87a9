"""Ablations: the switches of decoding, and a plan run to its table."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdc_cli.main import main
from kdc_core.encode import DiskRadius
from kdc_core.fields import Fields
from kdc_core.skeleton import NUM_DIRECTED_EDGES, NUM_KEYPOINTS
from kdc_model.ablation import METRICS, AblationPlan, _base_network, _once, decoded_scores, run_plan, table
from kdc_model.config import ConfigError, TrainConfig
from kdc_model.evaluate import load_truth
from kdc_model.field_decoding import DecodingSwitches, FieldBackend, switched
from kdc_model.network import KDCNet
from kdc_model.oracle import IDEAL_FIELDS
from kdc_model.torch_backend import TorchBackend, model_spec
from kdc_model.train import Trainer


def some_fields() -> Fields:
    rng = np.random.default_rng(0)
    cells = (6, 8)
    return Fields(
        heatmap=rng.random((NUM_KEYPOINTS, *cells), np.float32) * 0.1,
        offset=rng.normal(size=(NUM_KEYPOINTS, 2, *cells)).astype(np.float32),
        displacement=np.zeros((NUM_DIRECTED_EDGES, 2, *cells), np.float32),
        person=rng.random(cells, np.float32),
        embedding=np.zeros((2, *cells), np.float32),
        sigma=np.ones(cells, np.float32),
        stride=4,
    )


def test_the_switches_change_what_they_say():
    fields = some_fields()
    assert switched(fields, DecodingSwitches()).heatmap is fields.heatmap
    heatmap_only = switched(fields, DecodingSwitches(keypoints="heatmap"))
    assert (heatmap_only.offset == 0).all() and np.array_equal(heatmap_only.heatmap, fields.heatmap)
    fields.heatmap[3, 2, 2] = 0.7
    keycentroid_only = switched(fields, DecodingSwitches(keypoints="keycentroid"))
    assert np.argwhere(keycentroid_only.heatmap).tolist() == [[3, 2, 2]]
    # BHM by hand at one cell: c' = 1 - (1 - c)(1 - alpha B).
    others = min(1.0, float(fields.heatmap[:, 2, 2].sum() - fields.heatmap[5, 2, 2]))
    expected = 1 - (1 - fields.heatmap[5, 2, 2]) * (1 - 0.4 * others)
    assert switched(fields, DecodingSwitches(body_heatmap=0.4)).heatmap[5, 2, 2] == pytest.approx(expected)
    assert (switched(fields, DecodingSwitches(person_scores=False)).person == 1).all()


@pytest.mark.parametrize(
    "change",
    [
        {"keypoints": "all"}, {"body_heatmap": 1.5}, {"igo_cells": -1}, {"igo_cells": "x"}, {"landings": 0},
        {"landings": 1.5}, {"person_scores": 1}, {"ideal": ["mask"]}, {"ideal": "heatmap"},
    ],
)  # fmt: skip
def test_impossible_switches_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        DecodingSwitches(**change)


@pytest.fixture
def config(made_folder) -> TrainConfig:
    annotations, images = str(made_folder / "annotations.json"), str(made_folder / "images")
    return TrainConfig(
        (annotations,), (images,), val_annotations=annotations, val_images=images, channels=8, head_units=1,
        input_size=64, long_side=64, epochs=4 / 7, batch_size=2, workers=0, warmup_steps=0,
    )  # fmt: skip


def test_without_switches_it_is_what_the_exported_graph_finds(config):
    torch.manual_seed(0)
    network = KDCNet(config.network()).eval()
    spec = model_spec(network, config)
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    ours = FieldBackend(network, spec, DecodingSwitches()).run(image)
    graph = TorchBackend(network, spec).run(image)
    # An untrained network's candidates are nearly equal: two may change places.
    same = np.abs(ours.candidates.points[:, 0] - graph.candidates.points[:, 0]).max(1) < 1e-3
    assert same.mean() > 0.8
    np.testing.assert_allclose(ours.masks.embedding, graph.masks.embedding, atol=1e-4)


def test_ideal_fields_come_from_the_image_that_was_announced(config, made_folder):
    torch.manual_seed(0)
    network = KDCNet(config.network()).eval()
    spec = model_spec(network, config)
    truth = load_truth(made_folder / "annotations.json", made_folder / "images")
    everything = DecodingSwitches(ideal=IDEAL_FIELDS)
    with pytest.raises(RuntimeError, match="look_at"):
        FieldBackend(network, spec, everything).run(np.zeros((64, 64, 3), np.uint8))
    config = dataclasses.replace(config, long_side=256)
    untrained = decoded_scores(network, config, DecodingSwitches(), truth)
    ideal = decoded_scores(network, config, everything, truth)
    assert untrained["keypoints.AP"] < 0.1 and untrained["person_iou"] < 0.5
    assert ideal["keypoints.AP50"] > 0.8 and ideal["person_iou"] > 0.8


def write_plan(folder: Path, config: TrainConfig, **plan) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(config.to_dict()))
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"config": "base.yaml", **plan}))
    return path


def test_a_plan_is_run_once_and_becomes_a_table(config, tmp_path, capsys, monkeypatch):
    changes = {"decoding": {"no IGO": {"igo_cells": 0}}, "training": {"R 16": {"disk_radius_px": 16.0}}}
    path = write_plan(tmp_path, config, seeds=[0, 1], **changes)
    out = tmp_path / "out"
    assert main(["ablate", "--plan", str(path), "--out", str(out)]) == 0
    page = (out / "ablation.md").read_text()
    assert page.strip() in capsys.readouterr().out
    for row in ("| base | 2 |", "| R 16 | 2 |", "| base | 1 |", "| no IGO | 1 |"):
        assert row in page
    scores = json.loads((out / "ablation.json").read_text())
    assert len(scores["training"]["R 16"]) == 2
    assert (out / "training" / "R_16" / "seed_1" / "last.pt").exists()
    # Again: nothing is trained or scored a second time.
    monkeypatch.setattr("kdc_model.ablation.decoded_scores", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr("kdc_model.ablation.Trainer", lambda *_, **__: pytest.fail("trained again"))
    assert run_plan(AblationPlan.load(path), out) == scores
    changed = dataclasses.replace(config, learning_rate=0.5)
    with pytest.raises(ConfigError, match="made with other settings"):
        run_plan(AblationPlan.load(write_plan(tmp_path, changed, seeds=[0, 1])), out)


def test_scores_are_kept_for_the_same_weights_and_photos_only(config, tmp_path):
    first, second = (Trainer(dataclasses.replace(config, seed=n), tmp_path / str(n)).save() for n in (1, 2))
    model = tmp_path / "model.pt"
    shutil.copyfile(first, model)
    path = write_plan(tmp_path, config, model="model.pt", decoding={"no IGO": {"igo_cells": 0}})
    out = tmp_path / "out"
    assert run_plan(AblationPlan.load(path), out) == run_plan(AblationPlan.load(path), out)
    shutil.copyfile(second, model)
    with pytest.raises(ConfigError, match=r"base\.json was made with other settings"):
        run_plan(AblationPlan.load(path), out)
    shutil.copyfile(first, model)
    larger = dataclasses.replace(config, long_side=128)
    path = write_plan(tmp_path, larger, model="model.pt", decoding={"no IGO": {"igo_cells": 0}})
    with pytest.raises(ConfigError, match="made with other settings"):
        run_plan(AblationPlan.load(path), out)


def test_seeds_can_be_shared_out(config, tmp_path):
    path = write_plan(tmp_path, config, seeds=[0, 1], common={"epochs": 2 / 7, "channels": 16})
    plan = AblationPlan.load(path)
    assert plan.config == dataclasses.replace(config, epochs=2 / 7, channels=16)
    out = tmp_path / "out"
    for seed in "10":
        assert main(["ablate", "--plan", str(path), "--out", str(out), "--seeds", seed]) == 0
    parts = [json.loads((out / f"training/base/seed_{seed}/scores.json").read_text()) for seed in (0, 1)]
    assert [part["key"]["seed"] for part in parts] == [0, 1] and parts[0]["key"]["channels"] == 16
    assert run_plan(plan, out)["training"]["base"] == [part["metrics"] for part in parts]
    with pytest.raises(ConfigError, match="has the seeds 0, 1, not 2"):
        plan.only([0, 2])
    with pytest.raises(ConfigError, match="seeds must differ, got 1, 1"):
        plan.only([1, 1])


def test_a_training_begun_with_other_settings_does_not_go_on(config, tmp_path):
    plan = AblationPlan.load(write_plan(tmp_path, config, seeds=[1]))
    folder = tmp_path / "out" / "training" / "base" / "seed_1"
    ours = dataclasses.replace(config, seed=1, evaluate_epochs=0.0)
    other = dataclasses.replace(ours, learning_rate=0.01, heatmap_sigma=0.5)
    Trainer(dataclasses.replace(other, epochs=2 / 7), folder, device="cpu").run()
    with pytest.raises(ConfigError, match=r"last\.pt was begun with .* \(epochs, learning_rate, heatmap_sigma\)"):
        run_plan(plan, tmp_path / "out", "cpu")
    shutil.rmtree(folder)
    Trainer(ours, folder, device="cpu").save()
    assert len(run_plan(plan, tmp_path / "out", "cpu")["training"]["base"]) == 1


@pytest.mark.parametrize(
    "change",
    [{"stride": 8}, {"mask_mode": "static"}, {"mask_mode": "bank"}, {"disk_radius_px": 32.0}, {"head_units": 2}],
)
def test_a_model_of_another_meaning_is_not_decoded(config, tmp_path, change):
    model = Trainer(config, tmp_path / "run", device="cpu").save()
    path = write_plan(tmp_path, dataclasses.replace(config, **change), model=str(model), decoding={"a": {}})
    ((key, value),) = change.items()
    match = rf"run/last\.pt has {key} {getattr(config, key)}, the plan's configuration {value}"
    with pytest.raises(ConfigError, match=match):
        run_plan(AblationPlan.load(path), tmp_path / "out", "cpu")


def test_an_exported_model_of_another_meaning_is_not_decoded(shipped_model, repository, tmp_path):
    for name in ("decoding", "oracles"):
        plan = AblationPlan.load(repository / "configs" / "ablations" / f"{name}.yaml")
        assert plan.model == shipped_model
        _base_network(plan.model, plan.config)
    for change in ({"stride": 8}, {"mask_mode": "static"}, {"disk_radius_px": 8.0}):
        with pytest.raises(ConfigError, match=rf"kdc_mobile\.onnx has {next(iter(change))} .*, the plan's"):
            _base_network(shipped_model, dataclasses.replace(plan.config, **change))
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"hello"):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.onnx is not one that `kdc export` wrote"):
            _base_network(broken, plan.config)


def test_a_score_that_is_not_readable_is_made_again(tmp_path, caplog):
    kept, key = tmp_path / "folder" / "a.json", {"a": 1}
    metrics = dict.fromkeys(METRICS, 0.5)
    assert _once(kept, key, lambda: metrics) == metrics
    whole = kept.read_text()
    for text in (whole[:-30], "", "{}", "[]", "hello", whole.replace("0.5", "null"), '{"key": {}, "metrics": {}}'):
        kept.write_text(text)
        assert _once(kept, key, lambda: metrics) == metrics
        assert kept.read_text() == whole and [p.name for p in kept.parent.iterdir()] == ["a.json"]
    assert caplog.text.count("a.json is not readable: it is made again") == 7
    assert _once(kept, key, lambda: pytest.fail("made again")) == metrics

    def unknown(_):
        raise ConfigError("unknown keys a")

    with pytest.raises(ConfigError, match=r"a\.json was made with other settings"):
        _once(kept, key, dict, unknown)


def test_a_score_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    kept = tmp_path / "a.json"
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("interrupted here"))
    with pytest.raises(pytest.fail.Exception):
        _once(kept, {}, lambda: dict.fromkeys(METRICS, 0.5))
    assert not kept.exists()


def test_common_changes_reach_every_variant(config, tmp_path):
    path = write_plan(tmp_path, config, common={"stride": 8}, training={"R 16": {"disk_radius_px": 16.0}})
    variant = AblationPlan.load(path).training["R 16"]
    assert variant == dataclasses.replace(config, stride=8, disk_radius_px=16.0)


def test_the_table_has_means_ranges_and_changes():
    def run(ap):
        return {"keypoints.AP": ap, "keypoints.AP50": 0.5, "segm.AP": 0.1, "segm.AP50": 0.2, "person_iou": 0.7}

    page = table({"training": {"base": [run(0.2), run(0.3)], "x": [run(0.3), run(0.36)]}, "decoding": {}})
    assert "| base | 2 | 0.250 (0.200 to 0.300) |" in page
    assert "| x | 2 | 0.330 (0.300 to 0.360) +0.080 |" in page and "decoding" not in page


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        ({"decoding": {"a": {"speed": 1}}}, "variant 'a': unknown switches speed; known: keypoints, .*, ideal"),
        ({"decoding": {"a": {1: 1}}}, "decoding variant 'a': unknown switches 1"),
        ({"training": {"a": {1: 1}}}, "training variant 'a': unknown keys 1"),
        ({"common": {None: 1}}, "common: unknown keys None"),
        ({"decoding": {"R 8": {}, "R_8": {}}}, "decoding variants 'R 8' and 'R_8' would share the folder R_8"),
        ({"training": {"R 8": {}, "R_8": {}}}, "training variants 'R 8' and 'R_8' would share"),
        ({"decoding": {"a | b": {}}}, r"decoding variant 'a \| b': a name has .* without '\|'"),
        ({"training": {"a\nb": {}}}, "a name has a letter or digit, in one line"),
        ({"training": {"..": {}}}, "a name has a letter or digit"),
        ({"seeds": [0, 0]}, r"seeds must differ, got \[0, 0\]"),
        ({"seeds": [True]}, "seeds must be"),
        ({"seeds": [2**63]}, "seeds must be .* below"),
        ({"training": {"a": {"speed": 1}}}, "training variant 'a': unknown keys speed"),
        ({"training": {"base": {}}}, "'base' is the name"),
        ({"training": ["a"]}, "'training' must map names to changes"),
        ({"seeds": []}, "seeds must be"),
        ({"common": {"speed": 1}}, "common: unknown keys speed"),
        ({"common": ["a"]}, "'common' must map keys"),
        ({"more": 1}, "must be a mapping with 'config'"),
    ],
)
def test_malformed_plans_are_explained(config, tmp_path, plan, match):
    with pytest.raises(ConfigError, match=match) as caught:
        AblationPlan.load(write_plan(tmp_path, config, **plan))
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value).replace(str(plan), "")


def test_a_plan_is_read_like_a_configuration(config, tmp_path):
    path = write_plan(tmp_path, config)
    texts = ((b"\xff\xfe", "text in UTF-8"), (b"seeds: [1]\nseeds: [2]\n", "YAML: line 2: the key 'seeds'"))
    for content, match in texts:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"plan\.yaml is not {match}"):
            AblationPlan.load(path)


def test_the_plans_that_come_along_are_sound():
    root = Path(__file__).parents[2] / "configs" / "ablations"
    decoding = AblationPlan.load(root / "decoding.yaml")
    assert decoding.model is not None and decoding.model.is_file() and "BHM 0.4" in decoding.decoding
    oracles = AblationPlan.load(root / "oracles.yaml")
    assert {name for variant in oracles.decoding.values() for name in variant.ideal} == set(IDEAL_FIELDS)
    training = AblationPlan.load(root / "training.yaml")
    assert len(training.seeds) == 3 and training.config.disk_radius() == DiskRadius(8.0, 20.0)
    # A radius beside the base's range would change nothing.
    assert [training.training[f"R {r}"].disk_radius() for r in (8, 16, 32)] == [8, 16, 32]
    assert all(variant != training.config for variant in training.training.values())
