"""`kdc predict` on made pictures with a pipeline that needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc_cli.inputs import ImageIds, VideoWriter
from kdc_cli.main import main
from kdc_core.rle import from_coco
from tests.cli.stub import BACKGROUND, StubPipeline, picture, write_picture


def predict(out: Path, *arguments: object) -> int:
    return main(["predict", *map(str, arguments), "--out", str(out), "--model", "stub.onnx"])


def results(out: Path) -> tuple[list[dict], list[dict]]:
    predictions = json.loads((out / "predictions.json").read_text())
    return predictions, json.loads((out / "images.json").read_text())["images"]


@pytest.mark.usefixtures("stub_pipeline")
def test_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_picture(tmp_path / "000000000139.png", box_xywh=(30, 20, 40, 60))
    out = tmp_path / "new" / "out"
    assert predict(out, file) == 0
    assert "1 people in 1 images" in capsys.readouterr().out
    (person,), (image,) = results(out)
    assert person["image_id"] == image["id"] == 139
    assert person["file_name"] == image["file_name"] == "000000000139.png"
    assert "frame" not in person
    assert person["category_id"] == 1 and person["score"] == 0.75
    assert person["bbox"] == [30, 20, 40, 60]
    assert len(person["keypoints"]) == 51
    keypoints = np.array(person["keypoints"]).reshape(17, 3)
    np.testing.assert_allclose(keypoints[:, 2], np.linspace(0, 1, 17), atol=1e-4)
    assert (keypoints[:, :2] >= (30, 20)).all() and (keypoints[:, :2] <= (69, 79)).all()
    assert (image["width"], image["height"]) == (160, 120)
    assert person["segmentation"]["size"] == [120, 160]
    np.testing.assert_array_equal(from_coco(person["segmentation"]), picture((30, 20, 40, 60))[..., 0] > 200)
    overlay = cv2.imread(str(out / "overlays" / "000000000139.png"))
    assert overlay.shape == (120, 160, 3)
    assert (overlay[20:80, 30:70] != 240).any()
    assert (overlay[90:, 100:] == BACKGROUND).all()


@pytest.mark.usefixtures("stub_pipeline")
def test_predictions_are_coco_results(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    files = [write_picture(tmp_path / f"{n}.png", box_xywh=(n, 10, 30, 50)) for n in (4, 7)]
    assert predict(tmp_path / "out", *files, "--no-overlay") == 0
    truth = coco.COCO()
    _, images = results(tmp_path / "out")
    truth.dataset = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": []}
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "out" / "predictions.json"))
    assert sorted(loaded.getImgIds()) == [4, 7]
    assert loaded.annToMask(loaded.anns[1]).sum() == 30 * 50


@pytest.mark.usefixtures("stub_pipeline")
def test_empty_picture_is_listed_without_people(tmp_path: Path) -> None:
    file = write_picture(tmp_path / "nobody.jpg", box_xywh=None)
    assert predict(tmp_path / "out", file) == 0
    predictions, images = results(tmp_path / "out")
    assert predictions == [] and [i["file_name"] for i in images] == ["nobody.jpg"]
    assert (tmp_path / "out" / "overlays" / "nobody.jpg").is_file()


@pytest.mark.usefixtures("stub_pipeline")
def test_folder_with_numbers_and_names(tmp_path: Path) -> None:
    for name in ("b.jpg", "2.jpg", "a.png", ".hidden.png", "sub/deep.png"):
        write_picture(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    assert predict(tmp_path / "out", tmp_path / "in", "--no-overlay") == 0
    _, images = results(tmp_path / "out")
    # 2 belongs to the picture of that name, so the others take 1 and 3.
    assert [(i["file_name"], i["id"]) for i in images] == [("2.jpg", 2), ("a.png", 1), ("b.jpg", 3)]
    assert not (tmp_path / "out" / "overlays").exists()


@pytest.mark.usefixtures("stub_pipeline")
def test_bad_inputs_are_named_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_picture(tmp_path / "good.jpg")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(good.read_bytes()[:30])
    no_video = tmp_path / "clip.mp4"
    no_video.write_text("not a video")
    (tmp_path / "empty").mkdir()
    absent = tmp_path / "absent.png"
    assert predict(tmp_path / "out", absent, broken, no_video, tmp_path / "empty", good) == 1
    predictions, images = results(tmp_path / "out")
    assert [i["file_name"] for i in images] == ["good.jpg"] and len(predictions) == 1
    complaints = capsys.readouterr().err
    for bad in (absent, broken, no_video, tmp_path / "empty"):
        assert f"{bad}" in complaints
    assert "good.jpg" not in complaints and "Traceback" not in complaints


@pytest.mark.usefixtures("stub_pipeline")
def test_nothing_of_the_users_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither inputs that lie where the overlays go, nor earlier results by a mistyped name."""
    out = tmp_path / "out"
    inside = write_picture(out / "overlays" / "photo.png")
    before = inside.read_bytes()
    assert predict(out, inside) == predict(out, out / "overlays") == 1
    assert "where the overlays go" in capsys.readouterr().err
    assert inside.read_bytes() == before
    assert predict(out, inside, "--no-overlay") == 0
    kept = (out / "predictions.json").read_bytes()
    assert len(kept) > 10
    assert predict(out, tmp_path / "photoo.png") == 1
    assert "photoo.png: no such file or folder" in capsys.readouterr().err
    assert (out / "predictions.json").read_bytes() == kept


