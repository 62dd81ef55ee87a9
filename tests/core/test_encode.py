"""Ground truth to targets: disks, owners, edges, ignored regions, and the ideal fields."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdc_core.encode import EDGES_FROM, DiskRadius, GroundTruth, Targets, encode, ideal_fields
from kdc_core.geometry import cell_centres_xy
from kdc_core.skeleton import DIRECTED_EDGES, KEYPOINT_INDEX, NUM_KEYPOINTS

NOSE, EYE = KEYPOINT_INDEX["nose"], KEYPOINT_INDEX["left_eye"]
LEFT, RIGHT = KEYPOINT_INDEX["left_shoulder"], KEYPOINT_INDEX["right_shoulder"]


def truth(
    people: list[dict[int, tuple[float, float]]], hw: tuple[int, int] = (64, 96), **arrays
) -> GroundTruth:
    """Ground truth from each person's labelled keypoints; `arrays` replace the (empty) maps."""
    # Far away where nothing is labelled: must not be read.
    xy = np.full((len(people), NUM_KEYPOINTS, 2), -1e6, np.float32)
    labelled = np.zeros((len(people), NUM_KEYPOINTS), bool)
    for n, keypoints in enumerate(people):
        for k, place in keypoints.items():
            xy[n, k], labelled[n, k] = place, True
    maps = {
        "instance": np.zeros(hw, np.uint16),
        "has_mask": np.ones(len(people), bool),
        "keypoint_ignore": np.zeros(hw, bool),
        "mask_ignore": np.zeros(hw, bool),
    }
    return GroundTruth(keypoints_xy=xy, labelled=labelled, **{**maps, **arrays})


