"""`kdc replay` of one bag: what it writes, and that it writes the same whatever happens in between."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the extra 'replay'")
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer

from kdc_cli.errors import message_of
from kdc_cli.main import main
from kdc_core.appearance import colour_histograms
from kdc_core.rle import from_coco
from kdc_replay import journal
from kdc_replay.batch import result_row
from kdc_replay.interfaces import InterfaceError
from kdc_replay.run_folder import sole_user
from kdc_replay.run_reader import load_run
from kdc_replay.runner import ReplayJob
from tests.replay import bags
from tests.replay.bags import HW, LOG_DELAY_NS, TOPIC, picture, stamp_of, write_bag
from tests.replay.stub_pipeline import ReplayStub, use_stub

FAST = ("--no-video", "--no-report", "--no-results")


@pytest.fixture(autouse=True)
def _stub(monkeypatch, tmp_path):
    use_stub(monkeypatch, tmp_path)


def replay(*args) -> int:
    return main(["replay", *map(str, args)])


def contents(folder) -> dict[str, str]:
    """A digest of each file that must not depend on the circumstances."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("timings.csv", "report.html")
    }


def test_the_run_of_a_bag(tmp_path, capsys):
    bag = write_bag(tmp_path / "walk", range(6), broken=[3])
    assert replay(bag, "--out", tmp_path / "run", *FAST) == 0
    run = tmp_path / "run"
    info = json.loads((run / "run.json").read_text())
    assert info["finished"] and info["bags"] == ["walk"] and info["topic"] == TOPIC and info["backend"] == "stub"
    assert (info["frames"], info["people"], info["tracks"]) == (5, 5, 1)
    assert info["model"] == {"file": "model.onnx", "sha256": hashlib.sha256(b"stub").hexdigest()}
    assert list(info["dropped"].values()) == [1]
    assert [d["index"] for d in journal.drops(run)] == [3]
    frames = list(journal.records(run))
    assert [f["index"] for f in frames] == [0, 1, 2, 4, 5]
    assert [f["stamp_ns"] for f in frames] == [stamp_of(i) for i in (0, 1, 2, 4, 5)]
    for frame in frames:
        (person,) = frame["people"]
        assert frame["frame_id"] == "camera_optical" and frame["image_hw"] == list(HW) and person["id"] == 1
        bright = picture(frame["index"]).min(2) > 150
        mask = from_coco({"size": list(HW), "counts": person["mask"]["counts"]})
        assert np.array_equal(mask, bright)
        x, y, w, h = person["mask"]["roi_xywh"]
        assert mask[y : y + h, x : x + w].sum() == mask.sum() and mask[y].any() and mask[:, x].any()
        assert person["box_xyxy"] == [x, y, x + w - 1, y + h - 1]
        exact = np.float32(0.75) / np.float32(0.7)
        assert np.float32(person["mask"]["score"]) == exact == journal.people_of(frame).mask_scores[0]
        colours = colour_histograms(picture(frame["index"]), bright.astype(np.uint16), 1)
        assert colours.any() and np.array_equal(journal.people_of(frame).appearance, colours)
    assert [f["people"][0]["state"] for f in frames][-1] == "TRACKED"
    predictions = json.loads((run / "predictions.json").read_text())
    assert [p["image_id"] for p in predictions] == [0, 1, 2, 4, 5]
    assert all(p["track_id"] == 1 and len(p["keypoints"]) == 51 for p in predictions)
    times = (run / "timings.csv").read_text().splitlines()
    assert times[0].startswith("index,decode_image,") and len(times) == 6
    output = capsys.readouterr()
    assert "walk: 5 frames of /camera/image_raw, 5 people, 1 tracks" in output.out
    assert "1 frames dropped: the message is no sensor_msgs/msg/Image" in output.err


def test_log_times_serve_where_the_camera_stamps_nothing(tmp_path):
    bag = write_bag(tmp_path / "walk", range(8), stamped=False)
    assert replay(bag, "--out", tmp_path / "run", *FAST) == 0
    frames = list(journal.records(tmp_path / "run"))
    assert [(f["stamp_ns"], f["log_ns"]) for f in frames] == [(0, stamp_of(i) + LOG_DELAY_NS) for i in range(8)]
    # Someone seen eight times within a second is tracked; eight times at one moment would not be.
    assert frames[-1]["people"][0]["state"] == "TRACKED" and {f["people"][0]["id"] for f in frames} == {1}


