"""Evaluation against made annotations and answers whose scores are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc_cli.main import main
from kdc_core.coco_results import coco_results
from kdc_core.rle import to_coco
from kdc_core.types import FrameResult, People

pytest.importorskip("pycocotools")

from kdc_core.coco_scores import KEYPOINT_METRICS, SEGM_METRICS, score_keypoints, score_masks
from kdc_model.data.coco import AnnotationError
from kdc_model.evaluate import TruthImage, evaluate, format_table, load_truth

HEIGHT, WIDTH = 240, 320
IMAGES = 3


def true_people(image: int) -> People:
    """Two people, 60 x 150 pixels each, at places that depend on the image."""
    rng = np.random.default_rng(image)
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    keypoints = np.zeros((2, 17, 2), np.float32)
    boxes = []
    for i, left in enumerate((30 + 10 * image, 180 + 10 * image)):
        top = 40 + 5 * image
        labels[top : top + 150, left : left + 60] = i + 1
        keypoints[i] = np.array([left, top]) + rng.integers((0, 0), (60, 150), (17, 2))
        boxes.append((left, top, left + 59, top + 149))
    return People(
        keypoints,
        np.ones((2, 17), np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array(boxes, np.float32),
        labels,
    )


def annotations_of(people: People, image_id: int) -> list[dict]:
    """What COCO would have annotated of these people."""
    out = []
    for i, (x_min, y_min, x_max, y_max) in enumerate(people.boxes_xyxy.tolist()):
        visible = np.column_stack([people.keypoints_xy[i], np.full(17, 2)])
        out.append(
            {
                "id": 10 * image_id + i + 1,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [x_min, y_min, x_max - x_min + 1, y_max - y_min + 1],
                "area": float(people.mask(i).sum()),
                "keypoints": visible.ravel().tolist(),
                "num_keypoints": 17,
                "segmentation": to_coco(people.mask(i)),
            }
        )
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/ and annotations.json; the grey of picture n is 10 n."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for n in range(IMAGES):
        name = f"{n + 1:012d}.png"
        cv2.imwrite(str(tmp_path / "images" / name), np.full((HEIGHT, WIDTH, 3), 10 * n, np.uint8))
        images.append({"id": n + 1, "file_name": name, "width": WIDTH, "height": HEIGHT})
        annotations += annotations_of(true_people(n), n + 1)
    write(tmp_path, images, annotations)
    return tmp_path


def write(folder: Path, images: list[dict], annotations: list[dict]) -> None:
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def edit(folder: Path, change: Callable[[list[dict]], list[dict]]) -> list[TruthImage]:
    """Change the annotations, and load them."""
    data = json.loads((folder / "annotations.json").read_text())
    write(folder, data["images"], change(data["annotations"]))
    return truth_of(folder)


def truth_of(folder: Path) -> list[TruthImage]:
    return load_truth(folder / "annotations.json", folder / "images")


def perfect(image: np.ndarray) -> FrameResult:
    return FrameResult(true_people(int(image[0, 0, 0]) // 10), (HEIGHT, WIDTH))


def shifted(pixels: int) -> Callable[[np.ndarray], FrameResult]:
    def predict(image: np.ndarray) -> FrameResult:
        people = true_people(int(image[0, 0, 0]) // 10)
        moved = People(
            people.keypoints_xy + np.float32(pixels),
            people.keypoint_scores,
            people.scores,
            people.boxes_xyxy + np.float32(pixels),
            np.roll(people.mask_labels, (pixels, pixels), (0, 1)),
        )
        return FrameResult(moved, (HEIGHT, WIDTH))

    return predict


def nobody(image: np.ndarray) -> FrameResult:
    return FrameResult(People.empty(image.shape[:2]), image.shape[:2])


def test_perfect_answers_score_one(folder: Path) -> None:
    metrics = evaluate(perfect, truth_of(folder))
    for name in ("AP", "AP50", "AP75", "APM", "AR"):
        assert metrics[f"keypoints.{name}"] == pytest.approx(1.0)
    for name in ("AP", "AP50", "AP75", "APM", "AR100"):
        assert metrics[f"segm.{name}"] == pytest.approx(1.0)
    assert metrics["person_iou"] == 1.0
    assert metrics["images"] == IMAGES
    assert 0 <= metrics["ms_per_image"] < 1000
    # 60 x 150 pixels are COCO's "medium": of the other sizes there is nobody to find.
    assert metrics["keypoints.APL"] == metrics["segm.APS"] == metrics["segm.APL"] == -1
    assert {f"keypoints.{n}" for n in KEYPOINT_METRICS} | {f"segm.{n}" for n in SEGM_METRICS} <= set(metrics)


def test_the_worse_the_place_the_lower_the_score(folder: Path) -> None:
    truth = truth_of(folder)
    scores = [evaluate(shifted(pixels), truth) for pixels in (0, 6, 12, 60)]
    for name in ("keypoints.AP", "segm.AP", "person_iou"):
        values = [s[name] for s in scores]
        assert values == sorted(values, reverse=True) and values[0] > values[1] > values[2], name
    # 12 px down and right leave 48 x 138 of 60 x 150: IoU 0.582, two of the ten thresholds.
    assert scores[2]["segm.AP"] == pytest.approx(0.2)
    assert scores[2]["segm.AP50"] == pytest.approx(1.0)
    assert scores[2]["segm.AP75"] == 0
    assert scores[2]["person_iou"] == pytest.approx(48 * 138 / (2 * 60 * 150 - 48 * 138))


def test_keypoint_oks_is_coco_s(folder: Path) -> None:
    """A shift for which the mean OKS is 0.72: five of the ten thresholds."""
    from kdc_core.skeleton import OKS_SIGMAS

    def oks(pixels: float) -> float:
        return float(np.mean(np.exp(-2 * pixels**2 / (2 * 9000 * (2 * OKS_SIGMAS.astype(float)) ** 2))))

    pixels = min(np.arange(1, 20, 0.01), key=lambda p: abs(oks(p) - 0.72))
    truth = truth_of(folder)
    results = [r for i, t in enumerate(truth) for r in coco_results(true_people(i), t.image_id)]
    for result in results:
        result["keypoints"] = (
            (np.reshape(result["keypoints"], (17, 3)) + [pixels, pixels, 0]).ravel().tolist()
        )
    assert score_keypoints(truth, results).metrics["AP"] == pytest.approx(0.5)


def test_every_number_is_that_of_cocos_own_files(folder: Path, tmp_path: Path) -> None:
    """Through COCO's loadRes, joints that were not found (score 0, some far outside the body) included."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(5)
    truth, results = truth_of(folder), []
    for i, image in enumerate(truth):
        for result in coco_results(true_people(i), image.image_id):
            points = np.reshape(result["keypoints"], (17, 3))
            points[:, :2] += rng.normal(0, 4, (17, 2))
            points[:4, 2] = 0
            points[0, :2] += 60  # a body of 60 x 150 pixels becomes a large one
            results += [{**result, "keypoints": points.ravel().tolist(), "score": float(rng.random())}]
            results += [{**results[-1], "keypoints": (points + [30, 20, 0]).ravel().tolist(), "score": 0.95}]
    keys = ("image_id", "category_id", "keypoints", "score")  # COCO's format for keypoints
    (tmp_path / "results.json").write_text(json.dumps([{k: r[k] for k in keys} for r in results]))
    annotated = json.loads((folder / "annotations.json").read_text())
    annotated["categories"] = [{"id": 1, "name": "person"}]
    (tmp_path / "truth.json").write_text(json.dumps(annotated))
    coco = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    metrics = score_keypoints(truth, results).metrics
    assert 0.05 < metrics["APM"] < 0.95
    assert list(metrics.values()) == pytest.approx(evaluation.stats.tolist())


