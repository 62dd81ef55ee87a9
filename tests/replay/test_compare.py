"""Two made runs with known differences beside each other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="needs Jinja")
pytest.importorskip("pycocotools", reason="needs pycocotools")
pytest.importorskip("rosbags", reason="needs rosbags")
pytest.importorskip("trackeval", reason="needs TrackEval")

from kdc_cli.main import main
from kdc_replay.agreement import agree, renaming
from kdc_replay.compare import BY_AGREEMENT, BY_ANNOTATIONS, CompareError, Comparison, compare_runs, frame_score
from kdc_replay.metrics import write_metrics
from kdc_replay.node_run import compare_answers
from kdc_replay.run_reader import load_run
from tests.replay.made_run import HEIGHT, WIDTH, annotation, person, write_run
from tests.replay.test_report import Page

FRAMES = 10
ANNOTATIONS = {"file": "walk.json", "sha256": "1" * 64, "images": FRAMES}


def two_people(ids: tuple[int, int] = (1, 2)) -> list[list[dict[str, Any]]]:
    return [[person(20 + f, 20, ids[0]), person(120 + f, 20, ids[1])] for f in range(FRAMES)]


def write(folder: Path, people: list[list[dict[str, Any]]], score: bool, **info: Any) -> Path:
    write_run(folder, people, **info, **({"annotations": ANNOTATIONS} if score else {}))
    if score:
        truth = {f: [annotation(20 + f, 20, 1), annotation(120 + f, 20, 2)] for f in range(len(people))}
        write_metrics(load_run(folder), truth)
    return folder


def compared(first: Path, second: Path) -> Comparison:
    return compare_runs(load_run(first), load_run(second))


def figures(comparison: Comparison) -> dict[str, tuple[float | None, float | None, str]]:
    return {m.name: (m.first, m.second, m.verdict) for m in comparison.metrics}


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """Before: somebody is missed in frame 2. After: that is mended, but frame 6 has a false person, ids change at 7."""
    before = two_people()
    before[2].pop()
    after = two_people((5, 6))
    after[6].append(person(75, 30, 9, score=0.4))
    for frame in after[7:]:
        frame[1]["id"] = 8
    options = {"person_threshold": 0.1, "masks": True}
    return (
        write(tmp_path / "before", before, score=True),
        write(tmp_path / "after", after, score=True, kdc_version="0.2.0", options=options),
    )


def test_known_differences(scored: tuple[Path, Path]) -> None:
    comparison = compared(*scored)
    assert comparison.measure == BY_ANNOTATIONS and comparison.notes == []
    changes = {(o.name, o.first, o.second) for o in comparison.options}
    assert changes == {("kdc_version", "0.1.0", "0.2.0"), ("options.person_threshold", "0.15", "0.1")}
    values = figures(comparison)
    assert values["persons missed"] == (1, 0, "better")
    assert values["people found where nobody is"] == (0, 1, "worse")
    assert values["id switches"] == (0, 1, "worse")
    assert values["MOTA"] == (pytest.approx(0.95), pytest.approx(0.9), "worse")
    assert values["people a frame"] == (pytest.approx(1.9), pytest.approx(2.1), "")
    assert values["frames dropped"] == (0, 0, "")
    assert [(f.index, f.first, f.second) for f in comparison.better()] == [(2, 0.5, 1.0)]
    assert [(f.index, f.first, f.second) for f in comparison.worse()] == [(6, 1.0, pytest.approx(2 / 3))]
    assert (comparison.only_first, comparison.only_second) == (0, 2)
    # Renamed 1 -> 5 and 2 -> 6; the second person is 8 in the last three frames.
    assert comparison.id_mismatches == 3


def test_a_run_and_itself(scored: tuple[Path, Path]) -> None:
    comparison = compared(scored[0], scored[0])
    assert comparison.options == comparison.worse() == comparison.better() == [] and comparison.id_mismatches == 0
    assert all(m.change in (0, None) and m.verdict == "" for m in comparison.metrics)


def test_without_annotations_by_agreement(tmp_path: Path) -> None:
    moved = two_people()
    moved[4][0] = person(20 + 4 + 6, 20, 1)
    moved[8].pop()
    comparison = compared(write(tmp_path / "a", two_people(), False), write(tmp_path / "b", moved, False))
    assert comparison.measure == BY_AGREEMENT and comparison.notes == []
    assert [f.index for f in comparison.worse()] == [8, 4] and comparison.better() == []
    assert comparison.worse()[0].change == pytest.approx(0.5)
    assert (comparison.only_first, comparison.only_second) == (1, 0)
    assert "keypoint AP" not in figures(comparison)


def test_partial_comparisons_say_so(scored: tuple[Path, Path], tmp_path: Path) -> None:
    short = write(tmp_path / "short", two_people()[:6], score=True, finished=False)
    notes = compared(scored[0], short).notes
    assert notes[0] == "4 of 10 frames of before are not in short: frames are compared without them"
    assert notes[1] == "short was interrupted"
    assert notes[2:] == ["the scores are over different frames: see the frames, not the totals"]
    bare = write(tmp_path / "bare", two_people(), score=False)
    comparison = compared(scored[0], bare)
    assert comparison.measure == BY_AGREEMENT
    assert comparison.notes == ["bare was not scored: frames are compared by how far the runs are apart"]
    other = write(tmp_path / "other", two_people(), score=True)
    info = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**info, "annotations": {"sha256": "2"}}))
    assert "different annotations" in compared(scored[0], other).notes[0]


def test_runs_that_have_nothing_in_common(scored: tuple[Path, Path], tmp_path: Path) -> None:
    later = write_run(tmp_path / "later", two_people(), bags=["other.mcap"])
    lines = (later / "frames.jsonl").read_text()
    (later / "frames.jsonl").write_text(lines.replace('"stamp_ns": 17', '"stamp_ns": 18'))
    message = r"not one frame in common: before is of walk.mcap /camera/image_raw, later is of other.mcap"
    with pytest.raises(CompareError, match=message):
        compared(scored[0], later)
    resized = write_run(tmp_path / "resized", [[] for _ in range(FRAMES)])
    lines = (resized / "frames.jsonl").read_text()
    (resized / "frames.jsonl").write_text(lines.replace(f"[{HEIGHT}, {WIDTH}]", "[10, 10]"))
    with pytest.raises(CompareError, match="another size"):
        compared(scored[0], resized)


def test_the_command(scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert main(["compare", *map(str, scored), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "options.person_threshold: 0.15 -> 0.1" in text
    assert re.search(r"persons missed +1 +0 +-1 better", text)
    assert re.search(r"MOTA +0\.950 +0\.900 +-0\.050 worse", text)
    assert "worse: frame 6: 1.00 -> 0.67" in text and "better: frame 2: 0.50 -> 1.00" in text
    saved = json.loads((out / "compare.json").read_text())
    assert saved["worse"] == [6] and saved["better"] == [2] and len(saved["frames"]) == FRAMES
    page_text = (out / "compare.html").read_text()
    page = Page(page_text)
    assert "http" not in page_text and "0.1.0" in page.text("options") and "-0.050" in page.text("metrics")
    assert "frame 6" in page.text("worse") and "frame 2" in page.text("better")
    assert main(["compare", str(scored[0]), str(tmp_path / "nowhere")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_pictures_of_both_runs(scored: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    from kdc_replay.video import AnnotatedVideo

    for folder in scored:
        with AnnotatedVideo(folder / "annotated.mp4") as video:
            for frame in load_run(folder).frames:
                video.write(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), frame.people(), frame.ids, frame.time_ns)
    assert main(["compare", *map(str, scored), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "compare.html").read_text().count("data:image/jpeg") == 4


def test_frame_scores() -> None:
    row = {"persons": 2, "found": 2, "missed": 0, "false_people": 0, "oks": 0.8, "mask_iou": 0.6}
    assert frame_score(row) == pytest.approx(0.8)
    assert frame_score({**row, "false_people": 2}) == pytest.approx(0.4)
    assert frame_score({**row, "oks": None}) == pytest.approx(0.6)
    nobody = {**row, "persons": 0, "found": 0, "oks": None, "mask_iou": None}
    assert frame_score(nobody) == 1 and frame_score({**nobody, "false_people": 1}) == 0


def test_agreement_of_two_answers(tmp_path: Path) -> None:
    one = [person(20, 20, 1), person(120, 20, 2)]
    other = [person(124, 20, 7), person(70, 20, 8)]
    run = load_run(write_run(tmp_path / "run", [one, other]))
    agreement = agree(*run.frames)
    assert [(p.first, p.second) for p in agreement.pairs] == [(1, 0)]
    assert (agreement.only_first, agreement.only_second) == ((0,), (1,))
    assert agreement.keypoint_px == pytest.approx(4)
    assert agreement.mask_iou == pytest.approx(26 / 34)
    assert agreement.similarity == pytest.approx(agreement.pairs[0].oks / 3)
    assert agree(run.frames[0], run.frames[0]).similarity == pytest.approx(1)
    nobody = load_run(write_run(tmp_path / "empty", [[], []])).frames
    assert agree(*nobody).similarity == 1 and agree(nobody[0], nobody[1]).keypoint_px is None


def without_keypoints(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "keypoints": [[0.0, 0.0, 0.0]] * 17}


def test_people_of_a_mask_alone(tmp_path: Path) -> None:
    one = [without_keypoints(person(20, 20, 1)), person(120, 20, 2)]
    moved = [without_keypoints(person(26, 20, 1)), person(120, 20, 2)]
    bare = [{**p, "mask": None} for p in one]
    lost = [one[0], without_keypoints(one[1])]
    same, shifted, unmasked, poseless = load_run(write_run(tmp_path / "run", [one, moved, bare, lost])).frames
    assert agree(same, same).similarity == agree(unmasked, unmasked).similarity == 1
    overlap = 24 / 36
    assert agree(same, shifted).similarity == pytest.approx((1 + overlap) / 2)
    assert agree(unmasked, shifted).similarity == pytest.approx((1 + overlap) / 2)
    # Who lost the pose is no longer the same.
    assert agree(same, poseless).similarity == pytest.approx(0.5, abs=0.01)
    folders = [write_run(tmp_path / name, [one, one]) for name in "ab"]
    assert compared(*folders).worse() == []
    assert compare_answers(load_run(folders[0]).frames, load_run(folders[1]).frames)["most_different"] == []


def test_runs_that_cannot_be_read(scored: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (scored[1] / "metrics.json").write_text("{}")
    assert main(["compare", *map(str, scored)]) == 1
    assert "metrics.json has no 'frames': it was not written by `kdc replay`" in capsys.readouterr().err
    for name, cause in (("timings.csv", "is not a table of stage times"), ("frames.jsonl", "is not UTF-8")):
        (scored[0] / name).write_bytes(b"index,\xff\n1,2\n")
        assert main(["compare", *map(str, scored)]) == 1
        error = capsys.readouterr().err
        assert f"{name} {cause}" in error and len(error.splitlines()) == 1


def test_renaming_is_the_best_one_to_one() -> None:
    assert renaming([(1, 5), (1, 5), (1, 6), (2, 5), (2, 6), (0, 9), (3, 0)]) == {1: 5, 2: 6}
    assert renaming([]) == {}
