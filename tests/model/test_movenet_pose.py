"""MoveNet SinglePose: crops, heads and keypoints of a made graph with known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdc_core.skeleton import KEYPOINT_INDEX
from kdc_model.teacher.movenet_pose import SinglePose, single_poses
from tests.model.single_pose_graph import INPUT_PX, OFFSET, write_single_pose

NOSE, LEFT_SHOULDER, ANKLE = (KEYPOINT_INDEX[name] for name in ("nose", "left_shoulder", "left_ankle"))
SPOTS = ((0, NOSE), (1, LEFT_SHOULDER), (2, ANKLE))


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> SinglePose:
    return SinglePose.load(write_single_pose(tmp_path_factory.mktemp("graph")))


def with_spots(hw: tuple[int, int], places: dict[int, tuple[float, float]], size: int) -> np.ndarray:
    """A black picture with a square of each colour channel around a place, x and y with edges at integers."""
    image = np.zeros((*hw, 3), np.uint8)
    for channel, (x, y) in places.items():
        left, top = round(x - size / 2), round(y - size / 2)
        image[top : top + size, left : left + size, channel] = 255
    return image


def test_the_graph_is_run_node_by_node(network):
    crop = with_spots((INPUT_PX, INPUT_PX), {0: (10, 22), 1: (62, 46), 2: (90, 110)}, 4)
    fields = network.fields(crop[None])
    assert {head: field.shape for head, field in fields.items()} == {
        "center": (1, 1, 32, 32), "kpt_heatmap": (1, 17, 32, 32),
        "kpt_regress": (1, 34, 32, 32), "kpt_offset": (1, 34, 32, 32),
    }  # fmt: skip
    heatmap = fields["kpt_heatmap"][0]
    for keypoint, cell in ((NOSE, (5, 2)), (LEFT_SHOULDER, (11, 15)), (ANKLE, (27, 22))):
        assert heatmap[keypoint][cell] == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-3)
        assert np.delete(heatmap[keypoint].ravel(), np.ravel_multi_index(cell, (32, 32))).max() < 0.003
    (points,) = single_poses(fields)
    for keypoint, cell in ((NOSE, (5, 2)), (LEFT_SHOULDER, (11, 15)), (ANKLE, (27, 22))):
        np.testing.assert_allclose(points[keypoint, :2], [(cell[1] + OFFSET[1]) / 32, (cell[0] + OFFSET[0]) / 32])


def test_of_two_people_the_middle_one_and_its_own_keypoints():
    """The surer centre at the border loses; so does the surer nose, far from where the centre expects one."""
    shape = (1, 17, 16, 16)
    fields = {
        "center": np.full((1, 1, 16, 16), 0.01, np.float32),
        "kpt_heatmap": np.full(shape, 0.01, np.float32),
        "kpt_regress": np.zeros((1, 34, 16, 16), np.float32),
        "kpt_offset": np.zeros((1, 34, 16, 16), np.float32),
    }
    fields["center"][0, 0, 8, 7], fields["center"][0, 0, 8, 15] = 0.6, 0.9
    fields["kpt_regress"][0, 2 * NOSE : 2 * NOSE + 2, 8, 7] = -5, 1  # y, x: expected at row 3, column 8
    fields["kpt_heatmap"][0, NOSE, 2, 8], fields["kpt_heatmap"][0, NOSE, 3, 14] = 0.5, 0.9
    fields["kpt_offset"][0, 2 * NOSE : 2 * NOSE + 2, 2, 8] = 0.5, 0.25
    (points,) = single_poses(fields)
    np.testing.assert_allclose(points[NOSE], [8.25 / 16, 2.5 / 16, 0.5], rtol=1e-6)


@pytest.mark.parametrize("side", [60, 128, 400, 1000])  # enlarged, as it is, reduced, reduced twice
def test_keypoints_in_the_pictures_pixels(network, side):
    """To the cell: a spot has two of them, and the median of plain and mirrored views lies near its middle."""
    x0, y0 = 0.3 * side, 0.2 * side
    cell = 1.35 * side / 32
    parts = {0: (0.5, 0.2), 1: (0.3, 0.4), 2: (0.7, 1.0)}
    places = {channel: (x0 + x * side, y0 + y * side) for channel, (x, y) in parts.items()}
    image = with_spots((round(1.5 * side), round(1.6 * side)), places, round(2 * cell))
    nobody = [0.0, 0.0, 0.1 * side, 0.1 * side]
    points = network.poses(image, [[x0, y0, side, 1.1 * side], nobody])
    assert points.shape == (2, 17, 3) and points.dtype == np.float32
    for channel, keypoint in SPOTS:
        error = points[0, keypoint, :2] + 0.5 - places[channel]
        assert np.abs(error).max() < 1.1 * cell, (channel, error)
        assert points[0, keypoint, 2] > 0.7 and points[1, keypoint, 2] < 0.1


def test_left_and_right_change_places_in_the_mirror(network, monkeypatch):
    """With a network that sees left wrists at the crop's left and right ones at its right, mirrored or not."""
    left, right = KEYPOINT_INDEX["left_wrist"], KEYPOINT_INDEX["right_wrist"]

    def fields(crops: np.ndarray) -> dict[str, np.ndarray]:
        out = {"center": np.ones((len(crops), 1, 8, 8)), "kpt_heatmap": np.full((len(crops), 17, 8, 8), 0.01)}
        out |= {head: np.zeros((len(crops), 34, 8, 8)) for head in ("kpt_regress", "kpt_offset")}
        out["kpt_heatmap"][:, left, 4, 1] = out["kpt_heatmap"][:, right, 4, 7] = 0.8
        return out

    monkeypatch.setattr(network, "fields", fields)
    (points,) = network.poses(np.zeros((80, 80, 3), np.uint8), [[20, 20, 40, 40]])
    assert points[left, 2] == points[right, 2] == pytest.approx(0.8)
    middle = 39.5  # in the mirror a left wrist lies where the right one does in the picture
    assert points[left, 0] < middle - 10 and points[right, 0] > middle + 10


def test_nobody_to_look_at(network):
    assert network.poses(np.zeros((40, 40, 3), np.uint8), []).shape == (0, 17, 3)


def test_a_graph_that_is_no_single_pose_network(tmp_path):
    path = write_single_pose(tmp_path)
    graph = json.loads(path.read_text())
    nodes = graph["modelTopology"]["node"]
    graph["modelTopology"]["node"] = [n for n in nodes if not n["name"].startswith("kpt_regress")]
    path.write_text(json.dumps(graph))
    with pytest.raises(ValueError, match="is no MoveNet SinglePose"):
        SinglePose.load(path)
    path.write_text(json.dumps({"weightsManifest": graph["weightsManifest"]}))
    with pytest.raises(ValueError, match="is no MoveNet SinglePose"):
        SinglePose.load(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        SinglePose.load(tmp_path / "missing.json")
