"""What a run leaves to look at."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc_model.run_log import RunLog, _smoothed, read_columns, write_curves
from kdc_model.train import Means


def test_curves_are_drawn_from_the_last_row_of_each_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    for step, loss in ((20, 3.0), (40, 2.0), (60, 9.0)):
        log.write(step, {"total": loss, "heatmap": 0.1})
    log.close()
    log = RunLog(tmp_path, 40)  # resumed from step 40
    log.write(60, {"total": 1.0, "heatmap": 0.05})
    log.close()
    assert read_columns(tmp_path / "log.csv") == {"step": [20, 40, 60], "total": [3, 2, 1], "heatmap": [0.1, 0.1, 0.05]}
    (tmp_path / "scores.csv").write_text("step,keypoints.AP\n40,0.1\n60,0.2\n")
    path = write_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    picture = cv2.imread(str(path))
    assert picture.shape[0] > 200 and (picture < 128).any()
    assert not list(tmp_path.glob("*.partial"))


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,total,person\n20,1.5,0.5\n40,1.25,0.25\n60,1.0")
    assert write_curves(tmp_path) == tmp_path / "curves.png"
    assert read_columns(path) == {"step": [20, 40], "total": [1.5, 1.25], "person": [0.5, 0.25]}
    # A run that goes on does not write the next row into it.
    log = RunLog(tmp_path, 40)
    log.write(60, {"total": 1.125, "person": 0.125})
    log.write(80, {"total": 1.0, "person": 0.0})
    log.close()
    assert read_columns(path)["total"] == [1.5, 1.25, 1.125, 1.0] and len(path.read_text().splitlines()) == 6
    path.write_text("step,total,person\n20,1.5,0.5,7\n\n40,1.25,0.25\n")
    assert read_columns(path)["step"] == [40]
    path.write_text("")
    log.write(20, {"total": 1.0, "person": 0.0})
    assert read_columns(path) == {"step": [20], "total": [1], "person": [0]}


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert write_curves(tmp_path) is None
    (tmp_path / "log.csv").write_text("step,total\n")
    assert write_curves(tmp_path) is None


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path, 0)
    log.write(20, {"total": 3.0, "heatmap": 0.25})
    log.scalars("score", 20, {"keypoints.AP": 0.5})
    log.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]} == {
        "loss/total": [(20, 3.0)], "loss/heatmap": [(20, 0.25)], "score/keypoints.AP": [(20, 0.5)],
    }  # fmt: skip


def test_means_tell_the_pace_and_the_wait() -> None:
    means = Means()
    means.add({"total": 2.0}, images=4, waited_s=0.5, worked_s=1.5)
    means.add({"total": 4.0}, images=4, waited_s=0.5, worked_s=1.5)
    assert means.take() == {"total": 3.0, "images_per_s": 2.0, "data_wait": 0.25}
    means.add({"total": 8.0}, images=4, waited_s=0.0, worked_s=1.0)
    assert means.take() == {"total": 8.0, "images_per_s": 4.0, "data_wait": 0.0}


def test_smoothing_starts_at_the_first_value() -> None:
    assert _smoothed([5.0, 5.0]) == pytest.approx([5.0, 5.0])
    assert np.diff(_smoothed([0.0, 1.0, 1.0, 1.0])).min() > 0
