"""Ground truth in place of the network: a perfect network scores highly, and each part is taken from the right one."""

import dataclasses

import numpy as np
import pytest

from kdc_core.backends.base import NetworkOutputs
from kdc_core.coco_scores import PersonPixels, annotation_mask
from kdc_core.decode.candidates import Candidates
from kdc_core.decode.masks import MaskFields
from kdc_core.encode import encode, ideal_fields
from kdc_core.fields import Fields
from kdc_core.geometry import Letterbox
from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_core.rle import to_coco
from kdc_core.skeleton import NUM_DIRECTED_EDGES, NUM_KEYPOINTS
from kdc_core.spec import ModelSpec
from kdc_model.data.augment import ground_truth, plain_warp
from kdc_model.data.scenes import write_dataset
from kdc_model.evaluate import Found, TruthImage, evaluate, load_truth, score
from kdc_model.oracle import (
    IDEAL_FIELDS,
    OracleBackend,
    ideal_scores,
    known_embedding,
    with_ideal,
    with_oracle,
)
from kdc_model.protocols import PROTOCOLS


class Blind:
    """A network that sees nothing: no candidates, and no person anywhere."""

    name = "blind"
    spec = ModelSpec(input_hw=(256, 256), stride=4, disk_radius_px=12.0, mask_mode="embedding")
    closed = False

    def run(self, image: np.ndarray) -> NetworkOutputs:
        cells = (image.shape[0] // 4, image.shape[1] // 4)
        nothing = np.zeros((NUM_KEYPOINTS, 32, NUM_KEYPOINTS, 3), np.float32)
        person, embedding = np.zeros(cells, np.float32), np.zeros((2, *cells), np.float32)
        return NetworkOutputs(Candidates(nothing), MaskFields(person, embedding, np.ones(cells, np.float32), 4))

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    write_dataset(folder, 4, 240, 320, people=(1, 3), seed=11)
    return load_truth(folder / "annotations.json", folder / "images")


def scores(truth, oracle: str, long_side: int = 320) -> dict[str, float]:
    pipeline = Pipeline(Blind(), PipelineOptions(person_threshold=0.01), long_side)
    wrapped, before = with_oracle(pipeline, oracle)
    assert wrapped.spec.input_hw == (long_side, long_side)
    return evaluate(wrapped, truth, before=before)


def test_ideal_fields_are_decoded_nearly_without_loss(truth):
    metrics = scores(truth, "fields")
    assert metrics["keypoints.AP50"] > 0.95 and metrics["keypoints.AP"] > 0.85
    assert metrics["segm.AP50"] > 0.6 and metrics["person_iou"] > 0.85


def test_each_part_comes_from_the_right_source(truth):
    keypoints = scores(truth, "keypoints")
    assert keypoints["keypoints.AP50"] > 0.7 and keypoints["person_iou"] == 0
    masks = scores(truth, "masks")
    assert masks["keypoints.AP"] == 0  # nobody has a pose
    assert masks["segm.AP50"] > 0.5 and masks["person_iou"] > 0.8  # but the masks find people by themselves


def without_masks(image: TruthImage) -> TruthImage:
    """As in files of keypoints alone, with boxes a little too small."""
    people = tuple(
        dataclasses.replace(person, segmentation=None, box_xywh=(*person.box_xywh[:3], 0.8 * person.box_xywh[3]))
        for person in image.record.persons
    )
    return dataclasses.replace(image, record=dataclasses.replace(image.record, persons=people))


@pytest.mark.parametrize("oracle", ["fields", "keypoints"])
def test_people_without_masks_are_found_by_their_keypoints(truth, oracle):
    maskless = scores([without_masks(image) for image in truth], oracle)
    # As with masks, but for those that only the mask fields of this blind network could tell apart.
    assert maskless["keypoints.AP50"] > 0.7
    assert maskless["keypoints.AP"] == pytest.approx(scores(truth, "keypoints")["keypoints.AP"], abs=0.02)


@pytest.mark.parametrize("oracle", ["fields", "masks"])
def test_mask_fields_are_the_networks_where_masks_are_missing(truth, oracle):
    class Doubtful(Blind):
        def run(self, image: np.ndarray) -> NetworkOutputs:
            cells = (image.shape[0] // 4, image.shape[1] // 4)
            value = np.full(cells, 0.25, np.float32)
            masks = MaskFields(value, np.full((2, *cells), 7, np.float32), value, 4)
            return NetworkOutputs(super().run(image).candidates, masks)

    image = without_masks(truth[0])
    letterbox = Letterbox.fit(image.image_hw, (256, 320))
    known = encode(ground_truth(image.record, plain_warp(image.record, (256, 320))), 4, 12.0).person_valid
    backend = OracleBackend(Doubtful(), oracle)
    backend.look_at(image.record, letterbox)
    masks = backend.run(np.zeros((256, 320, 3), np.uint8)).masks
    assert known.any() and not known.all()
    assert (masks.person == np.where(known, 0, np.float32(0.25))).all()
    assert (masks.embedding == np.where(known, 0, 7)).all() and (masks.sigma[~known] == np.float32(0.25)).all()
    # A crowd is no person without a mask: what a network sees there counts in no score.
    people = tuple(dataclasses.replace(person, ignore=True) for person in image.record.persons)
    backend.look_at(dataclasses.replace(image.record, persons=people), letterbox)
    assert not backend.run(np.zeros((256, 320, 3), np.uint8)).masks.person.any()


def test_crowdpose_keypoints_are_candidates_in_full(shared_data):
    folder = shared_data / "format_samples" / "crowdpose_14kp"
    if not folder.is_dir():
        pytest.skip(f"no CrowdPose sample at {folder}")
    backend = OracleBackend(Blind(), "keypoints")
    image_hw = (416, 544)
    for image in load_truth(folder / "annotations.json", folder / "images", protocol=PROTOCOLS["crowdpose"]):
        backend.look_at(image.record, Letterbox.fit(image.image_hw, image_hw))
        found = backend.run(np.zeros((*image_hw, 3), np.uint8)).candidates.points
        truth = ground_truth(image.record, plain_warp(image.record, image_hw))
        for person, kind in np.argwhere(truth.labelled):
            distance = np.linalg.norm(found[kind, :, :2] - truth.keypoints_xy[person, kind], axis=1)
            assert found[kind, distance.argmin(), 2] > 0.9 and distance.min() < 1.5, (person, kind)


def test_the_image_must_be_the_announced_one(truth):
    backend = OracleBackend(Blind(), "fields")
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(RuntimeError, match="look_at"):
        backend.run(image)
    backend.look_at(truth[0].record, Letterbox.fit((240, 320), (96, 128)))
    with pytest.raises(RuntimeError, match=r"announced for an input of \(96, 128\), got \(64, 64\)"):
        backend.run(image)
    with pytest.raises(ValueError, match="unknown oracle 'all'"):
        OracleBackend(Blind(), "all")
    backend.close()
    assert backend._network.closed


def wrong_fields(height: int, width: int) -> Fields:
    """What no annotation says, anywhere."""

    def all_of(value: float, *channels: int) -> np.ndarray:
        return np.full((*channels, height, width), value, np.float32)

    return Fields(
        heatmap=all_of(0.3, NUM_KEYPOINTS),
        offset=all_of(500.0, NUM_KEYPOINTS, 2),
        displacement=all_of(500.0, NUM_DIRECTED_EDGES, 2),
        person=all_of(0.3),
        embedding=all_of(500.0, 2),
        sigma=all_of(500.0),
        stride=4,
    )


@pytest.mark.parametrize("name", IDEAL_FIELDS)
def test_one_ideal_field_replaces_that_field_where_the_annotations_tell(truth, name):
    image = truth[0]
    letterbox = Letterbox.fit(image.image_hw, (256, 320))
    fields = wrong_fields(64, 80)
    mixed = with_ideal(fields, [name], image.record, letterbox, 12.0)
    targets = encode(ground_truth(image.record, plain_warp(image.record, (256, 320))), 4, 12.0)
    ideal = ideal_fields(targets, 4)
    changed = {n for n in vars(fields) if getattr(mixed, n) is not getattr(fields, n)}
    assert changed == ({name, "sigma"} if name == "embedding" else {name})
    new, true, old = (getattr(f, name) for f in (mixed, ideal, fields))
    if name == "heatmap":
        assert targets.heatmap_valid.all() and np.array_equal(new, true)
    elif name == "person":
        assert targets.person_valid.all() and np.array_equal(new, true)
    else:
        told = new != old
        assert told.any() and not told.all() and np.array_equal(new[told], true[told])
        where = {"offset": targets.disk_index, "displacement": targets.edge_index}.get(name)
        if where is not None:
            assert told[where[:, 0], :, where[:, 1], where[:, 2]].all() and told.sum() == 2 * len(where)
        else:
            assert np.array_equal(told[0], targets.instance > 0)


def test_nothing_is_replaced_where_nobody_knows(truth):
    record = truth[0].record
    crowd = dataclasses.replace(
        record, persons=tuple(dataclasses.replace(p, ignore=True, segmentation=None) for p in record.persons)
    )
    letterbox = Letterbox.fit(truth[0].image_hw, (256, 320))
    mixed = with_ideal(wrong_fields(64, 80), IDEAL_FIELDS, crowd, letterbox, 12.0)
    x, y, w, h = (crowd.persons[0].box_xywh[i] * 320 / record.width for i in range(4))
    row, col = int((y + h / 2) / 4), int((x + w / 2) / 4)
    assert (mixed.heatmap[:, row, col] == np.float32(0.3)).all() and mixed.person[row, col] == np.float32(0.3)
    assert (mixed.offset == 500).all() and (mixed.displacement == 500).all() and (mixed.embedding == 500).all()
    assert (mixed.heatmap == 0).any() and (mixed.person == 0).any()


def test_a_bank_of_joints_is_known_where_they_are_labelled(truth):
    record = truth[0].record
    legless = [dataclasses.replace(p, keypoints=p.keypoints.copy()) for p in record.persons]
    for person in legless:
        person.keypoints[11:] = 0
    record = dataclasses.replace(record, persons=tuple(legless))
    targets = encode(ground_truth(record, plain_warp(record, (256, 320))), 4, 12.0)
    inside = targets.instance > 0
    known = known_embedding(targets, bank=True)
    assert known.shape == (2 * NUM_KEYPOINTS, 64, 80)
    assert not known[22:, inside].any() and known[:, ~inside].all()
    for person, labelled in enumerate(targets.labelled):
        cells = known[:, targets.instance == person + 1]
        assert (cells == np.repeat(labelled, 2)[:, None]).all() and labelled[:11].any()
    assert known_embedding(targets, bank=False).all()


def entry(image: TruthImage, score: float, shift_px: float = 0.0, person: int = 0, mask: bool = True) -> dict:
    """An annotated person as a result, its pose moved; with the whole image's left half for a mask, or none."""
    annotation = image.annotations[person]
    keypoints = np.array(annotation["keypoints"], float).reshape(-1, 3) + [shift_px, 0, 0]
    left = np.zeros(image.image_hw, bool)
    left[:, : image.image_hw[1] // 2] = True
    out = {"image_id": image.image_id, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": score}
    return out | ({"segmentation": to_coco(left), "bbox": [0, 0, 1, 1]} if mask else {})


def test_ideal_scores_rank_by_the_truth_and_change_nothing_else(truth):
    image = truth[0]
    area = image.annotations[0]["area"]
    shift = 0.3 * np.sqrt(area)
    results = [entry(image, 0.9, shift, mask=False), entry(image, 0.8, 40 * shift), entry(image, 0.1)]
    by_oks, by_iou = ideal_scores([image], results)
    # One annotated person is worth one result: the exact one, though the nearer of the others is not far.
    assert [e["score"] for e in by_oks] == [0, pytest.approx(0, abs=1e-6), 1]
    persons = [annotation_mask(a["segmentation"], image.image_hw) for a in image.annotations]
    left = np.arange(image.image_hw[1])[None] < image.image_hw[1] // 2
    iou = sorted((person & left).sum() / (person | left).sum() for person in persons)[::-1]
    # Two results have the same mask; every annotation is shared out once.
    expected = sorted([0.0, iou[0], iou[1] if len(persons) > 1 else 0.0])
    assert sorted(e["score"] for e in by_iou) == pytest.approx(expected, abs=1e-6) and by_iou[0]["score"] == 0
    assert [e.pop("mask_score") for e in by_iou] == [e["score"] for e in by_iou]
    for entries in (by_oks, by_iou):
        assert [{**e, "score": r["score"]} for e, r in zip(entries, results)] == results


def test_ideal_scores_lift_what_the_order_cost(truth):
    alone = [dataclasses.replace(image, annotations=image.annotations[:1]) for image in truth]
    results = []
    for image in alone:
        results += [entry(image, 0.9, 500.0), entry(image, 0.2)]
    found = [Found(results, PersonPixels(), 0.0)]
    assert score(alone, found)["keypoints.AP"] == pytest.approx(0.5, abs=0.01)
    assert score(alone, found, rescore=ideal_scores)["keypoints.AP"] == pytest.approx(1)
    assert ideal_scores(alone, []) == ([], [])
