"""COCO-format files: what is read, and what is said about a malformed record."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from kdc_model.data.coco import AnnotationError, add_pseudo_masks, load_records

MASK = np.zeros((20, 30), np.uint8)
MASK[5:15, 10:20] = 1
RLE = coco_mask.encode(np.asfortranarray(MASK))
RLE = {"size": [20, 30], "counts": RLE["counts"].decode()}
KEYPOINTS = [10, 6, 2] + [0, 0, 0] * 15 + [19, 14, 1]
BOX = [10, 5, 10, 10]

GOOD = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
        {
            "id": 9,
            "file_name": "b.png",
            "height": 20,
            "width": 30,
            "masks_complete": False,
            "crowd_prob": 0.9,
        },
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": BOX, "keypoints": KEYPOINTS, "segmentation": RLE},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 1,
            "bbox": BOX,
            "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]],
        },
        {"id": 3, "image_id": 7, "category_id": 1, "bbox": BOX, "segmentation": RLE, "iscrowd": 1},
        {"id": 4, "image_id": 7, "category_id": 18, "bbox": "a dog's"},
        {
            "id": 5,
            "image_id": 7,
            "bbox": BOX,
            "keypoints": KEYPOINTS,
            "all_keypoints": False,
            "segmentation": RLE,
            "has_mask": False,
        },
        {"id": 6, "image_id": 7, "bbox": BOX, "segmentation": []},
    ],
}


@pytest.fixture
def files(tmp_path):
    """Writes an annotation file beside (empty) pictures; returns the paths to give to `load_records`."""
    (tmp_path / "a.png").touch()

    def write(data, name="annotations.json"):
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return path, tmp_path

    return write


def test_reads_what_is_there(files):
    first, second = load_records(*files(GOOD))
    assert (first.image_id, first.path.name, first.height, first.width) == (7, "a.png", 20, 30)
    assert first.crowd_prob == 0.0
    assert second.crowd_prob == 0.9 and second.persons == ()
    assert len(first.persons) == 5  # the dog is nobody
    assert [p.ignore for p in first.persons] == [False, False, True, False, True]  # a crowd; nothing known
    assert [p.has_keypoints for p in first.persons] == [True, False, False, True, False]
    assert [p.all_keypoints for p in first.persons] == [True, True, True, False, True]
    with_both = first.persons[0]
    assert with_both.keypoints.shape == (17, 3) and with_both.keypoints[16].tolist() == [19, 14, 1]
    assert with_both.box_xywh == (10, 5, 10, 10)
    assert np.array_equal(with_both.polygons_or_mask(20, 30), MASK)
    polygons = first.persons[1].polygons_or_mask(20, 30)
    assert polygons[0].tolist() == [[10, 5], [20, 5], [20, 15], [10, 15]]
    assert first.persons[3].polygons_or_mask(20, 30) is None  # has_mask is False


def test_uncompressed_rle(files):
    flat = MASK.ravel(order="F")
    ends = np.flatnonzero(np.diff(np.concatenate([[2], flat, [2]])))
    counts = np.diff(ends).tolist()  # begins with the background's run, as COCO wants
    data = copy.deepcopy(GOOD)
    data["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": counts}
    assert np.array_equal(load_records(*files(data))[0].persons[0].polygons_or_mask(20, 30), MASK)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bbox": None}, "bbox must be"),
        ({"bbox": [1, 2, 3]}, "bbox must be"),
        ({"bbox": [1, 2, -3, 4]}, "bbox must be"),
        ({"bbox": [1, 2, "3", None]}, "bbox must be"),
        ({"bbox": ["1", "2", "3", "4"]}, "bbox must be"),
        ({"bbox": [1, 2, True, 4]}, "bbox must be"),
        ({"bbox": [[1], [2], [3], [4]]}, "bbox must be"),
        ({"bbox": [1e300, 1e300, 1e300, 1e300]}, r"bbox must be .* within 1e\+07 px"),
        ({"bbox": [10**400, 2, 3, 4]}, "bbox must be"),
        ({"keypoints": [1, 2, 3]}, "51 numbers"),
        ({"keypoints": None}, "51 numbers"),
        ({"keypoints": ["x"] * 51}, "51 numbers"),
        ({"keypoints": ["1"] * 51}, "51 numbers"),
        ({"keypoints": [True] * 51}, "51 numbers"),
        ({"keypoints": [1e39, 1e39, 2] * 17}, r"51 numbers x, y, v within 1e\+07 px"),
        ({"keypoints": [float("nan")] * 51}, "51 numbers"),
        ({"keypoints": [1, 2, 3] * 17}, "v 0, 1 or 2"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "polygons"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "polygons"),
        ({"segmentation": [["a", 2, 3, 4, 5, 6]]}, "polygons"),
        ({"segmentation": [["1", "2", "3", "4", "5", "6"]]}, "polygons"),
        ({"segmentation": [[]]}, "polygons .* of 3 points or more"),
        ({"segmentation": [[1, 2]]}, "polygons .* of 3 points or more"),
        ({"segmentation": [[10, 5, 20, 5, 20, 15], [10, 10, 30, 30]]}, "polygons .* of 3 points or more"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, r"polygons .* within 1e\+07 px"),
        ({"segmentation": {"counts": "abc"}}, "size and counts"),
        ({"segmentation": "abc"}, "size and counts"),
        ({"segmentation": {**RLE, "size": [30, 20]}}, r"size \[30, 20\] is not the image's, \[20, 30\]"),
        ({"segmentation": {**RLE, "counts": 5}}, "text or a list"),
        ({"segmentation": {**RLE, "counts": [10, 20]}}, "not an RLE: .* add up to 20 x 30"),
        ({"segmentation": {**RLE, "counts": []}}, "add up to 20 x 30"),
        ({"segmentation": {**RLE, "counts": ""}}, "add up to 20 x 30"),
        ({"segmentation": {**RLE, "counts": "garbage"}}, "not an RLE"),
        ({"segmentation": {**RLE, "counts": [-5, 605]}}, "whole numbers"),
        ({"segmentation": {**RLE, "counts": ["a"]}}, "whole numbers"),
        ({"area": None}, "area must be a number"),
        ({"area": "large"}, "area must be a number"),
        ({"area": "12"}, "area must be a number"),
        ({"area": float("nan")}, "area must be a number"),
        ({"category_id": "1"}, "category_id must be a whole number, got '1'"),
        ({"category_id": None}, "category_id must be a whole number"),
        ({"category_id": True}, "category_id must be a whole number"),
        ({"iscrowd": "0"}, "iscrowd must be 0 or 1, got '0'"),
        ({"iscrowd": 2}, "iscrowd must be 0 or 1"),
        ({"ignore": "false"}, "ignore must be 0 or 1"),
        ({"has_mask": "false"}, "has_mask must be 0 or 1"),
        ({"all_keypoints": []}, "all_keypoints must be 0 or 1"),
        ({"image_id": 8}, "image_id must be"),
        ({"image_id": None}, "image_id must be"),
        ({"image_id": "7"}, "image_id must be"),
        ({"image_id": [7]}, "image_id must be"),
        ({"image_id": 7.0}, "image_id must be"),
    ],
)
def test_malformed_annotation_names_file_record_and_expectation(files, change, expected):
    data = copy.deepcopy(GOOD)
    data["annotations"][0].update(change, id=4711)
    with pytest.raises(AnnotationError, match=expected) as caught:
        load_records(*files(data))
    assert "annotations.json" in str(caught.value) and "annotation 4711" in str(caught.value)


def test_ids_that_occur_twice(files):
    twice = [*GOOD["annotations"], {**GOOD["annotations"][0], "image_id": 9}]
    with pytest.raises(AnnotationError, match=r"annotations\.json: two annotations have the id 1"):
        load_records(*files({**GOOD, "annotations": twice}))
    joined = [*GOOD["images"], {**GOOD["images"][0], "file_name": "c.png"}]
    with pytest.raises(AnnotationError, match=r"annotations\.json: two images have the id 7"):
        load_records(*files({**GOOD, "images": joined}))


def test_the_person_category_is_known_by_its_name(files):
    people = [{**a, "category_id": 0} for a in GOOD["annotations"] if a["id"] != 4]
    dog = [{**GOOD["annotations"][3], "category_id": 1}]
    named = {**GOOD, "annotations": people + dog, "categories": [{"id": 1, "name": "dog"}, {"id": 0, "name": "person"}]}
    assert len(load_records(*files(named))[0].persons) == 5
    with pytest.raises(AnnotationError, match="no category is named 'person', and none .* is of category 1"):
        load_records(*files({**named, "annotations": people, "categories": [{"id": 0, "name": "human"}]}))
    # Pictures of dogs only are good negatives.
    assert load_records(*files({**named, "annotations": dog}))[0].persons == ()
    with pytest.raises(AnnotationError, match="'categories' must be a list"):
        load_records(*files({**GOOD, "categories": 5}))
    with pytest.raises(AnnotationError, match="the person category's id must be a whole number, got '1'"):
        load_records(*files({**GOOD, "categories": [{"id": "1", "name": "person"}]}))
    assert load_records(*files({**GOOD, "categories": [{"id": [1], "name": "dog"}]}))[0].persons


@pytest.mark.parametrize("true", [1, True])
def test_flags_are_numbers_or_truth_values(files, true):
    data = copy.deepcopy(GOOD)
    flags = {"iscrowd": true, "ignore": true, "has_mask": true, "all_keypoints": true}
    data["annotations"][0].update(flags)
    data["annotations"][4].update({key: type(true)(0) for key in flags})
    first, *_, fifth, _ = load_records(*files(data))[0].persons
    for person, expected in ((first, True), (fifth, False)):
        assert (person.crowd, person.ignore, person.all_keypoints) == (expected, expected, expected)
        assert (person.segmentation is not None) == expected


@pytest.mark.parametrize(
    "image",
    [
        {"id": 7},
        {"id": "seven", "file_name": "a.png", "height": 20, "width": 30},
        {"id": "7", "file_name": "a.png", "height": 20, "width": 30},
        {"id": 7.5, "file_name": "a.png", "height": 20, "width": 30},
        {"id": True, "file_name": "a.png", "height": 20, "width": 30},
        {"id": 7, "file_name": "a.png", "height": float("inf"), "width": 30},
        {"id": 7, "file_name": 5, "height": 20, "width": 30},
        {"id": 7, "file_name": "a.png", "height": None, "width": 30},
        {"id": 7, "file_name": "a.png", "height": 0, "width": 30},
        "a.png",
    ],
)
def test_malformed_image_record(files, image):
    with pytest.raises(AnnotationError, match="needs id, file_name, height and width") as caught:
        load_records(*files({"images": [image], "annotations": []}))
    assert "annotations.json" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), "0.9", None, -0.1, 1.5, True])
def test_malformed_crowd_prob(files, value):
    images = [GOOD["images"][0], {**GOOD["images"][1], "crowd_prob": value}]
    with pytest.raises(AnnotationError, match=r"annotations\.json: image 9: crowd_prob must be a number from 0 to 1"):
        load_records(*files({**GOOD, "images": images}))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([], "expected the keys images, annotations"),
        ({"images": []}, "expected the keys images, annotations"),
        ({"images": {}, "annotations": []}, "'images' must be a list"),
        ({"images": [], "annotations": {"1": {}}}, "'annotations' must be a list"),
        ({"images": [], "annotations": [5]}, "annotation 5 must be a mapping"),
    ],
)
def test_file_that_is_no_annotation_file(files, data, expected):
    with pytest.raises(AnnotationError, match=expected):
        load_records(*files(data))


def test_missing_files(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        load_records(tmp_path / "nothing.json", tmp_path)
    path, _ = files(GOOD)
    with pytest.raises(FileNotFoundError, match="none of the 2 images"):
        load_records(path, tmp_path / "elsewhere")
    assert load_records(*files({"images": [], "annotations": []})) == []


def test_pseudo_masks_fill_gaps_from_a_quality_up(files):
    path, folder = files(GOOD)
    other = np.zeros((20, 30), np.uint8)
    other[0, 0] = 1
    made = coco_mask.encode(np.asfortranarray(other))["counts"].decode()
    entry = {"size": [20, 30], "counts": made, "quality": 0.8}
    masks, _ = files({"masks": {"1": entry, "5": entry, "6": {**entry, "quality": 0.5}}}, "masks.json")
    persons = add_pseudo_masks(load_records(path, folder), masks, 0.7)[0].persons
    assert np.array_equal(persons[0].polygons_or_mask(20, 30), MASK)  # a true mask stays
    assert np.array_equal(persons[3].polygons_or_mask(20, 30), other)
    assert persons[4].segmentation is None  # too uncertain
    assert persons[3].has_keypoints and not persons[3].ignore
    assert persons[4].ignore


def test_a_pseudo_mask_makes_somebody_of_an_unknown_person_but_not_of_a_crowd(files):
    hidden = [{**a, "has_mask": False} if a["id"] == 3 else a for a in GOOD["annotations"]]
    path, folder = files({**GOOD, "annotations": hidden})
    made = coco_mask.encode(np.asfortranarray(MASK))["counts"].decode()
    entry = {"size": [20, 30], "counts": made, "quality": 0.8}
    masks, _ = files({"masks": {"3": entry, "6": entry}}, "masks.json")
    _, _, crowd, _, unknown = add_pseudo_masks(load_records(path, folder), masks, 0.7)[0].persons
    assert (crowd.annotation_id, crowd.crowd, crowd.ignore) == (3, True, True)
    assert (unknown.annotation_id, unknown.crowd, unknown.ignore) == (6, False, False)
    assert unknown.mask_quality == 0.8 and not unknown.has_keypoints


def test_pseudo_masks_need_ids(files):
    nameless = [{k: v for k, v in a.items() if k != "id"} for a in GOOD["annotations"]]
    path, folder = files({**GOOD, "annotations": nameless})
    masks, _ = files({"masks": {"0": {**RLE, "quality": 0.9}}}, "masks.json")
    with pytest.raises(AnnotationError, match=r"a\.png has no id"):
        add_pseudo_masks(load_records(path, folder), masks, 0.7)


NO_QUALITY = ("0.9", None, [0.9], float("nan"), 7.0, -0.1)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"size": [20, 30], "counts": "1"}, "mask 5 needs quality"),
        ({"size": [9, 9], "counts": "1", "quality": 0.9}, "mask 5: the segmentation's size"),
        *(({**RLE, "quality": q}, r"masks\.json: mask 5: quality must be a number from 0 to 1") for q in NO_QUALITY),
    ],
)
def test_malformed_pseudo_mask(files, entry, expected):
    path, folder = files(GOOD)
    masks, _ = files({"masks": {"5": entry}}, "masks.json")
    with pytest.raises(AnnotationError, match=expected):
        add_pseudo_masks(load_records(path, folder), masks, 0.7)
