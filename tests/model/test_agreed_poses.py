"""Keypoints on which two networks agree: which count, whose they are, and what becomes of the annotations."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc_cli.main import main
from kdc_core.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, OKS_SIGMAS
from kdc_core.types import FrameResult, People
from kdc_model.data.coco import ImageRecord, Person, load_records
from kdc_model.teacher.agreed_poses import AgreementOptions, agreed_keypoints, agreed_poses, owners
from tests.cli.stub import StubPipeline, picture
from tests.model.single_pose_graph import write_single_pose

BOX_AREA = 100.0 * 200.0
PLACES = np.stack([np.linspace(10, 90, 17), np.linspace(20, 180, 17)], 1)


def opinion(xy=PLACES, score=0.9) -> np.ndarray:
    return np.column_stack([xy, np.broadcast_to(score, 17)])


def test_the_same_from_both_is_taken_between_them():
    other = opinion(PLACES + (1.0, -0.5))
    keypoints = agreed_keypoints(opinion(), other, BOX_AREA, AgreementOptions(weight=0.75))
    np.testing.assert_allclose(keypoints[:, :2], PLACES + (0.75, -0.375))
    assert (keypoints[:, 2] == 2).all()


def test_how_far_apart_is_too_far_depends_on_joint_and_size():
    """Two kappas of distance are an OKS of exp(-2); half a kappa one of exp(-1/8)."""
    kappa = 2 * OKS_SIGMAS * np.sqrt(0.53 * BOX_AREA)
    assert kappa[KEYPOINT_INDEX["left_hip"]] > 4 * kappa[KEYPOINT_INDEX["left_eye"]]
    far = np.arange(17) % 2 == 0
    shift = np.where(far, 2.0, 0.5) * kappa
    keypoints = agreed_keypoints(opinion(), opinion(PLACES + shift[:, None] * (0.6, 0.8)), BOX_AREA)
    assert (keypoints[:, 2] == np.where(far, 0, 2)).all() and (keypoints[far] == 0).all()
    # The same pixels apart on a person of a sixteenth of the area: all too far.
    assert not agreed_keypoints(opinion(), opinion(PLACES + shift[:, None] * (0.6, 0.8)), BOX_AREA / 16).any()


def test_both_must_be_sure_and_of_enough_keypoints():
    options = AgreementOptions(ours=0.1, other=0.2, keypoints=4)
    score = np.full(17, 0.05)
    score[[0, 5, 6, 11]] = 0.5
    assert np.flatnonzero(agreed_keypoints(opinion(score=score), opinion(), BOX_AREA, options)[:, 2]).tolist() == [
        0, 5, 6, 11,
    ]  # fmt: skip
    assert np.flatnonzero(agreed_keypoints(opinion(), opinion(score=score), BOX_AREA, options)[:, 2]).tolist() == [
        0, 5, 6, 11,
    ]  # fmt: skip
    score[11] = 0.15
    assert (agreed_keypoints(opinion(score=score), opinion(), BOX_AREA, options)[:, 2] > 0).sum() == 4
    assert not agreed_keypoints(opinion(), opinion(score=score), BOX_AREA, options).any()  # only three are left


def people_at(*boxes: tuple[float, float, float, float], points: list[np.ndarray] | None = None) -> People:
    """People whose keypoints lie on their box's diagonal, or where `points` says."""
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    steps = np.linspace(0.1, 0.9, 17, dtype=np.float32)[:, None]
    diagonals = [box[:2] + steps * (box[2:] - box[:2]) for box in xyxy]
    count = len(xyxy)
    return People(
        keypoints_xy=np.array(points if points is not None else diagonals, np.float32).reshape(count, 17, 2),
        keypoint_scores=np.full((count, 17), 0.8, np.float32),
        scores=np.full(count, 0.5, np.float32),
        boxes_xyxy=xyxy,
    )


def test_everybody_gets_the_box_that_fits_best():
    boxes = np.array([[100, 0, 60, 100], [0, 0, 50, 100], [300, 300, 40, 40]], float)
    found = people_at((2, 0, 50, 100), (98, 0, 160, 104), (5, 10, 50, 100))
    assert sorted(owners(found, boxes)) == [(0, 1), (1, 0)]  # the third would have the first one's box
    assert owners(people_at(), boxes) == [] and owners(found, boxes[:0]) == []


def test_a_box_without_the_keypoints_is_not_theirs():
    boxes = np.array([[0, 0, 50, 100]], float)
    inside = people_at((0, 0, 50, 100))
    assert owners(inside, boxes) == [(0, 0)]
    away = inside.keypoints_xy[0].copy()
    away[:10] += 200  # ten of seventeen lie elsewhere
    assert owners(people_at((0, 0, 50, 100), points=[away]), boxes) == []


class Second:
    """A second network that sees what the stub sees, but for a shift, and counts what it was asked."""

    def __init__(self, shift: float = 0.5) -> None:
        self.shift, self.asked = shift, []

    def poses(self, image: np.ndarray, boxes: list[list[float]]) -> np.ndarray:
        self.asked += boxes
        people = StubPipeline()(image).people
        one = np.column_stack([people.keypoints_xy[0] + self.shift, np.full(17, 0.9)])
        return np.array([one] * len(boxes), np.float32).reshape(-1, 17, 3)


def record(tmp_path: Path, *persons: Person) -> ImageRecord:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture((30, 20, 40, 60)))
    return ImageRecord(1, path, 120, 160, persons)


