"""`kdc record-demo`: bags from the scene, from videos and from photos; the sample in samples/."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the extra 'replay'")

from kdc_cli.main import main
from kdc_core.rle import from_coco
from kdc_replay.annotations import load_annotations
from kdc_replay.bag_reader import BagReader
from tests.cli.stub import write_picture


def record(*args) -> int:
    return main(["record-demo", *map(str, args)])


def read(path):
    with BagReader(path) as bag:
        topic = bag.choose_topic(None)
        return topic, bag.topics[topic].message_type, list(bag.frames(topic)), bag.notes


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_the_scene_and_its_truth(tmp_path, capsys, storage):
    pytest.importorskip("skimage", reason="brings the photographs")
    pytest.importorskip("matplotlib", reason="brings the photographs")
    from kdc_replay.demo_scene import scene

    out = tmp_path / "made" / "walk"
    assert record("--out", out, "--frames", 3, "--format", storage) == 0
    assert "3 frames on /camera/image_raw" in capsys.readouterr().out
    topic, kind, frames, notes = read(out)
    assert (topic, kind, notes) == ("/camera/image_raw", "sensor_msgs/msg/Image", [])
    annotations = load_annotations(out.with_name("walk.json"))
    assert len(frames) == len(annotations.frames) == 3
    matched = annotations.match((frame.index, frame.stamp_ns) for frame in frames)
    for i, frame in enumerate(frames):
        assert np.array_equal(frame.image, scene.image(i))
        assert frame.stamp_ns == frame.log_ns == frames[0].stamp_ns + i * 125_000_000
        truth = scene.truth(i)
        for annotation in matched[i].annotations:
            person = annotation["track_id"] - 1
            mask = from_coco(annotation["segmentation"])
            assert np.array_equal(mask, truth.people.mask(person)) and mask.sum() == annotation["area"]
            assert annotation["iscrowd"] == int(not truth.counted[person])
            x, y, w, h = annotation["bbox"]
            assert mask[y : y + h, x : x + w].sum() == mask.sum()
            seen = np.array(annotation["keypoints"]).reshape(17, 3)
            assert np.array_equal(seen[:, 2] > 0, truth.people.keypoint_scores[person] > 0)
            assert np.abs(seen[:, :2] - truth.people.keypoints_xy[person])[seen[:, 2] > 0].max(initial=0) < 0.01


def test_a_video(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for level in range(0, 250, 50):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    assert record("--out", tmp_path / "clip", "--input", path, "--compressed", "--frames", 4) == 0
    topic, kind, frames, _ = read(tmp_path / "clip")
    assert (topic, kind) == ("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage")
    assert [round(float(frame.image.mean()), -1) for frame in frames] == [0, 50, 100, 150]
    assert [frame.stamp_ns - frames[0].stamp_ns for frame in frames] == [0, 10**8, 2 * 10**8, 3 * 10**8]
    assert not (tmp_path / "clip.json").exists()


def test_a_video_that_ends_early(tmp_path, capsys):
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for _ in range(40):
        writer.write(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert record("--out", tmp_path / "part", "--input", path, "--frames", 5) == 0
    assert "ends after" not in capsys.readouterr().err
    assert record("--out", tmp_path / "clip", "--input", path) == 0
    output = capsys.readouterr()
    count = len(read(tmp_path / "clip")[2])
    assert 10 < count < 30 and f"{count} frames on" in output.out
    assert f"kdc record-demo: {path} ends after {count} of 40 frames" in output.err


def test_photos_with_annotations(tmp_path):
    for name, hw in (("b.png", (60, 80)), ("a.png", (90, 70)), ("c.png", (60, 80))):
        write_picture(tmp_path / "photos" / name, box_xywh=(5, 5, 20, 30), hw=hw)
    person = {"category_id": 7, "bbox": [5, 5, 20, 30], "area": 600, "iscrowd": 0, "id": 9}
    coco = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(("b.png", "sub/a.png", "x.png"))],
        "annotations": [
            {**person, "image_id": 0}, {**person, "image_id": 1}, {**person, "image_id": 0, "category_id": 8},
        ],
        "categories": [{"id": 7, "name": "person"}, {"id": 8, "name": "dog"}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    out = tmp_path / "bag"
    source = ("--input", tmp_path / "photos", "--annotations", tmp_path / "coco.json")
    assert record("--out", out, *source, "--fps", 4, "--topic", "/shop") == 0
    topic, _, frames, _ = read(out)
    # Of the annotated ones, in the order of their names.
    assert topic == "/shop" and [frame.image.shape[:2] for frame in frames] == [(90, 70), (60, 80)]
    found = load_annotations(tmp_path / "bag.json").match((f.index, f.stamp_ns) for f in frames)
    assert [len(found[i].annotations) for i in (0, 1)] == [1, 1]
    assert frames[1].stamp_ns - frames[0].stamp_ns == 250_000_000


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--out", "{there}"], "exists already"),
        (["--out", "."], "--out names a new folder for the bag, not ."),
        (["--out", "/"], "--out names a new folder for the bag, not /"),
        (["--out", "{new}", "--input", "nowhere.mp4"], "nowhere.mp4: no such video or folder"),
        (["--out", "{new}", "--input", "{there}"], "there are no photos in this folder"),
        (["--out", "{new}", "--annotations", "coco.json"], "--annotations goes with a folder of photos"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path, capsys, arguments, cause):
    there = tmp_path / "there"
    there.mkdir()
    assert record(*(a.format(there=there, new=tmp_path / "new") for a in arguments)) == 1
    error = capsys.readouterr().err
    assert cause in error and len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_nothing_stays_behind_of_a_bag_that_could_not_be_finished(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        assert cv2.imwrite(str(folder / name), np.full((48, 64, 3), 90, np.uint8))
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-50])
    assert record("--out", tmp_path / "bag", "--input", folder) == 1
    assert "b.jpg ends early" in capsys.readouterr().err
    assert not (tmp_path / "bag").exists()
    (folder / "b.jpg").unlink()
    assert record("--out", tmp_path / "bag", "--input", folder) == 0


def test_nothing_stays_behind_of_an_interrupted_bag(tmp_path, monkeypatch):
    frames = []

    def write(bag, image, stamp_ns):
        frames.append(stamp_ns)
        if len(frames) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("kdc_replay.bag_writer.ImageBagWriter.write", write)
    assert record("--out", tmp_path / "bag", "--frames", "5") == 130
    assert not (tmp_path / "bag").exists()


def test_the_sample_is_whole_and_small(repository):
    sample = repository / "samples" / "walk"
    size = sum(path.stat().st_size for path in (repository / "samples").rglob("*") if path.is_file())
    assert size <= 5_000_000
    _, kind, frames, notes = read(sample)
    assert kind == "sensor_msgs/msg/CompressedImage" and notes == []
    assert len(frames) == 72 and {frame.image.shape for frame in frames} == {(480, 848, 3)}
    annotations = load_annotations(repository / "samples" / "walk.json")
    assert len(annotations.match((f.index, f.stamp_ns) for f in frames)) == 72
    assert {a["track_id"] for f in annotations.frames for a in f.annotations} == {1, 2, 3}