@pytest.mark.parametrize("numbered", [lambda i: {"id": i}, lambda i: {}])
def test_the_annotations_numbers_do_not_matter(folder: Path, numbered: Callable[[int], dict]) -> None:
    """COCOeval takes an annotation of the number 0 for nobody."""

    def renumbered(annotations: list[dict]) -> list[dict]:
        return [{**{k: v for k, v in a.items() if k != "id"}, **numbered(i)} for i, a in enumerate(annotations)]

    metrics = evaluate(perfect, edit(folder, renumbered))
    assert metrics["keypoints.AP"] == metrics["segm.AP"] == pytest.approx(1)


def test_nobody_found_scores_zero(folder: Path) -> None:
    metrics = evaluate(nobody, truth_of(folder))
    for name in ("keypoints.AP", "keypoints.AR", "segm.AP", "segm.AR100", "person_iou"):
        assert metrics[name] == 0.0, name


def test_nobody_annotated_and_nobody_found(folder: Path) -> None:
    metrics = evaluate(nobody, edit(folder, lambda _: []))
    assert metrics["keypoints.AP"] == metrics["segm.AP"] == metrics["person_iou"] == -1
    assert "nan" not in format_table(metrics)


def test_people_where_there_are_none(folder: Path) -> None:
    def unsure(image: np.ndarray) -> FrameResult:
        result = perfect(image)
        scores = np.where(np.arange(len(result.people)) == 0, 0.15, 0.14).astype(np.float32)
        return replace(result, people=replace(result.people, scores=scores))

    assert "nobody.images" not in evaluate(perfect, truth_of(folder))
    truth = edit(folder, lambda annotations: [a for a in annotations if a["image_id"] > 2])
    metrics = evaluate(perfect, truth)
    people = sum(len(true_people(n)) for n in range(2))
    assert (metrics["nobody.images"], metrics["nobody.people"]) == (2, people / 2)
    assert f"2 images that show nobody: {people / 2:.3f} people" in format_table(metrics)
    # Those below the default threshold would not be reported.
    assert evaluate(unsure, truth)["nobody.people"] == sum(len(true_people(n)) > 0 for n in range(2)) / 2