def person(number: int | None, box=(30.0, 20.0, 40.0, 60.0), labelled=False, crowd=False) -> Person:
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[:, 2] = 2 * labelled
    return Person(keypoints, box, None, True, crowd=crowd, annotation_id=number)


def test_only_people_without_keypoints_are_asked_about(tmp_path):
    second = Second()
    others = (person(4, labelled=True), person(5, crowd=True), person(None), person(6, (30.0, 20.0, 10.0, 12.0)))
    found = agreed_poses(record(tmp_path, *others), StubPipeline(), second)
    assert found == {} and second.asked == []
    found = agreed_poses(record(tmp_path, *others, person(7)), StubPipeline(), second)
    assert list(found) == [7] and second.asked == [[30.0, 20.0, 40.0, 60.0]]
    ours = StubPipeline()(picture((30, 20, 40, 60))).people
    sure = ours.keypoint_scores[0] > 0.1
    np.testing.assert_allclose(found[7][sure, :2], ours.keypoints_xy[0][sure] + 0.5 * 0.67, atol=1e-4)
    assert (found[7][sure, 2] == 2).all() and not found[7][~sure].any()


def test_keypoints_beyond_the_picture_are_none(tmp_path):
    cut = np.array([[158.0 if k < 12 else 161.0, 30.0 + k] for k in range(17)], np.float32)
    seen = people_at((140, 20, 159, 79), points=[cut])
    second = Second()
    second.poses = lambda image, boxes: np.column_stack([cut, np.full(17, 0.9)])[None]
    found = agreed_poses(
        record(tmp_path, person(7, (140.0, 20.0, 20.0, 60.0))), lambda image: FrameResult(seen, (120, 160)), second
    )
    assert np.flatnonzero(found[7][:, 2]).tolist() == list(range(12))


@pytest.fixture
def boxed(tmp_path, monkeypatch) -> Path:
    """A folder with a picture of one person, its annotations, and a graph; the network is the stub."""
    monkeypatch.setattr("kdc_core.pipeline.Pipeline.load", lambda *_, **__: StubPipeline())
    cv2.imwrite(str(tmp_path / "a.png"), picture((30, 20, 40, 60)))
    names = ["left_knee", "thorax", *[n for n in KEYPOINT_NAMES if n != "left_knee"]]  # an order of its own
    person_box = {"image_id": 1, "category_id": 3, "bbox": [30, 20, 40, 60], "area": 2400.0}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 160, "height": 120}],
        "annotations": [{"id": 8, **person_box}, {"id": 9, **person_box, "iscrowd": 1, "bbox": [0, 0, 50, 50]}],
        "categories": [{"id": 3, "name": "person", "keypoints": names}],
        "info": {"kept": True},
    }
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    write_single_pose(tmp_path)
    return tmp_path


def arguments(folder: Path, **changes: str) -> list[str]:
    given = {"second": "pose.json", "annotations": "boxes.json", "images": ".", "out": "new/poses.json"} | changes
    return ["poses"] + [word for name, file in given.items() for word in (f"--{name}", str(folder / file))]


def test_the_command_adds_keypoints_to_a_copy(boxed, monkeypatch, capsys):
    monkeypatch.setattr("kdc_model.teacher.movenet_pose.SinglePose.load", lambda path: Second(shift=0.0))
    before = (boxed / "boxes.json").read_text()
    assert main(arguments(boxed)) == 0
    assert "15 keypoints of 1 people in" in capsys.readouterr().out
    assert (boxed / "boxes.json").read_text() == before
    written = json.loads((boxed / "new/poses.json").read_text())
    assert written["info"] == {"kept": True} and written["annotations"][1] == json.loads(before)["annotations"][1]
    (only,) = load_records(boxed / "new/poses.json", boxed)
    labelled, crowd = only.persons
    assert crowd.crowd and not crowd.has_keypoints
    ours = StubPipeline()(picture((30, 20, 40, 60))).people
    sure = ours.keypoint_scores[0] > 0.1
    assert sure.sum() == 15 and written["annotations"][0]["num_keypoints"] == 15
    np.testing.assert_allclose(labelled.keypoints[sure, :2], ours.keypoints_xy[0][sure], atol=0.051)
    assert (labelled.keypoints[:, 2] == 2 * sure).all()
    assert not labelled.all_keypoints and not labelled.ignore


def test_two_networks_that_do_not_agree_say_nothing(boxed, capsys):
    """Grey is bright enough for the stub, not for the made graph."""
    image = picture((30, 20, 40, 60))
    cv2.imwrite(str(boxed / "a.png"), np.where(image > 200, 160, image))
    assert main(arguments(boxed)) == 0
    written, before = (json.loads((boxed / name).read_text()) for name in ("new/poses.json", "boxes.json"))
    assert written == before and "0 keypoints of 0 people" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "boxes.json"}, "another file"),
        ({"second": "boxes.json"}, "not a TensorFlow.js graph model"),
        ({"second": "none.json"}, "none.json"),
    ],
)
def test_the_command_says_what_is_wrong(boxed, capsys, changes, message):
    before = (boxed / "boxes.json").read_text()
    assert main(arguments(boxed, **changes)) != 0
    assert message in capsys.readouterr().err
    assert (boxed / "boxes.json").read_text() == before and not (boxed / "new").exists()