def disk_cells(targets: Targets, kind: int) -> dict[tuple[int, int], np.ndarray]:
    """Offsets of one keypoint type by (row, column)."""
    rows = targets.disk_index[:, 0] == kind
    cells = map(tuple, targets.disk_index[rows, 1:].tolist())
    return dict(zip(cells, targets.disk_offset[rows]))


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-20, 116),
    st.floats(-20, 84),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(6.0, 20.0),
)
def test_disk_is_every_cell_centre_within_the_radius(x, y, stride, radius):
    targets = encode(truth([{NOSE: (x, y)}]), stride, radius)
    centres = cell_centres_xy(64 // stride, 96 // stride, stride)
    distance = np.hypot(centres[0] - np.float32(x), centres[1] - np.float32(y))
    cells = disk_cells(targets, NOSE)
    found = np.zeros(distance.shape, bool)
    for row, col in cells:
        found[row, col] = True
    # Rounding decides on the circle itself.
    assert found[distance < radius - 1e-3].all()
    assert not found[distance > radius + 1e-3].any()
    for (row, col), offset in cells.items():
        np.testing.assert_allclose(centres[:, row, col] + offset, [x, y], atol=1e-4)
    assert not any(disk_cells(targets, k) for k in range(NUM_KEYPOINTS) if k != NOSE)


def test_offset_points_from_the_cell_centre_to_the_keypoint():
    cells = disk_cells(encode(truth([{NOSE: (10.0, 20.0)}]), 4, 8.0), NOSE)
    # Cell (row 5, column 2) is centred on (9.5, 21.5).
    assert cells[5, 2].tolist() == [0.5, -1.5]


@pytest.mark.parametrize("place", [(13.5, 29.5), (0.0, 0.0), (95.0, 63.0), (-0.5, 12.0), (11.4, 63.4), (15.5, 23.5)])
def test_disk_smaller_than_a_cell_still_owns_the_cell_it_lies_in(place):
    cells = disk_cells(encode(truth([{NOSE: place}]), 8, 1.0), NOSE)
    row, col = int((place[1] + 0.5) // 8), int((place[0] + 0.5) // 8)
    assert (row, col) in cells


def test_overlap_of_one_type_belongs_to_the_nearest_keypoint():
    a, b = (40.0, 30.0), (50.0, 34.0)
    for people in ([{NOSE: a}, {NOSE: b}], [{NOSE: b}, {NOSE: a}]):
        cells = disk_cells(encode(truth(people), 2, 12.0), NOSE)
        centres = cell_centres_xy(32, 48, 2)
        to_a, to_b = (np.hypot(centres[0] - x, centres[1] - y) for x, y in (a, b))
        shared = (to_a < 12) & (to_b < 12)
        assert shared.sum() > 20
        for (row, col), offset in cells.items():
            nearest = min(to_a[row, col], to_b[row, col])
            assert np.hypot(*offset) == pytest.approx(nearest, abs=1e-4)
        # The union of both disks, each cell once.
        assert len(cells) == ((to_a <= 12) | (to_b <= 12)).sum()


def test_different_types_do_not_take_each_others_cells():
    together = encode(truth([{NOSE: (40.0, 30.0)}, {EYE: (42.0, 31.0)}]), 4, 10.0)
    alone = encode(truth([{EYE: (42.0, 31.0)}]), 4, 10.0)
    assert disk_cells(together, EYE).keys() == disk_cells(alone, EYE).keys()
    assert len(disk_cells(together, NOSE)) > 10


def test_displacement_only_where_both_ends_are_labelled():
    people = [{NOSE: (20.0, 20.0), EYE: (26.0, 14.0), LEFT: (30.0, 40.0)}, {NOSE: (70.0, 20.0)}]
    targets = encode(truth(people), 4, 8.0)
    centres = cell_centres_xy(16, 24, 4)
    ends = {tuple(sorted(DIRECTED_EDGES[e])) for e in np.unique(targets.edge_index[:, 0])}
    assert ends == {(NOSE, EYE), (NOSE, LEFT)}  # right shoulder and right eye are not labelled
    for (edge, row, col), offset in zip(targets.edge_index, targets.edge_offset):
        near, far = DIRECTED_EDGES[edge]
        # Only on the first person's disks, from each cell's own centre to the far end.
        np.testing.assert_allclose(centres[:, row, col] + offset, people[0][far], atol=1e-4)
        assert np.hypot(*(centres[:, row, col] - people[0][near])) <= 8.0
    for edge in EDGES_FROM[NOSE]:
        count = (targets.edge_index[:, 0] == edge).sum()
        own = sum(col < 12 for _, col in disk_cells(targets, NOSE))
        assert count == (own if DIRECTED_EDGES[edge][1] in (EYE, LEFT) else 0)


def test_displacement_follows_the_owner_where_disks_overlap():
    people = [{NOSE: (40.0, 30.0), EYE: (10.0, 10.0)}, {NOSE: (48.0, 30.0)}]
    targets = encode(truth(people), 2, 10.0)
    edge = DIRECTED_EDGES.index((NOSE, EYE))
    cols = targets.edge_index[targets.edge_index[:, 0] == edge, 2]
    # The second nose's cells lie right of x = 44; its eye is unknown and the first one's must not be used.
    assert len(cols) and cell_centres_xy(32, 48, 2)[0, 0, cols].max() < 44


def test_border_cuts_disks_and_far_keypoints_give_none():
    targets = encode(truth([{NOSE: (0.0, 0.0)}, {EYE: (-50.0, 20.0)}, {LEFT: (1e7, -1e7)}]), 4, 8.0)
    # Centres 1.5 and 5.5 either way.
    assert set(disk_cells(targets, NOSE)) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert set(targets.disk_index[:, 0]) == {NOSE}


def test_far_end_out_of_view_is_still_pointed_at():
    # The joint itself has no disk, but the near end knows where it went.
    targets = encode(truth([{NOSE: (20.0, 20.0), LEFT: (20.0, 90.0)}]), 4, 8.0)
    edges = {DIRECTED_EDGES[e] for e in np.unique(targets.edge_index[:, 0])}
    assert edges == {(NOSE, LEFT)}
    assert targets.edge_offset[:, 1].min() > 60


@pytest.mark.parametrize("people", [[], [{}], [{}, {}]])
def test_nobody_and_nothing_labelled(people):
    targets = encode(truth(people), 4, 8.0)
    assert targets.disk_index.shape == (0, 3) and targets.disk_offset.shape == (0, 2)
    assert targets.edge_index.shape == (0, 3) and targets.edge_offset.shape == (0, 2)
    assert targets.heatmap_valid.all() and targets.person_valid.all()
    assert targets.person.shape == (16, 24) and not targets.person.any()
    assert targets.centroids_xy.shape == (len(people), 2) and np.isnan(targets.centroids_xy).all()
    fields = ideal_fields(targets, 4)
    assert not fields.heatmap.any() and not fields.person.any()


def test_masks_become_cover_and_instance():
    instance = np.zeros((8, 16), np.uint16)
    instance[:, 2:9] = 1
    instance[4:, 9:] = 2
    targets = encode(truth([{}, {}], (8, 16), instance=instance), 4, 8.0)
    assert targets.person.tolist() == [[0.5, 1.0, 0.25, 0.0], [0.5, 1.0, 1.0, 1.0]]
    # The pixel just right of and below the cell's centre decides: columns 2, 6, 10, 14.
    assert targets.instance.tolist() == [[1, 1, 0, 0], [1, 1, 2, 2]]


def test_ignored_regions():
    keypoints, masks = np.zeros((8, 16), bool), np.zeros((8, 16), bool)
    keypoints[:, :6] = True  # the whole first column of cells, half of the second
    masks[0, 8:12] = True  # a quarter of one cell
    targets = encode(truth([], (8, 16), keypoint_ignore=keypoints, mask_ignore=masks), 4, 8.0)
    assert targets.heatmap_valid.tolist() == [[False, True, True, True]] * 2
    assert targets.person_valid.tolist() == [[True, True, False, True], [True] * 4]


def test_static_centroid_is_right_shoulder_else_left_else_mask_mean():
    instance = np.zeros((64, 96), np.uint16)
    instance[10:21, 30:51] = 3
    nose = {NOSE: (1.0, 1.0)}
    people = [{RIGHT: (5.0, 6.0), LEFT: (9.0, 6.0)}, {LEFT: (9.0, 6.0)}, nose, nose]
    centroids = encode(truth(people, instance=instance), 4, 8.0).centroids_xy
    assert centroids[:3].tolist() == [[5.0, 6.0], [9.0, 6.0], [40.0, 15.0]]
    assert np.isnan(centroids[3]).all()


def test_input_must_be_whole_cells():
    with pytest.raises(ValueError, match="whole number of cells"):
        encode(truth([], (63, 96)), 4, 8.0)


@pytest.mark.parametrize("bank", [False, True])
def test_ideal_fields_point_home(bank):
    instance = np.zeros((64, 96), np.uint16)
    instance[10:40, 10:30], instance[20:60, 50:90] = 1, 2
    people = [{NOSE: (20.0, 12.0), EYE: (22.0, 11.0)}, {NOSE: (70.0, 25.0), RIGHT: (60.0, 40.0)}]
    targets = encode(truth(people, instance=instance), 4, 8.0)
    fields = ideal_fields(targets, 4, bank)
    centres = cell_centres_xy(16, 24, 4)
    assert fields.heatmap.sum() == len(targets.disk_index)
    for k, row, col in targets.disk_index:
        goal = centres[:, row, col] + fields.offset[k, :, row, col]
        assert any(np.allclose(goal, p[k], atol=1e-4) for p in people if k in p)
    for n, keypoints in enumerate(people):
        inside = targets.instance == n + 1
        votes = centres[None, :, inside] + fields.embedding.reshape(-1, 2, 16, 24)[:, :, inside]
        goals = keypoints.items() if bank else [(0, targets.centroids_xy[n])]
        for channel, goal in goals:
            np.testing.assert_allclose(votes[channel].T, np.broadcast_to(goal, (inside.sum(), 2)), atol=1e-3)
        assert (fields.sigma[inside] >= 4).all()


def test_disks_by_tolerance_grow_with_person_and_joint_within_their_limits():
    # sigma of the nose 0.026, of the hips 0.107; kappa = 2 sigma * size.
    radii = DiskRadius(8.0, 20.0, 1.25).of(np.array([10.0, 200.0, 1000.0], np.float32))
    hip = KEYPOINT_INDEX["left_hip"]
    assert radii.shape == (3, NUM_KEYPOINTS) and radii.dtype == np.float32
    assert radii[0].tolist() == [8.0] * NUM_KEYPOINTS
    assert radii[1, NOSE] == pytest.approx(1.25 * 2 * 0.026 * 200) and radii[1, hip] == 20.0
    assert radii[2].tolist() == [20.0] * NUM_KEYPOINTS
    assert DiskRadius(9.0, 9.0).of(np.array([5.0, 500.0])).tolist() == [[9.0] * NUM_KEYPOINTS] * 2


def test_size_of_a_person_is_that_of_its_keypoints_and_mask_in_view():
    instance = np.zeros((128, 128), np.uint16)
    instance[8:120, 40:80] = 1  # 112 x 40 pixels, which are whole cells
    made = truth([{NOSE: (60.0, 20.0), LEFT: (90.0, 40.0)}, {NOSE: (10.0, 10.0)}], (128, 128), instance=instance)
    targets = encode(made, 4, DiskRadius(3.0, 40.0, 1.25))
    radius = dict(zip(map(tuple, targets.disk_index.tolist()), targets.disk_radius_px.tolist()))
    size = np.sqrt(0.53 * 112 * (90 - 40))
    # Cell (5, 15) is centred on (61.5, 21.5), cell (10, 22) on (89.5, 41.5); who is a single point has the least disk.
    assert radius[NOSE, 5, 15] == pytest.approx(1.25 * 2 * 0.026 * size, rel=1e-5)
    assert radius[LEFT, 10, 22] == pytest.approx(1.25 * 2 * 0.079 * size, rel=1e-5)
    assert radius[NOSE, 2, 2] == 3.0
    # An edge is measured by the disk it should land in.
    landing = targets.edge_radius_px[targets.edge_index[:, 0] == DIRECTED_EDGES.index((NOSE, LEFT))]
    assert set(landing.tolist()) == {radius[LEFT, 10, 22]}
    cells = disk_cells(targets, LEFT)
    centres = cell_centres_xy(32, 32, 4)
    inside = np.hypot(centres[0] - 90, centres[1] - 40) <= radius[LEFT, 10, 22]
    assert set(cells) == set(map(tuple, np.argwhere(inside).tolist()))


def test_a_number_is_the_same_radius_for_all():
    instance = np.zeros((64, 96), np.uint16)
    instance[0:64, 0:90] = 1
    made = truth([{NOSE: (40.0, 30.0), EYE: (60.0, 20.0)}], instance=instance)
    plain, wrapped = encode(made, 4, 8.0), encode(made, 4, DiskRadius(8.0, 8.0))
    assert plain.disk_index.tolist() == wrapped.disk_index.tolist()
    assert set(plain.disk_radius_px) == set(plain.edge_radius_px) == {8.0}