def test_a_false_person_costs_precision(folder: Path) -> None:
    """One more person, surer than the true ones, where nobody is annotated."""
    truth = truth_of(folder)
    results = [r for i, t in enumerate(truth) for r in coco_results(true_people(i), t.image_id)]
    for image in truth:
        extra = {**results[0], "image_id": image.image_id, "score": 0.99}
        extra["keypoints"] = (np.reshape(extra["keypoints"], (17, 3)) + [150, 80, 0]).ravel().tolist()
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[200:, 60:160] = True
        results.append({**extra, "segmentation": to_coco(mask)})
    assert 0.4 < score_keypoints(truth, results).metrics["AP50"] < 0.75
    assert 0.4 < score_masks(truth, results).metrics["AP50"] < 0.75


def test_masks_are_ranked_by_their_own_score(folder: Path) -> None:
    """A false mask below all true ones, its person above them: keypoints lose precision, masks do not."""
    truth = truth_of(folder)
    results = [r for i, t in enumerate(truth) for r in coco_results(true_people(i), t.image_id)]
    assert all("mask_score" not in r for r in results)  # these are ranked by the person's
    extra = {**results[0], "image_id": truth[0].image_id, "score": 0.99}
    extra["keypoints"] = (np.reshape(extra["keypoints"], (17, 3)) + [150, 80, 0]).ravel().tolist()
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[200:, 60:160] = True
    extra["segmentation"] = to_coco(mask)
    ranked = [{**r, "mask_score": 0.5} for r in results] + [{**extra, "mask_score": 0.1}]
    assert score_masks(truth, [*results, extra]).metrics["AP50"] < 0.9
    assert score_masks(truth, ranked).metrics["AP50"] == pytest.approx(1)
    assert score_keypoints(truth, ranked).metrics["AP50"] < 0.9


@pytest.mark.parametrize("keys", [{"iscrowd": 1}, {"ignore": 1}, {"has_mask": False, "segmentation": []}])
def test_regions_that_must_not_count(folder: Path, keys: dict) -> None:
    """A crowd, an ignored person or one without a mask: neither finding nor missing it costs anything."""

    def second_is_special(annotations: list[dict]) -> list[dict]:
        return [{**a, **keys} if a["id"] % 10 == 2 else a for a in annotations]

    truth = edit(folder, second_is_special)
    found = evaluate(perfect, truth)
    assert found["segm.AP"] == pytest.approx(1.0) and found["person_iou"] == 1.0
    assert found["keypoints.AP"] == pytest.approx(1.0)

    def first_only(image: np.ndarray) -> FrameResult:
        people = perfect(image).people
        labels = np.where(people.mask_labels == 1, people.mask_labels, 0).astype(np.uint16)
        one = [a[:1] for a in (people.keypoints_xy, people.keypoint_scores, people.scores, people.boxes_xyxy)]
        return FrameResult(People(*one, labels), (HEIGHT, WIDTH))

    missed = evaluate(first_only, truth)
    assert missed["segm.AP"] == pytest.approx(1.0) and missed["person_iou"] == 1.0
    if "has_mask" not in keys:  # the keypoints of a person without a mask do count
        assert missed["keypoints.AP"] == pytest.approx(1.0)


