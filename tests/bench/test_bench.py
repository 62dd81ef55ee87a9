"""`kdc bench` on tiny settings: what stands in its files, and that made crowds hold whom they say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kdc_bench import training
from kdc_bench.crowds import made_truth, make_crowd
from kdc_bench.peers import yolo
from kdc_bench.report import markdown, table, write_report
from kdc_bench.result import BenchError, BenchSettings, Row, SuiteResult
from kdc_bench.suites import SUITES, run_suite
from kdc_bench.timing import StageTimes, Summary, interleaved
from kdc_cli.main import main
from kdc_core.geometry import Letterbox
from kdc_core.pipeline import PipelineOptions, decode_poses

STAGES = {"preprocess", "inference", "decode", "masks", "rle", "total"}


@pytest.fixture(scope="module")
def report(shipped_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("bench")
    arguments = ["--rounds", "2", "--people", "0,3", "--long-side", "96", "--source", "320x256", "--threads", "1"]
    assert main(["bench", "decode", "pipeline", "startup", "--out", str(out), *arguments]) == 0
    assert (out / "bench.md").read_text().count("## ") == 3
    if (out / "bench.png").exists():  # only where matplotlib is installed
        assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((out / "bench.json").read_text())


def test_every_figure_has_its_machine(report: dict) -> None:
    machine = report["machine"]
    assert machine["cpu"] and machine["cores"] >= machine["cores_usable"] >= 1
    assert {"kdc", "numpy", "onnxruntime"} <= set(machine["versions"])
    assert machine["os"] and machine["python"]


def test_stages_add_up(report: dict) -> None:
    rows = report["suites"]["pipeline"]["rows"]
    assert {row["case"]["pictures"] for row in rows} >= {"made crowds"}
    assert [row["case"]["people"] for row in rows if row["case"]["pictures"] == "made crowds"] == ["0", "3"]
    for row in rows:
        stages = row["stages_ms"]
        assert set(stages) == STAGES
        for summary in stages.values():
            assert 0 <= summary["least"] <= summary["p50"] <= summary["p95"] <= summary["p99"]
        assert row["figures"]["fps"] == pytest.approx(1e3 / stages["total"]["p50"])
        assert sum(stages[s]["least"] for s in STAGES - {"total"}) <= stages["total"]["least"] + 1e-6
        assert row["figures"]["peak_memory_mb"] > 50


def test_made_people_are_found(report: dict) -> None:
    rows = report["suites"]["decode"]["rows"]
    assert all(set(row["stages_ms"]) == {"poses", "masks", "rle", "colours", "total"} for row in rows)
    cases = [row["case"] for row in rows]
    assert {(c["people"], c["clutter"]) for c in cases} == {(0, "no"), (0, "yes"), (3, "no"), (3, "yes")}
    assert all(c["found"] == c["people"] for c in cases)


def test_startup_measures_another_process(report: dict) -> None:
    (row,) = report["suites"]["startup"]["rows"]
    assert set(row["stages_ms"]) == {"python", "import", "load", "first_answer", "total"}
    assert all(summary["least"] > 0 for summary in row["stages_ms"].values())
    assert 20 < row["figures"]["pss_mb"] <= row["figures"]["rss_mb"] < 2000


def test_training_steps_of_a_process_for_each_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("kdc_bench.training.SIDES", (64, 96))
    result = run_suite("training", BenchSettings(Path("unused.onnx"), threads=1, rounds=3))
    rows = result.rows
    assert set(result.versions) == {"torch"}
    variants = [("given back", "float32"), ("kept", "float32"), ("kept", "bfloat16 throughout"), ("kept", "bfloat16")]
    assert [(row.case["window"], row.case["memory"], row.case["precision"]) for row in rows] == [
        (window, *variant) for window in ("64 x 64", "96 x 96") for variant in variants
    ]
    for row in rows:
        assert row.stages["step"].count == 3
        assert row.figures["windows_per_s"] == pytest.approx(8e3 / row.stages["step"].p50)
        assert row.figures["page_faults"] >= 0 and 0 <= row.figures["system_share"] < 1
    silent = subprocess.Popen(["sh", "-c", "read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with silent, pytest.raises(BenchError, match="the training process failed"):
        training.ask(silent, 320)


def test_what_was_measured_before_a_fault_is_kept(
    shipped_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    done = SuiteResult("made", [Row({"n": 1}, {"total": Summary(1, 2, 3, 4, 5)})])

    def suite(name: str, settings: BenchSettings) -> SuiteResult:
        if name == "pipeline":
            raise BenchError("no such picture")
        return done

    monkeypatch.setattr("kdc_bench.suites.run_suite", suite)
    assert main(["bench", "decode", "pipeline", "--out", str(tmp_path / "b")]) == 1
    assert "no such picture" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "b" / "bench.json").read_text())["suites"]) == ["decode"]
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("kdc_bench.suites.run_suite", lambda *_: pytest.fail("measured in vain"))
    assert main(["bench", "decode", "--out", str(tmp_path / "file")]) == 1


def test_the_picture_may_be_a_folders(shipped_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "pipeline", "--images", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "there is no picture in" in capsys.readouterr().err
    assert main(["bench", "speed", "--out", str(tmp_path / "out")]) == 1
    assert "no suite 'speed': choose from ceiling, decode, pipeline" in capsys.readouterr().err


@pytest.mark.parametrize("people", [1, 5, 20, 50])
@pytest.mark.parametrize("clutter", [False, True])
def test_a_crowd_holds_its_people(people: int, clutter: bool) -> None:
    """Each is found once: its pose lies on the true joints."""
    truth = made_truth(people, (480, 640))
    poses = decode_poses(make_crowd(people, (480, 640), clutter=clutter).outputs, PipelineOptions())
    distance = np.linalg.norm(poses.keypoints_xy[:, None] - truth.keypoints_xy[None], axis=3)
    median = np.array([[np.median(d[seen]) for d, seen in zip(row, truth.labelled)] for row in distance])
    assert sorted(median.argmin(0).tolist()) == list(range(len(poses.scores)))
    assert (median.min(0) < 4.0).all()


def test_interleaved_runs_take_turns() -> None:
    order: list[str] = []

    def run(name: str, ms: float) -> dict[str, float]:
        order.append(name)
        return {"a": ms, "b": 1.0}

    times = interleaved({"x": lambda: run("x", 1.0), "y": lambda: run("y", 2.0)}, rounds=3)
    assert order == ["x", "y"] * 5, "two rounds to warm up, three that count"
    assert times["y"].samples == {"a": [2.0] * 3, "b": [1.0] * 3, "total": [3.0] * 3}


def test_runs_rest_before_they_count(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str | float] = []
    monkeypatch.setattr("kdc_bench.timing.time.sleep", events.append)

    def run() -> dict[str, float]:
        events.append("run")
        return {"a": 1.0}

    interleaved({"x": run}, rounds=2, rest_s=0.5)
    assert events == ["run", "run", 0.5, "run", 0.5, "run"], "not while warming up"


def test_summary() -> None:
    summary = Summary.of([float(v) for v in range(101)])
    assert (summary.least, summary.p50, summary.p95, summary.p99, summary.count) == (0, 50, 95, 99, 101)
    with pytest.raises(ValueError, match="no times"):
        Summary.of([])


def test_table_has_every_column_once() -> None:
    times = StageTimes()
    times.add({"a": 1.0, "b": 2.0})
    lines = table([Row({"who": "x"}, times.summaries(), {"fps": 3.0}), Row({"who": "y"}, {}, {"mb": 4.0})])
    assert lines[0] == "| who | a | b | total | fps | mb |"
    assert lines[2] == "| x | 1.00 / 1.00 / 1.00 | 2.00 / 2.00 / 2.00 | 3.00 / 3.00 / 3.00 | 3 |  |"
    assert lines[3] == "| y |  |  |  |  | 4 |"


def test_ceiling() -> None:
    product, copy = run_suite("ceiling", BenchSettings(Path("unused.onnx"), threads=1, rounds=1, cpu_time=True)).rows
    assert 0.1 < product.figures["gmac_per_s"] < 1e4 and 0.1 < copy.figures["gb_per_s"] < 1e3


def test_cpu_time_is_that_of_one_thread() -> None:
    with pytest.raises(BenchError, match="--threads 1"):
        BenchSettings(Path("model.onnx"), threads=2, cpu_time=True)


def test_suites_can_be_imported_and_are_listed() -> None:
    assert {"decode", "pipeline", "startup", "peers"} <= set(SUITES)
    with pytest.raises(BenchError, match="no suite 'x'"):
        run_suite("x", BenchSettings(Path("model.onnx")))


def test_report_names_the_machine(tmp_path: Path) -> None:
    machine = {
        "cpu": "Abacus 9", "cores": 4, "cores_usable": 2, "memory_gib": 1.0, "os": "Linux", "python": "3",
        "load_average_1min": 0.5, "versions": {"numpy": "1"},
    }  # fmt: skip
    result = SuiteResult("Title", [Row({"n": 1}, {"a": Summary(1, 2, 3, 4, 5)})], ["a note"], {"other": "7"})
    write_report(tmp_path, machine, {"decode": result})
    text = markdown(machine, {"decode": result})
    assert "Abacus 9, 2 of 4 cores" in text and "- a note" in text and "other 7" in text
    (row,) = json.loads((tmp_path / "bench.json").read_text())["suites"]["decode"]["rows"]
    assert row["stages_ms"]["a"]["p95"] == 3


def test_peers_are_given_people_to_find() -> None:
    """The made raw outputs of the YOLO pair come out as the people that went in, each once."""
    truth = made_truth(5, (480, 640))
    raw = yolo.raw_outputs(truth)
    letterbox = Letterbox.fit((480, 640), (480, 640))
    assert (raw.pose[0, 4] > yolo.CONFIDENCE).sum() == 5 * yolo.DUPLICATES
    boxes, keypoints = yolo.decode_poses(raw.pose, letterbox)
    assert boxes.shape == (5, 4) and keypoints.shape == (5, 17, 3)
    nearest = np.linalg.norm(keypoints[:, None, :, :2] - truth.keypoints_xy[None], axis=3).mean(2)
    assert sorted(nearest.argmin(1)) == [0, 1, 2, 3, 4] and nearest.min(1).max() < 1e-3
    masks = yolo.decode_masks(raw.seg, raw.prototypes, letterbox)
    areas = sorted(int(mask.sum()) for mask in masks)
    true_areas = sorted(int((truth.instance == n + 1).sum()) for n in range(5))
    assert areas == pytest.approx(true_areas, rel=0.1)
    assert yolo.preprocess(np.full((480, 640, 3), 255, np.uint8), letterbox).max() == pytest.approx(1.0)