def test_numbers_come_back_bit_by_bit():
    values = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    again = np.array(json.loads(json.dumps(journal.exact(values))), np.float32)
    assert np.array_equal(again.view(np.uint32), values.view(np.uint32))
    assert journal.exact(np.array([0.1, 0.25], np.float32)) == [0.1, 0.25]


@pytest.mark.parametrize("stop_after", [0, 1, 4])
def test_an_interrupted_run_ends_the_same(tmp_path, monkeypatch, stop_after):
    bag = write_bag(tmp_path / "walk", range(8), broken=[2])
    assert replay(bag, "--out", tmp_path / "straight", *FAST) == 0
    ReplayStub.frames, ReplayStub.stop_after = 0, stop_after
    run = tmp_path / "run"
    assert replay(bag, "--out", run, *FAST) == 130
    assert not json.loads((run / "run.json").read_text())["finished"]
    for name in ("frames.jsonl", "dropped.jsonl", "timings.csv"):
        with (run / name).open("a") as file:
            file.write('{"index":5,"sta')  # killed while writing
    ReplayStub.frames, ReplayStub.stop_after = 0, None
    assert replay(bag, "--out", run, *FAST) == 0
    assert ReplayStub.frames == 7 - stop_after
    assert contents(run) == contents(tmp_path / "straight")
    assert len((run / "timings.csv").read_text().splitlines()) == 8


def test_a_finished_run_is_left_alone(tmp_path, capsys):
    bag = write_bag(tmp_path / "walk")
    run = tmp_path / "run"
    assert replay(bag, "--out", run, *FAST) == 0
    before = contents(run)
    ReplayStub.stop_after = 0  # would stop at the first frame
    assert replay(bag, "--out", run, *FAST) == 0
    assert contents(run) == before
    (run / "predictions.json").unlink()
    assert replay(bag, "--out", run, *FAST) == 0
    assert contents(run) == before
    ReplayStub.stop_after = None
    assert replay(bag, "--out", run, "--every", "2", *FAST) == 1
    error = capsys.readouterr().err
    assert "holds a run with other settings (options.every: 1 there, 2 now)" in error and "--overwrite" in error
    assert contents(run) == before
    (run / "mine.txt").write_text("not ours")
    assert replay(bag, "--out", run, "--every", "2", "--overwrite", *FAST) == 0
    assert [f["index"] for f in journal.records(run)] == [0, 2, 4]
    assert (run / "mine.txt").is_file()


def test_another_recording_of_the_same_name_and_size_is_another_run(tmp_path, capsys):
    one, two = write_bag(tmp_path / "a" / "walk", range(3)), write_bag(tmp_path / "b" / "walk", range(3, 6))
    sizes = [[p.stat().st_size for p in sorted(bag.iterdir()) if p.suffix != ".yaml"] for bag in (one, two)]
    assert sizes[0] == sizes[1]
    assert replay(one, "--out", tmp_path / "run", *FAST) == 0
    assert replay(two, "--out", tmp_path / "run", *FAST) == 1
    assert "holds a run with other settings (files: " in capsys.readouterr().err


def test_a_run_that_could_not_even_begin_can_begin_again(tmp_path):
    bag = write_bag(tmp_path / "walk", range(2))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json.part").write_text('{"fini')  # the disk was full
    assert replay(bag, "--out", tmp_path / "run", *FAST) == 0
    assert not list((tmp_path / "run").glob("*.part"))


def test_folders_that_are_no_runs_are_not_touched(tmp_path, capsys):
    bag = write_bag(tmp_path / "walk")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert replay(bag, "--out", folder, "--overwrite", *FAST) == 1
    assert "is not empty, and holds no run" in capsys.readouterr().err
    assert replay(bag, "--out", folder / "thesis.txt", *FAST) == 1
    assert "is a file" in capsys.readouterr().err
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]