def test_persons_without_keypoints_follow_coco(folder: Path) -> None:
    """As in COCO: who has no labelled keypoint is neither wanted nor wrong; the keys may be absent."""

    def strip(annotations: list[dict]) -> list[dict]:
        for a in annotations:
            if a["id"] % 10 == 2:
                del a["keypoints"], a["num_keypoints"]
        return annotations

    metrics = evaluate(perfect, edit(folder, strip))
    assert metrics["keypoints.AP"] == pytest.approx(1.0) and metrics["segm.AP"] == pytest.approx(1.0)


def test_people_without_masks_claim_none(folder: Path) -> None:
    def poses_only(image: np.ndarray) -> FrameResult:
        p = perfect(image).people
        return FrameResult(People(p.keypoints_xy, p.keypoint_scores, p.scores, p.boxes_xyxy), (HEIGHT, WIDTH))

    metrics = evaluate(poses_only, truth_of(folder))
    assert metrics["keypoints.AP"] == pytest.approx(1.0)
    assert metrics["segm.AP"] == 0.0 and metrics["person_iou"] == 0.0


@pytest.mark.parametrize("number", ["4", 4.5])
def test_an_image_whose_id_is_no_whole_number(folder: Path, number: object) -> None:
    """Also where nobody is annotated in it."""
    data = json.loads((folder / "annotations.json").read_text())
    write(folder, [*data["images"], {**data["images"][0], "id": number}], data["annotations"])
    with pytest.raises(AnnotationError, match=r"annotations\.json: image record .*the id must be a whole number"):
        truth_of(folder)


def test_pictures_that_do_not_fit_their_annotations(folder: Path) -> None:
    cv2.imwrite(str(folder / "images" / "000000000002.png"), np.zeros((240, 319, 3), np.uint8))
    with pytest.raises(AnnotationError, match="000000000002.png is 319 x 240"):
        evaluate(nobody, truth_of(folder))
    (folder / "images" / "000000000002.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 3 images.*000000000002.png"):
        truth_of(folder)


def test_command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kdc_core.pipeline import Pipeline

    options = {}

    class Perfect:
        def __call__(self, image: np.ndarray) -> FrameResult:
            return perfect(image)

        def close(self) -> None:
            options["closed"] = True

    def load(model: Path, **others) -> Perfect:
        options.update(others, model=model)
        return Perfect()

    monkeypatch.setattr(Pipeline, "load", load)
    out = folder / "new" / "scores.json"
    arguments = ["evaluate", "--model", "m.onnx", "--images", str(folder / "images")]
    arguments += ["--annotations", str(folder / "annotations.json"), "--out", str(out)]
    assert main([*arguments, "--limit", "2"]) == 0
    metrics = json.loads(out.read_text())
    assert metrics["images"] == 2 and metrics["keypoints.AP"] == pytest.approx(1.0)
    assert {"segm.APS", "segm.APL", "person_iou", "ms_per_image"} <= set(metrics)
    assert options["options"].person_threshold < 0.05 and options["closed"]
    table = capsys.readouterr().out
    assert "keypoints" in table and "segm" in table and "2 images" in table and "1.000" in table

    (folder / "annotations.json").write_text("{}")
    assert main(arguments) == 1
    assert "annotations.json is not a COCO annotation file" in capsys.readouterr().err
    (folder / "annotations.json").unlink()
    assert main(arguments) == 1
    assert "annotations.json" in capsys.readouterr().err


def test_evaluation_needs_no_torch(repository: Path) -> None:
    code = "import kdc_model.evaluate, kdc_cli.evaluate, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
