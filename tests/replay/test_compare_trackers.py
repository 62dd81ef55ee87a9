"""The goals against ByteTrack on a small part of the comparison, and the command that makes the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdc_replay.compare_trackers import Row, compare, main, markdown
from kdc_replay.peers import Runner, run_kdc, run_peer
from kdc_replay.scenes.sequences import crossing_scenes

pytest.importorskip("trackeval", reason="needs TrackEval")
pytest.importorskip("trackers", reason="needs the package trackers")

HARD = ("crossing pair, 7.5 Hz", "crossing diagonals", "two cross a third")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    runners: dict[str, Runner] = {"kdc": run_kdc, "ByteTrack": run_peer("ByteTrackTracker")}
    hard = [scene for scene in crossing_scenes(0.1, 0.2) if scene.name in HARD]
    return compare({"hard": hard}, [100], runners)


def of(rows: list[Row], tracker: str) -> dict[str, dict[str, float]]:
    return {row.scene: row.identities for row in rows if row.tracker == tracker}


def test_fewer_id_switches_than_bytetrack_where_people_cross(rows: list[Row]) -> None:
    ours, theirs = of(rows, "kdc"), of(rows, "ByteTrack")
    assert set(ours) == set(theirs) == set(HARD)
    for scene in HARD:
        assert ours[scene]["id_switches"] < theirs[scene]["id_switches"], scene


def test_idf1_with_a_tenth_of_the_people_missed(rows: list[Row]) -> None:
    for scene, scores in of(rows, "kdc").items():
        assert scores["idf1"] >= 0.95, scene


def test_the_table_has_a_line_for_each_and_a_sum(rows: list[Row]) -> None:
    lines = markdown(rows).splitlines()
    assert lines[0] == "### hard"
    assert len([line for line in lines if line.startswith("| **all**")]) == 2
    total = sum(int(row.identities["id_switches"]) for row in rows if row.tracker == "ByteTrack")
    assert lines[-1].startswith(f"| **all** | ByteTrack | {total} |")


def test_the_command_writes_both_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--seeds", "1", "--scenes", "crossing pair, 7.5*"]) == 0
    table = (tmp_path / "trackers.md").read_text()
    assert table in capsys.readouterr().out
    assert "| crossing pair, 7.5 Hz | OC-SORT, tuned |" in table
    rows = json.loads((tmp_path / "trackers.json").read_text())
    assert {row["tracker"] for row in rows} == {"kdc", "ByteTrack", "ByteTrack, tuned", "OC-SORT, tuned"}
    assert all(0 <= row["everybody"]["hota"] <= 1 for row in rows)


def test_a_scene_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--scenes", "waterfall"])
    assert "no scene is named like 'waterfall'" in capsys.readouterr().err