def test_one_run_at_a_time_in_a_folder(tmp_path, capsys):
    bag = write_bag(tmp_path / "walk", range(2))
    with sole_user(tmp_path / "run"):
        assert replay(bag, "--out", tmp_path / "run", *FAST) == 1
    assert "another `kdc replay` is at work in" in capsys.readouterr().err
    assert replay(bag, "--out", tmp_path / "run", *FAST) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--start", "0.2"], [2, 3, 4, 5]),
        (["--duration", "0.3"], [0, 1, 2]),
        (["--start", "0.1", "--duration", "0.4", "--every", "3"], [1, 4]),
    ],
)
def test_selections(tmp_path, arguments, expected):
    bag = write_bag(tmp_path / "walk")
    assert replay(bag, "--out", tmp_path / "run", *arguments, *FAST) == 0
    assert [f["index"] for f in journal.records(tmp_path / "run")] == expected


def test_options_reach_the_run(tmp_path):
    bag = write_bag(tmp_path / "walk", range(2))
    options = ["--person-threshold", "0.3", "--keypoint-threshold", "0.1", "--max-people", "7", "--long-side", "320"]
    assert replay(bag, "--out", tmp_path / "run", *options, "--no-masks", *FAST) == 0
    written = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    expected = {"person_threshold": 0.3, "keypoint_threshold": 0.1, "max_people": 7, "long_side": 320, "masks": False}
    assert {name: written[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["{walk}", "--topic", "/other"], "there is no topic /other in the bag; its image topics: /camera/image_raw"),
        (["{walk}", "--start", "99"], "not one frame of /camera/image_raw was selected"),
        (["{walk}", "--duration", "0"], "--duration must be above 0"),
        (["{empty}"], "not one frame of /camera/image_raw was selected"),
        (["{torn}"], "was selected (torn.mcap: 1 damaged chunk left out; 0 frames of /camera/image_raw read; 6 of 6"),
        (["nowhere"], "no such bag"),
        (["{walk}", "--annotations", "nowhere.json"], "No such file or directory: nowhere.json"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path, capsys, arguments, cause):
    paths = {"walk": write_bag(tmp_path / "walk"), "empty": write_bag(tmp_path / "empty", [])}
    paths["torn"] = write_bag(tmp_path / "torn", compression=CompressionMode.STORAGE)
    file = paths["torn"] / "torn.mcap"
    file.write_bytes(file.read_bytes().replace(b"\x28\xb5\x2f\xfd", b"torn"))  # how zstd begins
    assert replay(*(a.format(**paths) for a in arguments), "--out", tmp_path / "run", *FAST) == 1
    error = capsys.readouterr().err
    assert cause in error and "Traceback" not in error and len(error.splitlines()) == 1


def annotation_file(path, truth_of, key="stamp_ns"):
    """COCO annotations of frames 0 and 2 with the bright rectangle as truth; ids that are not indices."""
    images, annotations = [], []
    for number in (0, 2):
        mask = picture(number).min(2) > 150
        ys, xs = np.nonzero(mask)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        frame = stamp_of(number) if key == "stamp_ns" else number
        images.append({"id": 100 + number, "width": HW[1], "height": HW[0], key: frame})
        steps = np.linspace(0.1, 0.9, 17)
        places = [[box[0] + s * (box[2] - 1), box[1] + s * (box[3] - 1), 2] for s in steps]
        annotations.append(
            {
                "id": number, "image_id": 100 + number, "category_id": 1, "track_id": 4, "iscrowd": 0, "bbox": box,
                "area": int(mask.sum()), "num_keypoints": 17, "keypoints": [float(v) for p in places for v in p],
                "segmentation": [[box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3],
                                  box[0], box[1] + box[3]]],
            }
        )  # fmt: skip
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    truth_of(data)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("key", ["stamp_ns", "frame_index"])
def test_scores_against_annotations(tmp_path, capsys, key):
    bag = write_bag(tmp_path / "walk")
    truth = annotation_file(tmp_path / "truth.json", lambda data: None, key)
    run = tmp_path / "run"
    assert replay(bag, "--out", run, *FAST) == 0
    capsys.readouterr()
    assert replay(bag, "--out", run, "--annotations", truth, *FAST) == 0  # the frames are there, the scores are not
    assert "mask AP 1.000" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["frames_annotated"] == 2 and metrics["tracking"]["idf1"] == 1.0
    predictions = json.loads((run / "predictions.json").read_text())
    assert [(p["image_id"], p["frame_index"]) for p in predictions] == [(100, 0), (102, 2)]
    scored = contents(run)
    assert replay(bag, "--out", tmp_path / "again", "--annotations", truth, *FAST) == 0
    assert contents(tmp_path / "again") == scored


