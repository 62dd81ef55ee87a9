"""OCHuman's and CrowdPose's files and rules."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc_core.coco_results import coco_results
from kdc_core.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES
from kdc_core.types import FrameResult, People
from kdc_model.data.augment import ground_truth, plain_warp
from kdc_model.data.coco import AnnotationError, load_records
from kdc_model.evaluate import evaluate, load_truth
from kdc_model.protocols import CROWDPOSE_NAMES, PROTOCOLS, crowdpose_keypoints

CROWDPOSE = PROTOCOLS["crowdpose"]


def pose(left: float) -> np.ndarray:
    """A standing person of 17 keypoints, (17, 3), 100 x 200 pixels from (left, 20) on."""
    places = {
        "nose": (50, 24), "left_eye": (56, 20), "right_eye": (44, 20), "left_ear": (62, 22), "right_ear": (38, 22),
        "left_shoulder": (75, 60), "right_shoulder": (25, 60), "left_elbow": (90, 90), "right_elbow": (10, 90),
        "left_wrist": (95, 120), "right_wrist": (5, 120), "left_hip": (65, 120), "right_hip": (35, 120),
        "left_knee": (65, 160), "right_knee": (35, 160), "left_ankle": (65, 198), "right_ankle": (35, 198),
    }  # fmt: skip
    out = np.ones((17, 3))
    for name, (x, y) in places.items():
        out[KEYPOINT_INDEX[name], :2] = left + x, 20 + y
    return out


def write(folder: Path, data: dict) -> tuple[Path, Path]:
    for image in data["images"]:
        cv2.imwrite(str(folder / image["file_name"]), np.zeros((image["height"], image["width"], 3), np.uint8))
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return path, folder


def crowdpose_file(folder: Path, indices: list[float]) -> tuple[Path, Path]:
    """One person in each picture, picture i's crowd index as given."""
    images, annotations = [], []
    for i, index in enumerate(indices):
        images.append({"id": i, "file_name": f"{i}.png", "height": 260, "width": 320, "crowdIndex": index})
        points = crowdpose_keypoints(pose(10 * i))
        points[:, 2] = 2
        box = [10 * i, 20, 100, 200]
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": box, "iscrowd": 0,
             "keypoints": points.ravel().tolist(), "has_mask": False}
        )  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE_NAMES)}
    return write(folder, {"images": images, "annotations": annotations, "categories": [category]})


def found(points: np.ndarray | None) -> FrameResult:
    people = People.empty((260, 320)) if points is None else People(
        points[None, :, :2].astype(np.float32),
        points[None, :, 2].astype(np.float32),
        np.full(1, 0.9, np.float32),
        np.array([[*points[:, :2].min(0), *points[:, :2].max(0)]], np.float32),
        None,
    )
    return FrameResult(people, (260, 320), {})


def test_crowdpose_scores_each_crowding_as_its_own_images(tmp_path):
    path, images = crowdpose_file(tmp_path, [0.05, 0.099, 0.1, 0.5, 0.8, 0.9])
    truth = load_truth(path, images, protocol=CROWDPOSE)
    assert [t.subsets for t in truth] == [("easy",)] * 2 + [("medium",)] * 3 + [("hard",)]
    assert truth[0].annotations[0]["area"] == pytest.approx(0.53 * 100 * 200)
    # Everybody is found but the one in the hard picture.
    answers = iter([0, *range(6)])  # the first picture is looked at twice, to warm up

    def predict(_):
        i = next(answers)
        return found(None if i == 5 else pose(10 * i))

    metrics = evaluate(predict, truth, protocol=CROWDPOSE)
    assert metrics["keypoints.easy.AP"] == pytest.approx(1) and metrics["keypoints.medium.AP"] == pytest.approx(1)
    assert metrics["keypoints.hard.AP"] == 0 and 0.8 < metrics["keypoints.AP"] < 0.9
    assert (metrics["images.easy"], metrics["images.medium"], metrics["images.hard"]) == (2, 3, 1)
    assert "segm.AP" not in metrics


