"""Scores of made runs whose answers are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="needs pycocotools")
pytest.importorskip("rosbags", reason="needs rosbags")
pytest.importorskip("trackeval", reason="needs TrackEval")

from kdc_cli.errors import message_of
from kdc_core.coco_scores import oks_matrix
from kdc_core.skeleton import OKS_SIGMAS
from kdc_replay.annotations import ReplayAnnotationError
from kdc_replay.metrics import ScoringError, evaluate_frames, write_metrics
from kdc_replay.run_reader import RunError, load_run, read_frames
from tests.replay.made_run import HEIGHT, START_NS, WIDTH, annotation, person, write_run

FRAMES = 6


def left_of(walker: int, frame: int) -> int:
    return 20 + 100 * walker + 3 * frame


def truth_of_two() -> dict[int, list[dict[str, Any]]]:
    return {f: [annotation(left_of(w, f), 20, track_id=w + 1) for w in range(2)] for f in range(FRAMES)}


def run_of(tmp_path: Path, people: list[list[dict[str, Any]]]):
    return load_run(write_run(tmp_path / "run", people))


def test_a_run_is_read_back(tmp_path: Path) -> None:
    run = run_of(tmp_path, [[person(20, 10, 7, 0.5), person(100, 20, 9, 0.75)], []])
    assert run.name == "run" and run.info["topic"] == "/camera/image_raw" and run.metrics is None
    first, second = run.frames
    assert first.stamp_ns == START_NS and first.ids.tolist() == [7, 9] and first.states == ("TRACKED", "TRACKED")
    people = first.people()
    assert people.mask(1)[20:100, 100:130].all() and people.mask(1).sum() == 2400
    assert people.scores.tolist() == [0.5, 0.75]
    assert [r["score"] for r in first.coco_results(3)] == [0.75, 0.5]
    assert first.coco_results(3)[0]["bbox"] == [100, 20, 30, 80]
    assert people.mask_scores is None and "mask_score" not in first.coco_results(3)[0]
    assert len(second) == 0 and second.people().mask_labels is not None
    assert run.times_s().tolist() == pytest.approx([0, 0.1])
    assert run.stage_ms["inference"].tolist() == [20, 21]


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run.json is missing"):
        load_run(tmp_path)
    with pytest.raises(RunError, match="is not a folder"):
        load_run(tmp_path / "nowhere")
    folder = write_run(tmp_path / "run", [[], []])
    (folder / "frames.jsonl").write_text((folder / "frames.jsonl").read_text() + '{"index": 2, "peo')
    with pytest.raises(RunError, match="frames.jsonl, line 3"):
        read_frames(folder / "frames.jsonl")


def test_oks_of_a_known_shift() -> None:
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, :5, 2] = 2  # the head is labelled
    found = np.stack([np.zeros((17, 2)), np.full((17, 2), 3.0)])
    oks = oks_matrix(keypoints, np.array([900.0]), found)
    by_hand = np.mean(np.exp(-18 / (2 * 900 * (2 * OKS_SIGMAS[:5].astype(float)) ** 2)))
    assert oks.tolist() == [[1.0, pytest.approx(by_hand)]]
    assert oks_matrix(np.zeros((1, 17, 3)), np.array([900.0]), found).tolist() == [[0, 0]]


def test_a_perfect_run(tmp_path: Path) -> None:
    people = [[person(left_of(w, f), 20, 5 + w) for w in range(2)] for f in range(FRAMES)]
    run = run_of(tmp_path, people)
    metrics = write_metrics(run, truth_of_two())
    assert metrics["keypoints"]["AP"] == pytest.approx(1) and metrics["segm"]["AP"] == pytest.approx(1)
    assert metrics["person_iou"] == 1 and metrics["frames_annotated"] == metrics["frames"] == FRAMES
    tracking = metrics["tracking"]
    assert tracking["hota"] == tracking["idf1"] == tracking["mota"] == 1 and tracking["id_switches"] == 0
    assert metrics["tracking_similarity"] == "mask" and metrics["id_changes"] == []
    assert metrics["curves"]["keypoints"]["0.75"] == [1.0] * 101
    assert len(metrics["found_scores"]) == 2 * FRAMES and metrics["false_scores"] == []
    whole = {"persons": 2, "found": 2, "missed": 0, "false_people": 0, "oks": 1, "mask_iou": 1, "id_changes": 0}
    whole |= {"missed_xywh": [], "false_xyxy": []}
    assert metrics["per_frame"] == [{"index": f, **whole} for f in range(FRAMES)]
    assert load_run(run.folder).metrics == json.loads(json.dumps(metrics))


def test_scores_of_masks_are_read_back(tmp_path: Path) -> None:
    both = [person(20, 10, 7, 0.5), person(100, 20, 9, 0.75)]
    for one, score in zip(both, (0.9, 0.8)):
        one["mask"]["score"] = score
    (frame,) = run_of(tmp_path, [both]).frames
    assert frame.people().mask_scores.tolist() == pytest.approx([0.9, 0.8])
    assert [r["mask_score"] for r in frame.coco_results(3)] == pytest.approx([0.8, 0.9])


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    small = {**annotation(20, 20, 1), "segmentation": {"size": [60, 100], "counts": [6000]}}
    with pytest.raises(ReplayAnnotationError, match="mask has 100 x 60 pixels, but its frame 0 has 200 x 120"):
        write_metrics(run_of(tmp_path, [[person(20, 20, 1)]]), {0: [small]})


def test_a_known_id_switch(tmp_path: Path) -> None:
    """The two change ids at frame 3: two switches of twelve matches; each truth keeps half of its frames."""
    people = [
        [person(left_of(w, f), 20, 5 + (w if f < 3 else 1 - w)) for w in range(2)] for f in range(FRAMES)
    ]
    metrics = evaluate_frames(run_of(tmp_path, people).frames, truth_of_two())
    tracking = metrics["tracking"]
    assert tracking["id_switches"] == 2 and tracking["mota"] == pytest.approx(1 - 2 / 12)
    assert tracking["idf1"] == pytest.approx(0.5)
    assert metrics["id_changes"] == [
        {"index": 3, "truth_id": 1, "before": 5, "after": 6},
        {"index": 3, "truth_id": 2, "before": 6, "after": 5},
    ]
    assert [f["id_changes"] for f in metrics["per_frame"]] == [0, 0, 0, 2, 0, 0]
    assert metrics["keypoints"]["AP"] == pytest.approx(1)


def test_a_missed_and_a_false_person(tmp_path: Path) -> None:
    people = [[person(left_of(w, f), 20, 5 + w) for w in range(2)] for f in range(FRAMES)]
    people[1] = people[1][:1]
    people[4].append(person(85, 35, 9, score=0.3))
    metrics = evaluate_frames(run_of(tmp_path, people).frames, truth_of_two())
    rows = metrics["per_frame"]
    assert (rows[1]["missed"], rows[1]["found"], rows[1]["oks"], rows[1]["mask_iou"]) == (1, 1, 0.5, 0.5)
    assert (rows[4]["false_people"], rows[4]["missed"], rows[4]["oks"]) == (1, 0, 1)
    assert rows[1]["missed_xywh"] == [[left_of(1, 1), 20, 30, 80]] and rows[4]["false_xyxy"] == [[85, 35, 114, 114]]
    assert sum(r["missed"] + r["false_people"] for r in rows) == 2
    assert metrics["false_scores"] == [pytest.approx(0.3)]
    assert metrics["tracking"]["mota"] == pytest.approx(1 - 2 / 12)
    # One of twelve missed: precision 1 up to recall 11/12, which is 92 of COCO's 101 recalls, at all thresholds.
    assert metrics["keypoints"]["AP"] == pytest.approx(92 / 101)


def test_a_shifted_mask_has_the_iou_of_its_rectangles(tmp_path: Path) -> None:
    run = run_of(tmp_path, [[person(26, 20, 1)]])
    metrics = evaluate_frames(run.frames, {0: [annotation(20, 20, 1)]})
    overlap = 24 * 80 / (2 * 2400 - 24 * 80)
    assert metrics["per_frame"][0]["mask_iou"] == pytest.approx(overlap, abs=1e-5)
    assert metrics["person_iou"] == pytest.approx(overlap)
    assert 0.5 < metrics["per_frame"][0]["oks"] < 0.9


def test_regions_that_must_not_count(tmp_path: Path) -> None:
    """Somebody found inside a crowd is neither right nor wrong."""
    crowd = {"category_id": 1, "iscrowd": 1, "bbox": [90, 0, 110, HEIGHT], "area": 110.0 * HEIGHT}
    crowd["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [90 * HEIGHT, 110 * HEIGHT]}
    run = run_of(tmp_path, [[person(20, 20, 1), person(130, 20, 2)]])
    metrics = evaluate_frames(run.frames, {0: [annotation(20, 20, 1), crowd]})
    assert metrics["per_frame"][0]["false_people"] == 0 and metrics["per_frame"][0]["persons"] == 1
    assert metrics["tracking"]["mota"] == 1 and metrics["person_iou"] == 1
    assert metrics["keypoints"]["AP"] == pytest.approx(1)


def test_partly_annotated_and_without_ids(tmp_path: Path) -> None:
    people = [[person(left_of(0, f), 20, 1)] for f in range(FRAMES)]
    truth = {2: [annotation(left_of(0, 2), 20, None)], 4: []}
    metrics = evaluate_frames(run_of(tmp_path, people).frames, truth)
    assert [row["index"] for row in metrics["per_frame"]] == [2, 4]
    assert metrics["per_frame"][1] == {
        "index": 4, "persons": 0, "found": 0, "missed": 0, "false_people": 1,
        "oks": None, "mask_iou": None, "id_changes": 0, "missed_xywh": [], "false_xyxy": [[32, 20, 61, 99]],
    }  # fmt: skip
    assert metrics["tracking"] is None and metrics["frames_annotated"] == 2


def test_boxes_where_masks_are_missing(tmp_path: Path) -> None:
    people = [[{**person(left_of(0, f), 20, 1), "mask": None}] for f in range(FRAMES)]
    truth = {f: [annotation(left_of(0, f), 20, 1)] for f in range(FRAMES)}
    metrics = evaluate_frames(run_of(tmp_path, people).frames, truth)
    assert metrics["tracking_similarity"] == "box" and metrics["tracking"]["hota"] == pytest.approx(1)
    assert metrics["segm"]["AP"] == 0 and metrics["keypoints"]["AP"] == pytest.approx(1)


def test_without_trackeval_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackeval.metrics", None)
    run = run_of(tmp_path, [[person(20, 20, 1)]])
    with pytest.raises(ScoringError, match="pip install --no-deps trackeval") as caught:
        write_metrics(run, {0: [annotation(20, 20, 1)]})
    assert message_of(caught.value, "replay") == str(caught.value)
    assert write_metrics(run, {0: [annotation(20, 20, None)]})["tracking"] is None