@pytest.mark.usefixtures("stub_pipeline")
def test_a_video_that_ends_early_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    for _ in range(30):
        writer.write(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8))
    writer.release()
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 3])
    assert predict(tmp_path / "out", clip, "--no-overlay") == 1
    read = len(results(tmp_path / "out")[1])
    assert 5 < read < 15
    assert f"clip.avi ends after {read} of 30 frames" in capsys.readouterr().err


@pytest.mark.usefixtures("stub_pipeline")
def test_same_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    files = [write_picture(tmp_path / folder / "5.jpg") for folder in ("a", "b")]
    assert predict(tmp_path / "out", *files, files[0]) == 0  # the first one named twice
    predictions, images = results(tmp_path / "out")
    assert [i["id"] for i in images] == [5, 1] and [p["image_id"] for p in predictions] == [5, 1]
    assert sorted(p.name for p in (tmp_path / "out" / "overlays").iterdir()) == ["5.jpg", "5_2.jpg"]


@pytest.mark.usefixtures("stub_pipeline")
def test_video(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    writer = VideoWriter(clip, 12.5)
    for i in range(6):
        writer.write(picture((20 + 4 * i, 30, 32, 64), hw=(128, 192)))
    writer.close()
    still = write_picture(tmp_path / "1.png")
    assert predict(tmp_path / "out", clip, still) == 0
    predictions, images = results(tmp_path / "out")
    frames = [p for p in predictions if p["file_name"] == "clip.mp4"]
    assert [p["frame"] for p in frames] == list(range(6))
    assert [p["image_id"] for p in frames] == [2, 3, 4, 5, 6, 7]  # 1 is the picture's
    assert [i["time_s"] for i in images if "frame" in i] == pytest.approx([k / 12.5 for k in range(6)])
    for i, person in enumerate(frames):
        np.testing.assert_allclose(person["bbox"], (20 + 4 * i, 30, 32, 64), atol=3)
    capture = cv2.VideoCapture(str(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    count = 0
    while (answer := capture.read())[0]:
        count += 1
        assert answer[1].shape == (128, 192, 3)
    assert count == 6


def test_options_reach_the_pipeline(tmp_path: Path, stub_pipeline: list[tuple[str, dict]]) -> None:
    file = write_picture(tmp_path / "a.png")
    limits = ("--score-threshold", 0.4, "--max-people", 3, "--long-side", 320, "--threads", 2)
    assert predict(tmp_path / "out", file, *limits) == 0
    ((model, options),) = stub_pipeline
    assert model == "stub.onnx" and (options["long_side"], options["threads"]) == (320, 2)
    assert (options["options"].person_threshold, options["options"].max_people) == (0.4, 3)


@pytest.mark.usefixtures("stub_pipeline")
def test_what_was_found_before_an_interruption_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def interrupted(self: StubPipeline, image: np.ndarray):
        seen.append(image)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return original(self, image)

    original = StubPipeline.__call__
    monkeypatch.setattr(StubPipeline, "__call__", interrupted)
    files = [write_picture(tmp_path / f"{n}.png") for n in (1, 2, 3)]
    assert predict(tmp_path / "out", *files) == 130
    predictions, _ = results(tmp_path / "out")
    assert [p["image_id"] for p in predictions] == [1]


@pytest.mark.usefixtures("stub_pipeline")
def test_earlier_results_outlive_a_call_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write_picture(tmp_path / f"{n}.png") for n in (1, 2)]
    out = tmp_path / "out"
    assert predict(out, *files) == 0
    before = results(out)
    broken = tmp_path / "3.png"
    broken.write_bytes(files[0].read_bytes()[:100])
    capsys.readouterr()
    assert predict(out, broken) == 1
    assert "not one picture could be read" in capsys.readouterr().out
    assert results(out) == before

    seen = []

    def failing(self: StubPipeline, image: np.ndarray):
        seen.append(image)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return original(self, image)

    original = StubPipeline.__call__
    monkeypatch.setattr(StubPipeline, "__call__", failing)
    assert predict(out, files[1], files[0]) == 130
    assert results(out) == before
    assert len(json.loads((out / "images.partial.json").read_text())["images"]) == 1
    whole = {"predictions.json", "images.json", "overlays"}
    assert {file.name for file in out.iterdir()} == whole | {"predictions.partial.json", "images.partial.json"}
    monkeypatch.setattr(StubPipeline, "__call__", original)
    assert predict(out, files[1]) == 0
    assert {file.name for file in out.iterdir()} == whole, "what was broken off is made up for"


def test_image_ids() -> None:
    names = [Path(n) for n in ("a/7.jpg", "b/7.jpg", "x.jpg", "1.png", "²3.jpg")]
    ids = ImageIds(names)
    assert [ids.of(n) for n in names] == [7, 2, 3, 1, 4]
    assert ids.next() == 5