def moved(data):
    for image in data["images"]:
        image["stamp_ns"] += 10**15


def another_size(data):
    for image in data["images"]:
        del image["width"], image["height"]
    data["annotations"][0]["segmentation"] = {"size": [9, 9], "counts": [81]}


@pytest.mark.parametrize(
    ("change", "cause"), [(moved, "none of its 2 images is a frame"), (another_size, "an annotated mask has 9 x 9")]
)
def test_annotations_at_fault_change_nothing(tmp_path, capsys, change, cause):
    bag = write_bag(tmp_path / "walk", range(3))
    run = tmp_path / "run"
    truth = annotation_file(tmp_path / "truth.json", lambda data: None)
    assert replay(bag, "--out", run, "--annotations", truth, *FAST) == 0
    before = contents(run)
    wrong = annotation_file(tmp_path / "wrong.json", change)
    assert replay(bag, "--out", run, "--annotations", wrong, *FAST) == 1
    assert cause in capsys.readouterr().err
    assert contents(run) == before and "metrics.json" in before
    right = annotation_file(tmp_path / "right.json", lambda data: data["images"].pop() and data["annotations"].pop())
    assert replay(bag, "--out", run, "--annotations", right, *FAST) == 0
    assert json.loads((run / "run.json").read_text())["annotations"]["file"] == "right.json"
    assert json.loads((run / "metrics.json").read_text())["frames_annotated"] == 1
    assert [p["image_id"] for p in json.loads((run / "predictions.json").read_text())] == [100]


def test_what_is_not_annotated_has_no_score(tmp_path, capsys):
    def boxes_alone(data):
        for annotation in data["annotations"]:
            del annotation["keypoints"], annotation["segmentation"], annotation["num_keypoints"]

    bag = write_bag(tmp_path / "walk", range(3))
    truth = annotation_file(tmp_path / "truth.json", boxes_alone)
    assert replay(bag, "--out", tmp_path / "run", "--annotations", truth, *FAST) == 0
    text = capsys.readouterr().out
    assert "HOTA 1.000" in text and "keypoint AP not annotated, mask AP not annotated" in text and "-1" not in text
    row = result_row(ReplayJob(bag, tmp_path / "run"), json.loads((tmp_path / "run" / "run.json").read_text()))
    assert row["keypoint_ap"] is row["mask_ap"] is None and row["idf1"] == 1


@pytest.mark.parametrize("from_zero", [True, False])
def test_tracks_of_a_simulation_begin_at_time_zero(tmp_path, monkeypatch, from_zero):
    first_ns = stamp_of(0) if from_zero else stamp_of(-1)
    encode = bags.image_bytes
    monkeypatch.setattr(bags, "image_bytes", lambda image, stamp_ns: encode(image, stamp_ns - first_ns))
    bag = write_bag(tmp_path / "walk", range(8))
    ReplayStub.stop_after = 3
    assert replay(bag, "--out", tmp_path / "run", *FAST) == 130
    ReplayStub.stop_after = None
    assert replay(bag, "--out", tmp_path / "run", *FAST) == 0
    frames = list(journal.records(tmp_path / "run"))
    assert {frame["people"][0]["id"] for frame in frames} == {1}
    assert [frame.get("from_zero", False) for frame in frames] == [from_zero, *[False] * 7]
    seconds = load_run(tmp_path / "run").times_s()
    assert seconds.tolist() == pytest.approx([i / 10 for i in range(8)])


