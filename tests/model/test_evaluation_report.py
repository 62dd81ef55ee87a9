"""The evaluation's report: who was found for whom, and a page with the right numbers."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc_core.types import FrameResult, People
from kdc_model.data.scenes import write_dataset
from kdc_model.evaluate import find_people, load_truth, score
from kdc_model.evaluation_report import crowding_scores, match_people, worst_images, write_report


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_dataset(folder, 4, 160, 200, people=(1, 3), seed=4)
    return load_truth(folder / "annotations.json", folder / "images")


class Answers:
    """The annotated people themselves, shifted by `shift_px`, without those of one image."""

    def __init__(self, shift_px: float = 0.0, silent_at: int | None = None) -> None:
        self.shift_px, self.silent_at = shift_px, silent_at

    def before(self, image) -> None:
        self.image = image

    def __call__(self, picture: np.ndarray) -> FrameResult:
        people = self.image.annotations
        if self.image.image_id == self.silent_at:
            return FrameResult(People.empty(picture.shape[:2]), picture.shape[:2], {})
        points = np.array([a["keypoints"] for a in people], np.float32).reshape(len(people), 17, 3)
        boxes = np.array([a["bbox"] for a in people], np.float32)
        found = People(
            points[..., :2] + np.float32(self.shift_px),
            (points[..., 2] > 0).astype(np.float32),
            np.linspace(0.9, 0.5, len(people), dtype=np.float32),
            np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            np.zeros(picture.shape[:2], np.uint16),
        )
        return FrameResult(found, picture.shape[:2], {})


def test_people_are_paired_and_each_joint_told_apart(truth):
    answers = Answers()
    found = find_people(answers, truth, before=answers.before)
    matches = match_people(truth, found.results)
    annotated = sum(a["num_keypoints"] > 0 for t in truth for a in t.annotations)
    assert len(matches.oks) == annotated and matches.oks == pytest.approx(1, abs=1e-3)
    assert np.nanmin(matches.similarity) > 0.99
    silent = truth[1].image_id
    answers = Answers(shift_px=3.0, silent_at=silent)
    matches = match_people(truth, find_people(answers, truth, before=answers.before).results)
    assert (matches.oks[matches.image == 1] == 0).all() and np.isnan(matches.similarity[matches.image == 1]).all()
    others = matches.image != 1
    assert (matches.oks[others] < 0.999).all()
    means = np.nanmean(matches.similarity[others], axis=0)
    assert means[1] < means[11]  # three pixels are more for an eye than for a hip
    assert worst_images(matches)[0] == (1, 0.0)


def test_images_are_grouped_by_their_people(truth):
    answers = Answers()
    groups = crowding_scores(truth, find_people(answers, truth, before=answers.before).results)
    sizes = [int(re.search(r"\((\d+) images\)", name).group(1)) for name in groups]
    alone = sum(len(t.annotations) == 1 for t in truth)
    assert sizes == [alone, len(truth) - alone, 0]
    for (keypoint_ap, mask_ap), size in zip(groups.values(), sizes):
        assert keypoint_ap == (pytest.approx(1) if size else -1) and mask_ap == (0 if size else -1)


def test_the_page_has_the_numbers_and_the_worst_pictures(truth, tmp_path: Path):
    answers = Answers(shift_px=2.0, silent_at=truth[2].image_id)
    found = find_people(answers, truth, before=answers.before)
    metrics = score(truth, [found])
    page = write_report(tmp_path / "r", truth, found, metrics, answers, {"model": "none"}, answers.before).read_text()
    assert f"{metrics['keypoints.AP']:.3f}" in page and "- model: none" in page
    missed = sum(a["num_keypoints"] > 0 for a in truth[2].annotations)
    assert f"people with keypoints {missed} were not found" in page
    for name in re.findall(r"\]\(([^)]+)\)", page):
        assert cv2.imread(str(tmp_path / "r" / name)) is not None, name
    assert f"{truth[2].record.path.name}: mean OKS 0.00" in page


def test_nothing_found_and_nobody_annotated(tmp_path: Path):
    write_dataset(tmp_path, 2, 64, 64, people=(0, 0), seed=1)
    truth = load_truth(tmp_path / "annotations.json", tmp_path / "images")
    answers = lambda picture: FrameResult(People.empty(picture.shape[:2]), picture.shape[:2], {})  # noqa: E731
    found = find_people(answers, truth)
    page = write_report(tmp_path / "r", truth, found, score(truth, [found]), answers, {})
    assert "Of 0 people" in page.read_text()
