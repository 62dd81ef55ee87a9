"""Made scenes, samples and batches."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from kdc_cli.main import main
from kdc_cli.train import load_config
from kdc_core.encode import GroundTruth, encode
from kdc_core.skeleton import KEYPOINT_NAMES
from kdc_model.data.augment import WarpRange
from kdc_model.data.coco import load_records
from kdc_model.data.dataset import Batch, PeopleDataset, collate, read_image
from kdc_model.data.scenes import make_scene, write_dataset

RANGES = WarpRange(96, (0.7, 1.4), 20.0, 0.5)


@pytest.fixture(scope="module")
def records(made_folder):
    return load_records(made_folder / "annotations.json", made_folder / "images")


def visible(annotation) -> np.ndarray:
    rle = annotation["segmentation"]
    return coco_mask.decode({**rle, "counts": rle["counts"].encode()}) > 0


def test_scene_is_the_same_for_the_same_seed():
    image, annotations = make_scene(5, 120, 160, 3)
    again, same = make_scene(5, 120, 160, 3)
    assert np.array_equal(image, again) and annotations == same
    assert not np.array_equal(image, make_scene(6, 120, 160, 3)[0])
    assert image.shape == (120, 160, 3) and image.dtype == np.uint8


def test_scenes_annotations_are_consistent():
    hidden = cropped = 0
    for seed in range(12):
        image, annotations = make_scene(seed, 120, 160, 3)
        assert len(annotations) == 3
        masks = [visible(a) for a in annotations]
        assert sum(m.astype(int) for m in masks).max() == 1  # no pixel belongs to two people
        for annotation, mask in zip(annotations, masks):
            keypoints = np.array(annotation["keypoints"]).reshape(17, 3)
            labelled = keypoints[:, 2] > 0
            assert annotation["num_keypoints"] == labelled.sum()
            assert not keypoints[~labelled].any()
            assert annotation["area"] == mask.sum() > 0
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert annotation["bbox"] == box
            # A joint that is seen lies on its person.
            for x, y, _ in keypoints[keypoints[:, 2] == 2]:
                assert mask[int(y + 0.5), int(x + 0.5)]
            for x, y, _ in keypoints[labelled]:
                assert -0.5 <= x < 159.5 and -0.5 <= y < 119.5
            hidden += (keypoints[:, 2] == 1).sum()
            cropped += xs.min() == 0 or ys.min() == 0 or xs.max() == 159 or ys.max() == 119
        assert image.std() > 10
    assert hidden > 10 and cropped > 4


def test_figures_have_thickness_and_differ_from_the_background():
    image, (annotation,) = make_scene(15, 240, 320, 1)
    mask = visible(annotation)
    x, y, w, h = annotation["bbox"]
    assert 0.15 < mask.sum() / (w * h) < 0.8  # neither sticks nor a box
    assert cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3).max() > 0.04 * max(w, h)
    ring = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))) - mask
    assert np.abs(image[mask].mean(0) - image[ring > 0].mean(0)).max() > 15


def test_scene_of_nobody():
    image, annotations = make_scene(0, 64, 96, 0)
    assert annotations == [] and image.shape == (64, 96, 3)


def test_the_command_makes_scenes(tmp_path, capsys, repository):
    command = ["scenes", "--out", str(tmp_path), "--count", "3", "--size", "96x128", "--people", "2"]
    assert main(command) == 0
    assert "3 pictures of 96 x 128 px" in capsys.readouterr().out
    made = load_records(tmp_path / "annotations.json", tmp_path / "images")
    assert [(record.height, record.width) for record in made] == [(96, 128)] * 3
    assert all(len(record.persons) <= 2 for record in made)
    assert read_image(made[0]).shape == (96, 128, 3)
    for more, said in (
        ([], "exists already"),
        (["--out", str(tmp_path / "small"), "--size", "8x8"], "--size"),
        (["--out", str(tmp_path / "seed"), "--seed", "-1"], "--seed"),
    ):
        assert main([*command, *more]) == 1
        assert said in capsys.readouterr().err
    # The configuration beside it names these folders.
    config = load_config(repository / "configs" / "scenes.yaml", [])
    assert Path(config.train_images[0]).resolve() == repository / "runs" / "scenes" / "train" / "images"


def test_scenes_need_no_torch(repository):
    code = "import sys, kdc_model.data.scenes as s; s.make_scene(0, 64, 64, 1); exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository)


def test_written_dataset_is_a_coco_dataset(tmp_path):
    from pycocotools.coco import COCO

    path = write_dataset(tmp_path / "d", 3, 80, 100, people=(1, 2), seed=1)
    coco = COCO(str(path))
    assert len(coco.getImgIds()) == 3
    assert coco.loadCats(1)[0]["keypoints"] == list(KEYPOINT_NAMES)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).sum() == annotation["area"]
    records = load_records(path, tmp_path / "d" / "images")
    assert [1 <= len(r.persons) <= 2 for r in records] == [True] * 3
    assert read_image(records[0]).shape == (80, 100, 3)


def test_read_image_is_rgb_and_checks_the_size(records, tmp_path):
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((96, 128, 3), (0, 0, 255), np.uint8))  # OpenCV writes BGR
    record = dataclasses.replace(records[0], path=path)
    assert read_image(record)[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(ValueError, match="128 x 96, its record says 127 x 96"):
        read_image(dataclasses.replace(record, width=127))
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"red\.png is not a picture"):
        read_image(record)


def same(a, b) -> bool:
    """Whether two samples are equal in everything."""
    (image_a, targets_a), (image_b, targets_b) = a, b
    return np.array_equal(image_a, image_b) and all(
        np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        for x, y in zip(vars(targets_a).values(), vars(targets_b).values())
    )


def test_sample_depends_on_seed_epoch_and_index_only(records):
    def dataset(seed):
        return PeopleDataset(records, 64, 4, 8.0, RANGES, 0.3, seed)

    first, second = dataset(1), dataset(1)
    for i in (4, 0, 2):  # in another order, and with others drawn between
        second[i]
    assert same(first[3], second[3])
    assert not same(first[3], dataset(2)[3])
    second.epoch = 1
    assert not same(first[3], second[3])
    assert len(first) == 7 and first[3][0].shape == (64, 64, 3)


def test_without_augmentation_the_whole_picture(records):
    dataset = PeopleDataset(records, 64, 4, 8.0)
    index = next(i for i, r in enumerate(records) if r.persons)
    image, targets = dataset[index]
    assert image.shape == (64, 64, 3) and (image[48:] == 114).all()  # 96 x 128 fills 48 x 64
    assert len(targets.keypoints_xy) == len(records[index].persons)
    person = records[index].persons[0]
    k = int(np.flatnonzero(person.keypoints[:, 2])[0])
    expected = (person.keypoints[k, :2] + 0.5) * 0.5 - 0.5
    np.testing.assert_allclose(targets.keypoints_xy[0, k], expected, atol=1e-4)


def test_batch_joins_samples(records):
    dataset = PeopleDataset(records, 64, 4, 8.0, RANGES)
    samples = [dataset[i] for i in range(3)]
    batch = collate(samples)
    assert batch.images.shape == (3, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert torch.equal(batch.images[1].permute(1, 2, 0), torch.from_numpy(samples[1][0]))
    for b, (_, targets) in enumerate(samples):
        mine = batch.disk_index[:, 0] == b
        np.testing.assert_array_equal(batch.disk_index[mine, 1:].numpy(), targets.disk_index)
        np.testing.assert_array_equal(batch.disk_offset[mine].numpy(), targets.disk_offset)
        mine = batch.edge_index[:, 0] == b
        np.testing.assert_array_equal(batch.edge_index[mine, 1:].numpy(), targets.edge_index)
        np.testing.assert_array_equal(batch.instance[b].numpy(), targets.instance)
        np.testing.assert_array_equal(batch.labelled[b].numpy(), targets.labelled)
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, Batch) and torch.equal(moved.person, batch.person)


def test_batch_of_pictures_without_people():
    nothing = np.zeros((32, 32), bool)
    truth = GroundTruth(
        keypoints_xy=np.zeros((0, 17, 2), np.float32),
        labelled=np.zeros((0, 17), bool),
        instance=np.zeros((32, 32), np.uint16),
        has_mask=np.zeros(0, bool),
        keypoint_ignore=nothing,
        mask_ignore=nothing,
    )
    batch = collate([(np.zeros((32, 32, 3), np.uint8), encode(truth, 4, 8.0))] * 2)
    assert batch.disk_index.shape == (0, 4) and batch.edge_offset.shape == (0, 2)
    assert batch.heatmap_valid.all() and batch.person_valid.all() and not batch.person.any()
    assert [len(c) for c in batch.centroids_xy] == [0, 0]