def test_log_times_beyond_int64(tmp_path):
    writer = Writer(tmp_path / "far", version=8, storage_plugin=StoragePlugin.MCAP)
    with writer:
        topic = writer.add_connection(TOPIC, bags.IMAGE, typestore=bags.STORE)
        for i in range(3):
            writer.write(topic, 2**63 + i * bags.PERIOD_NS, bags.image_bytes(picture(i), 0))
    assert replay(tmp_path / "far", "--out", tmp_path / "run") == 0
    assert load_run(tmp_path / "run").times_s().tolist() == pytest.approx([0, 0.1, 0.2])


def drop_key(name):
    def change(data):
        for image in data["images"]:
            image.pop(name)

    return change


def put(record, name, value):
    def change(data):
        data[record][0][name] = value

    return change


def twice_in_one_image(data):
    data["annotations"].insert(1, {**data["annotations"][0], "id": 99})


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (drop_key("stamp_ns"), "images[0]: 'stamp_ns' is missing, and so is 'frame_index'"),
        (put("images", "stamp_ns", "soon"), "images[0]: 'stamp_ns' must be a whole number, got 'soon'"),
        (put("images", "stamp_ns", stamp_of(2)), "images[1]: 'stamp_ns' 1700000000200000000 occurs twice"),
        (put("annotations", "image_id", 7), "annotations[0]: 'image_id' there is no image 7"),
        (put("annotations", "bbox", [1, 2, 3]), "annotations[0]: 'bbox' must be a list of 4 numbers"),
        (put("annotations", "keypoints", [0.0] * 50), "annotations[0]: 'keypoints' must be a list of 51 numbers"),
        (put("annotations", "track_id", 1.5), "annotations[0]: 'track_id' must be a whole number"),
        (put("annotations", "track_id", 2**70), "annotations[0]: 'track_id' must fit into 64 bits"),
        (put("annotations", "segmentation", [[0, 0, 9, 9, 2e5, 2]]), "'segmentation' 200000.0 is no pixel"),
        (put("categories", "name", "dog"), "none of its 'categories' is called person"),
        (twice_in_one_image, "annotations[1]: 'track_id' 4 occurs twice in image 100"),
        (put("annotations", "segmentation", [[1, 2]]), "'segmentation' a polygon is a list of at least three x, y"),
        (put("annotations", "segmentation", {"size": [9, 9], "counts": [81]}), "is a mask of 9 x 9, its image has 64"),
        (lambda data: data["images"].clear(), "annotations[0]: 'image_id' there is no image 100"),
        (lambda data: [i.update(stamp_ns=i["id"]) for i in data["images"]], "none of its 2 images is a frame of this"),
    ],
)
def test_annotations_at_fault_are_named(tmp_path, capsys, change, cause):
    bag = write_bag(tmp_path / "walk", range(3))
    truth = annotation_file(tmp_path / "truth.json", change)
    assert replay(bag, "--out", tmp_path / "run", "--annotations", truth, *FAST) == 1
    error = capsys.readouterr().err
    assert cause in error and "truth.json" in error and len(error.splitlines()) == 1


def test_a_truncated_bag_is_evaluated_as_far_as_it_goes(tmp_path, capsys):
    bag = write_bag(tmp_path / "walk", range(20), hw=(240, 320))
    file = bag / "walk.mcap"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.7)])
    assert replay(bag, "--out", tmp_path / "run", *FAST) == 0
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["frames"] == 10 and len(info["notes"]) == 2
    error = capsys.readouterr().err
    assert "walk.mcap: the file is damaged or ends early; 10 frames of /camera/image_raw read" in error
    assert "10 of 20 frames of /camera/image_raw could not be read" in error


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--start", "1e300"], "must be a number of seconds from 0 to 1e+10, got '1e300'"),
        (["--duration", "1e300"], "must be a number of seconds from 0 to 1e+10, got '1e300'"),
        (["--dask", "tcp://localhost"], "must be the scheduler's host and port, like tcp://host:8786"),
        (["--dask", "tcp://localhost:99999"], "must be the scheduler's host and port"),
    ],
)
def test_impossible_arguments(tmp_path, capsys, arguments, cause):
    with pytest.raises(SystemExit):
        replay(tmp_path / "walk", *arguments)
    assert cause in capsys.readouterr().err


def test_missing_message_definitions_are_an_error_for_the_user():
    error = InterfaceError("kdc's message definitions are in none of /a, /b")
    assert message_of(error, "replay") == str(error)
