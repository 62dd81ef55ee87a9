"""Photos with boxes only: what the labels say, which shape a photo had, and what counts in no loss."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from kdc_cli.main import main
from kdc_core.types import People
from kdc_model.data.boxes import agreement, annotate, doubted, likely_aspect, read_yolo
from kdc_model.data.coco import AnnotationError, load_records
from tests.cli.stub import StubPipeline, picture

HW = (100, 200)


def people(*rectangles: tuple[int, int, int, int]) -> People:
    """People whose masks fill these rectangles: x0, y0, x1, y1 (the last pixels beyond)."""
    labels = np.zeros(HW, np.uint16)
    for n, (x0, y0, x1, y1) in enumerate(rectangles):
        labels[y0:y1, x0:x1] = n + 1
    boxes = np.array(rectangles, np.float32).reshape(-1, 4) - np.float32([0, 0, 1, 1])
    count = len(rectangles)
    return People(
        keypoints_xy=np.zeros((count, 17, 2), np.float32),
        keypoint_scores=np.ones((count, 17), np.float32),
        scores=np.ones(count, np.float32),
        boxes_xyxy=boxes,
        mask_labels=labels,
    )


def test_labels(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("0 0.5 0.5 0.2 0.4\n\n1 0.1 0.1 0.1 0.1\n0 0.9 0.5 0.4 0.2\n0 0.1 0.2 0.3 0.4 0.2 0.6\n")
    expected = [[0.4, 0.3, 0.6, 0.7], [0.7, 0.4, 1.0, 0.6], [0.1, 0.2, 0.3, 0.6]]  # cut at the border; a polygon
    assert np.allclose(read_yolo(file), expected)
    assert np.allclose(read_yolo(file, person_class=1), [[0.05, 0.05, 0.15, 0.15]])
    file.write_text("")
    assert read_yolo(file).shape == (0, 4)
    # Nobody's business here, and boxes too thin to be somebody (`annotate` leaves them out).
    file.write_text("1 64 48 40 80\n0 0.5 0.5 0 0.8\n0 0.1 0.2 0.3 0.2 0.5 0.2\n")
    assert np.allclose(read_yolo(file), [[0.5, 0.1, 0.5, 0.9], [0.1, 0.2, 0.5, 0.2]])
    file.write_text("0 0.5 1.02 1.05 0.2\n0 -0.05 0.2 0.3 1.1 0.2 0.6\n")  # a little beyond the border
    assert np.allclose(read_yolo(file), [[0, 0.92, 1, 1], [0, 0.2, 0.3, 1]])


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.2",
        "person 0.5 0.5 0.2 0.4",
        "0 0.5 nan 0.2 0.4",
        "0 1 2 3 4 5",
        "-1 1 1 1 1",
        "0 64 48 40 80",  # pixels
        "0 0.5 0.5 1.2 0.8",
        "0 0.5 0.5 -0.4 -0.8",
        "0 64 48 104 48 104 128",
    ],
)
def test_labels_that_are_none(tmp_path, line):
    file = tmp_path / "a.txt"
    file.write_text(f"0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(AnnotationError, match=r"a\.txt, line 2"):
        read_yolo(file)


def test_the_shape_at_which_people_look_like_people():
    assert likely_aspect(lambda aspect: 0.0) == 4 / 3  # the usual one, where nobody can be seen
    assert likely_aspect(lambda aspect: 2.0 if aspect == 2 / 3 else 1.5) == 2 / 3
    assert likely_aspect(lambda aspect: 1.51 if aspect == 1 else 1.5) == 4 / 3  # not worth a rare shape


def test_boxes_become_people():
    made = annotate([[10, 10, 40, 90], [50, 50, 52, 80]], people((12, 12, 38, 88)), image_id=7, first_id=30)
    (one,) = made  # the second is two pixels wide
    assert (one["id"], one["image_id"], one["bbox"], one["iscrowd"]) == (30, 7, [10, 10, 30, 80], 0)
    assert not one["has_mask"] and one["num_keypoints"] == 0


def test_what_boxes_and_network_disagree_on_counts_in_no_loss():
    row = [(x, 20, x + 10, 60) for x in (20, 40, 60)]
    crowd, left_out = annotate([[10, 10, 90, 90]], people(*row, (150, 30, 170, 80)), 1, 1)
    assert crowd["iscrowd"] == 1
    assert (left_out["iscrowd"], left_out["bbox"]) == (1, [147, 27, 26, 56])
    # Two in a box may be one in front of another; and whoever is seen in boxes mostly was not left out.
    pair = annotate([[10, 10, 90, 90]], people(row[0], row[1], (84, 20, 100, 60)), 1, 1)
    assert [a["iscrowd"] for a in pair] == [0]


def test_agreement():
    mask = np.zeros(HW, bool)
    mask[10:20, 10:20] = True
    assert agreement(mask, people((10, 10, 20, 13), (10, 15, 20, 17))) == 0.5
    assert agreement(mask, people()) == 0 == agreement(np.zeros(HW, bool), people((0, 0, 9, 9)))


def squash(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three photos (the stub sees a bright rectangle in two), labels for two of them."""

    def load(path, options, long_side, **_):
        return StubPipeline()

    monkeypatch.setattr("kdc_core.pipeline.Pipeline.load", load)
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for name, box in {"a.png": (30, 20, 40, 60), "b.png": None, "c.png": (5, 5, 20, 20)}.items():
        cv2.imwrite(str(images / name), squash(picture(box)))
    (labels / "a.txt").write_text("0 0.3125 0.41667 0.25 0.5\n")  # the bright rectangle
    (labels / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return images, labels


def test_command(photos, tmp_path, capsys):
    images, labels = photos
    out = tmp_path / "made"
    command = ["boxes", "--images", str(images), "--labels", str(labels), "--out", str(out)]
    assert main([*command, "--squashed", "--long-side", "200"]) == 0
    assert "2 photos, 2 people, 0 places" in capsys.readouterr().out
    first, second = load_records(out / "annotations.json", out / "images")
    assert (first.width, first.height) == (200, 150)  # 4 : 3, the usual shape
    assert np.allclose(first.persons[0].box_xywh, (37.5, 25, 50, 75), atol=0.02)
    assert cv2.imread(str(first.path)).shape == (150, 200, 3)
    assert second.persons[0].ignore  # until it has a mask
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err

    assert main([*command[:-1], str(tmp_path / "as_they_are")]) == 0
    record = load_records(tmp_path / "as_they_are" / "annotations.json", images)[0]
    assert (record.width, record.height) == (128, 128) and not (tmp_path / "as_they_are" / "images").exists()


def test_photos_that_show_nobody(photos, tmp_path, capsys):
    images, _ = photos
    command = ["boxes", "--nobody", "--images", str(images), "--out", str(tmp_path / "nobody")]
    assert main(command) == 0
    assert "3 photos that show nobody" in capsys.readouterr().out
    records = load_records(tmp_path / "nobody" / "annotations.json", images)
    assert [(record.width, record.height, record.persons) for record in records] == [(128, 128, ())] * 3
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "other"), "--squashed"]) == 1
    assert "not with --nobody" in capsys.readouterr().err
    assert main([*command[:3], str(tmp_path), "--out", str(tmp_path / "other")]) == 1
    assert "has no photos" in capsys.readouterr().err


def test_one_line_says_what_is_wrong(photos, tmp_path, capsys):
    images, labels = photos
    assert main(["boxes", "--images", str(tmp_path / "no"), "--labels", str(labels), "--out", str(tmp_path / "o")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["boxes", "--images", str(images), "--labels", str(images), "--out", str(tmp_path / "o")]) == 1
    assert "has a label file for none of the 3 photos" in capsys.readouterr().err


def test_masks_of_nobody_are_doubted():
    def rle(x0, y0, x1, y1):
        mask = np.zeros(HW, np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        coded = coco_mask.encode(mask)
        return {"size": coded["size"], "counts": coded["counts"].decode(), "quality": 0.9}

    found = people((0, 0, 40, 40))
    masks = {1: rle(0, 0, 50, 50), 2: rle(100, 0, 150, 50), 3: rle(180, 0, 190, 10)}  # the last is a small one
    assert doubted(masks, found) == [2]
