"""Many bags in one call: in processes and on a Dask cluster, with one that is broken among them."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="needs the extra 'replay'")
pytest.importorskip("onnx", reason="makes a model")

from kdc_cli.main import main
from kdc_replay.batch import failed, run_here, summary_table
from kdc_replay.outputs import OutputChoice
from kdc_replay.run_folder import RunFolderError
from kdc_replay.runner import ReplayJob, ReplayOptions
from tests.replay.bags import write_bag
from tests.replay.test_replay import annotation_file, contents
from tests.ros.canned_model import write_canned_model

FAST = ("--no-video", "--no-report")


@pytest.fixture(scope="module")
def week(tmp_path_factory) -> Path:
    """Three bags, the second of which is none, annotations of the first, a model; and the runs of one process."""
    folder = tmp_path_factory.mktemp("week")
    write_bag(folder / "monday", range(5))
    (folder / "tuesday").mkdir()
    (folder / "tuesday" / "tuesday_0.mcap").write_text("the disk was full")
    write_bag(folder / "other" / "monday", range(3, 10), broken=[4])
    (folder / "truth").mkdir()
    annotation_file(folder / "truth" / "monday.json", lambda data: None)
    write_canned_model(folder / "canned.onnx")
    return folder


def bags(week: Path) -> list[str]:
    return [str(week / name) for name in ("monday", "tuesday", "other/monday")]


def batch(week: Path, out: Path, *arguments: str) -> int:
    model = ("--model", str(week / "canned.onnx"))
    return main(["replay", *bags(week), "--out", str(out), *model, *FAST, *arguments])


@pytest.fixture(scope="module")
def alone(week) -> Path:
    """The runs by one process."""
    out = week / "alone"
    assert batch(week, out, "--jobs", "1") == 1
    return out


def test_a_broken_bag_is_reported_and_the_others_go_on(week, alone, capsys):
    assert sorted(p.name for p in alone.iterdir()) == ["monday", "monday_2", "summary.csv", "summary.json"]
    rows = json.loads((alone / "summary.json").read_text())
    assert [(row["bag"], row["folder"], row["status"]) for row in rows] == [
        ("monday", "monday", "finished"), ("tuesday", "tuesday", "failed"), ("monday", "monday_2", "finished"),
    ]  # fmt: skip
    assert [(row["frames"], row["dropped"], row["people"], row["tracks"]) for row in rows] == [
        (5, 0, 5, 1), (None, None, None, None), (6, 1, 6, 1),
    ]  # fmt: skip
    assert "tuesday_0.mcap" in rows[1]["error"] and "\n" not in rows[1]["error"]
    with (alone / "summary.csv").open(newline="") as file:
        assert [row["frames"] for row in csv.DictReader(file)] == ["5", "", "6"]
    assert batch(week, alone) == 1  # the finished ones are left alone
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0].split()[:3] == ["bag", "status", "frames"] and lines[2].split()[:3] == ["tuesday", "failed", "-"]
    assert "tuesday: " in output.err and "Traceback" not in output.err


def test_the_number_of_processes_does_not_matter(week, alone, tmp_path):
    assert batch(week, tmp_path / "two", "--jobs", "2") == 1
    assert contents(tmp_path / "two") == contents(alone)


def test_a_dask_cluster_of_two_workers(week, alone, tmp_path, monkeypatch, repository):
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    # The workers are processes of their own and must find this checkout.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")]))
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    )
    with cluster:
        assert batch(week, tmp_path / "dask", "--dask", cluster.scheduler_address) == 1
    assert contents(tmp_path / "dask") == contents(alone)


def test_no_scheduler_at_the_address(week, tmp_path, capsys, monkeypatch):
    dask = pytest.importorskip("dask", reason="needs the extra 'dask'")
    pytest.importorskip("distributed")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        assert batch(week, tmp_path / "dask", "--dask", "tcp://127.0.0.1:9") == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


class Deadly:
    """A bag that kills whoever unpickles it, as running out of memory does."""

    name = "deadly"

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_that_dies_takes_no_other_bag_along(week, tmp_path):
    options = ReplayOptions(model=week / "canned.onnx")
    nothing_else = OutputChoice(results=False, video=False, report=False)
    jobs = [
        ReplayJob(week / "monday", tmp_path / "monday", options=options, outputs=nothing_else),
        ReplayJob(Deadly(), tmp_path / "deadly", options=options, outputs=nothing_else),  # type: ignore[arg-type]
    ]
    heard = []
    rows = run_here(jobs, 2, heard.append)
    assert [row["status"] for row in rows] == ["finished", "failed"] and len(heard) == 2
    assert rows[0]["frames"] == 5
    assert "the process that evaluated it died" in rows[1]["error"]


def test_annotations_of_several_bags_are_a_folder(week, tmp_path, capsys):
    out = tmp_path / "scored"
    shutil.copytree(week / "alone", out)
    assert batch(week, out, "--annotations", str(week / "truth")) == 1
    rows = json.loads((out / "summary.json").read_text())
    assert rows[0]["idf1"] is not None and rows[0]["keypoint_ap"] is not None
    assert "idf1" in capsys.readouterr().out
    assert batch(week, out, "--annotations", str(week / "truth" / "monday.json")) == 1
    assert "--annotations names a folder with BAG.json for each" in capsys.readouterr().err


def test_annotations_of_no_bag(week, tmp_path, capsys):
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "sunday.json").write_text("{}")
    assert batch(week, tmp_path / "out", "--annotations", str(tmp_path / "truth")) == 1
    error = capsys.readouterr().err
    assert "truth: there is no file of annotations called like a bag, such as monday.json" in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_bag_of_broken_frames_alone_failed(week, tmp_path, capsys):
    broken = write_bag(tmp_path / "broken", range(2), broken=range(2))
    model = ("--model", str(week / "canned.onnx"))
    out = tmp_path / "out"
    assert main(["replay", str(broken), str(week / "monday"), "--out", str(out), *model, *FAST]) == 1
    rows = json.loads((out / "summary.json").read_text())
    assert [(row["status"], row["frames"], row["dropped"]) for row in rows] == [("failed", 0, 2), ("finished", 5, 0)]
    output = capsys.readouterr()
    assert "broken: not one frame could be evaluated" in output.out
    assert "broken: 2 frames dropped: the message is no sensor_msgs/msg/Image" in output.err
    assert main(["replay", str(broken), "--out", str(out / "broken"), *model, *FAST]) == 1
    assert "2 frames dropped: the message is no sensor_msgs/msg/Image" in capsys.readouterr().err


def test_what_failed_is_said_in_one_line():
    job = ReplayJob(Path("walk.mcap"), Path("out/walk"))
    ours, foreign = failed(job, RunFolderError("no\nway")), failed(job, KeyError("bbox"))
    assert ours["error"] == "no way" and foreign["error"] == "KeyError: 'bbox'"
    assert summary_table([ours]).splitlines() == ["bag        status", "walk.mcap  failed", "walk.mcap: no way"]
