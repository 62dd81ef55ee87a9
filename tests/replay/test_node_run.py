"""The live node's answers beside the offline run's: figures of made answers, without ROS."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pycocotools", reason="needs pycocotools")
pytest.importorskip("rosbags", reason="needs rosbags")

from kdc_cli.errors import CommandError
from kdc_cli.main import main
from kdc_cli.replay import _through_node
from kdc_replay.node_run import NodeReplay, write_node_run
from kdc_replay.run_reader import load_run
from kdc_replay.runner import ReplayJob
from tests.replay.made_run import person, write_run

FRAMES = 8


def answered(folder: Path, change: dict[int, list[dict[str, Any]]], silent: tuple[int, ...] = ()) -> dict[str, Any]:
    """node_run.json of a node that gives the offline people (ids 5 more), but for what is changed or missing."""
    offline = [[person(20 + f, 20, 1), person(120 + f, 20, 2)] for f in range(FRAMES)]
    run = load_run(write_run(folder, offline))
    renamed = [[person(20 + f, 20, 6), person(120 + f, 20, 7)] for f in range(FRAMES)]
    lines = (folder / "frames.jsonl").read_text().splitlines()
    records = [
        {**json.loads(line), "people": change.get(f, renamed[f]), "latency_ms": 10.0 + f}
        for f, line in enumerate(lines)
        if f not in silent
    ]
    return write_node_run(folder, run.frames, NodeReplay(1.0, list(range(FRAMES)), records, ["odd"]))


def test_the_same_answers_under_other_ids(tmp_path: Path) -> None:
    summary = answered(tmp_path / "run", {})
    assert summary["frames_published"] == summary["frames_answered"] == FRAMES and summary["frames_dropped"] == 0
    assert summary["latency_ms"] == {"p50": 13.5, "p95": 16.65, "max": 17.0}
    same = summary["comparison"]
    assert (same["frames"], same["frames_same_people"], same["people_matched"]) == (FRAMES, FRAMES, 2 * FRAMES)
    assert (same["keypoint_max_px"], same["mask_iou_min"], same["id_mismatches"]) == (0, 1, 0)
    assert same["most_different"] == []
    assert load_run(tmp_path / "run").node == json.loads(json.dumps(summary))


def test_known_differences(tmp_path: Path) -> None:
    change = {
        2: [person(23, 20, 6), person(122, 20, 7)],  # a pixel aside
        4: [person(24, 20, 6)],
        6: [person(26, 20, 7), person(126, 20, 6), person(70, 30, 9)],
    }
    summary = answered(tmp_path / "run", change, silent=(5,))
    assert summary["dropped_indices"] == [5] and summary["frames_dropped"] == 1
    same = summary["comparison"]
    assert (same["frames"], same["frames_same_people"]) == (7, 5)
    assert (same["only_offline"], same["only_node"], same["id_mismatches"]) == (1, 1, 2)
    assert same["keypoint_max_px"] == pytest.approx(1) and same["keypoint_median_px"] == 0
    assert same["mask_iou_min"] == pytest.approx(29 / 31)
    assert [row["index"] for row in same["most_different"]] == [4, 6, 2]
    assert same["most_different"][0]["offline"] == 2 and same["most_different"][0]["node"] == 1


def test_the_report_shows_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs Jinja")
    from kdc_replay.report import write_report
    from tests.replay.test_report import Page

    answered(tmp_path / "run", {4: [person(24, 20, 6)]}, silent=(5,))
    text = Page(write_report(tmp_path / "run").read_text()).text("node")
    for figure in ("1x rate", "8 frames published", "7 answered", "1 dropped", "17 ms longest", "only offline 1"):
        assert figure in text, figure
    assert "odd" in text


def test_a_silent_node(tmp_path: Path) -> None:
    summary = answered(tmp_path / "run", {}, silent=tuple(range(FRAMES)))
    assert summary["frames_answered"] == 0 and summary["latency_ms"]["p50"] is None
    assert summary["comparison"]["frames"] == 0 and summary["comparison"]["keypoint_max_px"] is None


def test_what_the_command_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "walk", "--rate", "2"]) == 1
    assert "--rate is the rate at which --node plays" in capsys.readouterr().err
    assert main(["replay", "one", "two", "--node"]) == 1
    assert "--node plays one bag at a time" in capsys.readouterr().err
    for wrong in ("0", "-1", "nan", "fast"):
        with pytest.raises(SystemExit):
            main(["replay", "walk", "--node", "--rate", wrong])
        assert "must be a number above 0, or max" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rclpy", None)
    with pytest.raises(CommandError, match=r"needs ROS 2 and the built package .*make setup"):
        _through_node(ReplayJob(tmp_path / "bag", tmp_path / "run"), 1.0)