def test_crowdpose_head_and_neck_are_made_from_face_and_shoulders():
    points = pose(0)
    out = crowdpose_keypoints(points)
    names = dict(zip(CROWDPOSE_NAMES, out))
    np.testing.assert_allclose(names["neck"][:2], (50, 80))
    assert names["head"][0] == pytest.approx(50, abs=1) and 0 < names["head"][1] < 30  # above the eyes at y = 40
    np.testing.assert_allclose(names["left_wrist"], points[KEYPOINT_INDEX["left_wrist"]])
    points[KEYPOINT_INDEX["left_shoulder"], 2] = 0
    without = dict(zip(CROWDPOSE_NAMES, crowdpose_keypoints(points)))
    assert without["neck"][2] == 0 and without["head"][2] == 0 and without["left_hip"][2] == 1
    points[:5, 2] = 0
    assert np.isfinite(crowdpose_keypoints(points)).all()


def test_types_that_a_data_set_lacks_are_no_negatives(tmp_path):
    path, images = crowdpose_file(tmp_path, [0.5])
    record = load_records(path, images)[0]
    named = [name for name, known in zip(KEYPOINT_NAMES, record.annotated_types) if known]
    assert named == list(KEYPOINT_NAMES[5:])
    keypoints = record.persons[0].keypoints
    assert (keypoints[:5] == 0).all() and (keypoints[5:, 2] == 2).all()
    np.testing.assert_allclose(keypoints[5:, :2], pose(0)[5:, :2])
    truth = ground_truth(record, plain_warp(record, (256, 320)))
    assert truth.annotated_types.tolist() == record.annotated_types.tolist()


def test_keypoints_in_another_order_find_their_places(tmp_path):
    names = list(reversed(KEYPOINT_NAMES))
    points = pose(0)[::-1]
    annotation = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 20, 100, 200]}
    annotation["keypoints"] = (points * (1, 1, 2)).ravel().tolist()
    data = {
        "images": [{"id": 0, "file_name": "0.png", "height": 260, "width": 320}],
        "annotations": [annotation],
        "categories": [{"id": 1, "keypoints": names}],
    }
    record = load_records(*write(tmp_path, data))[0]
    np.testing.assert_allclose(record.persons[0].keypoints[:, :2], pose(0)[:, :2])
    with pytest.raises(AnnotationError, match="the protocol 'coco' is for nose"):
        load_truth(tmp_path / "annotations.json", tmp_path)
    data["categories"] = [{"id": 1, "keypoints": ["tail"]}]
    with pytest.raises(AnnotationError, match="none of the keypoints tail is one of COCO's"):
        load_records(*write(tmp_path, data))
    data["categories"] = [{"id": 1, "keypoints": "nose"}]
    with pytest.raises(AnnotationError, match="must be names"):
        load_records(*write(tmp_path, data))


def test_ochuman_takes_the_box_as_area_and_counts_the_unannotated_as_false(tmp_path):
    annotation = {
        "id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 20, 100, 200], "area": 1.0, "iscrowd": 0,
        "keypoints": (pose(0) * (1, 1, 2)).ravel().tolist(),
        "segmentation": [[0, 20, 100, 20, 100, 220, 0, 220]],
    }  # fmt: skip
    data = {
        "images": [{"id": 0, "file_name": "0.png", "height": 260, "width": 320}],
        "annotations": [annotation],
        "categories": [{"id": 1, "keypoints": list(KEYPOINT_NAMES)}],
    }
    path, images = write(tmp_path, data)
    truth = load_truth(path, images, protocol=PROTOCOLS["ochuman"])
    assert truth[0].annotations[0]["area"] == 20_000
    both = People(
        np.stack([pose(150), pose(0)])[..., :2].astype(np.float32),
        np.ones((2, 17), np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array([[150, 20, 249, 219], [0, 20, 99, 219]], np.float32),
        None,
    )
    metrics = evaluate(lambda _: FrameResult(both, (260, 320), {}), truth, protocol=PROTOCOLS["ochuman"])
    assert metrics["keypoints.AP"] == pytest.approx(0.5, abs=0.01)  # a better-scored person who is not annotated
    assert len(coco_results(both, 0)) == 2


@pytest.mark.parametrize(
    ("folder", "protocol", "images", "persons"), [("ochuman", "ochuman", 3, 5), ("crowdpose_14kp", "crowdpose", 2, 4)]
)
def test_the_data_sets_own_files_are_read(shared_data, folder, protocol, images, persons):
    path = shared_data / "format_samples" / folder
    if not path.is_dir():
        pytest.skip(f"no samples at {path}")
    truth = load_truth(path / "annotations.json", path / "images", protocol=PROTOCOLS[protocol])
    assert len(truth) == images and all(t.record.path.is_file() for t in truth)
    records = load_records(path / "annotations.json", path / "images")
    assert sum(p.has_keypoints for r in records for p in r.persons) == persons
