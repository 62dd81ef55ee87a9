"""The joint order and the tables made from it."""

import numpy as np

from kdc_core import skeleton as sk


def test_order_and_sigmas_are_cocos():
    from pycocotools.cocoeval import Params

    assert sk.NUM_KEYPOINTS == 17
    assert sk.KEYPOINT_NAMES[:3] == ("nose", "left_eye", "right_eye")
    assert sk.KEYPOINT_NAMES[-1] == "right_ankle"
    np.testing.assert_allclose(sk.OKS_SIGMAS, Params(iouType="keypoints").kpt_oks_sigmas, rtol=1e-6)


def test_flip_swaps_left_and_right_and_is_its_own_inverse():
    for i, name in enumerate(sk.KEYPOINT_NAMES):
        other = sk.KEYPOINT_NAMES[sk.FLIP_INDEX[i]]
        assert sk.FLIP_INDEX[sk.FLIP_INDEX[i]] == i
        assert other == name.replace("left_", "*").replace("right_", "left_").replace("*", "right_")


def test_tree_joins_every_keypoint_once():
    assert sk.NUM_EDGES == 16
    reached = {0}
    for _ in range(16):
        reached |= {b for a, b in sk.TREE_EDGES if a in reached}
    assert reached == set(range(17))
    assert sorted(b for _, b in sk.TREE_EDGES) == list(range(1, 17))  # each has one parent


def test_directed_edges_are_forward_then_backward():
    assert sk.NUM_DIRECTED_EDGES == 32
    for e in range(16):
        assert sk.DIRECTED_EDGES[e] == sk.TREE_EDGES[e]
        assert sk.DIRECTED_EDGES[16 + e] == sk.TREE_EDGES[e][::-1]


def test_mirrored_edge_joins_the_mirrored_ends():
    for e, (a, b) in enumerate(sk.DIRECTED_EDGES):
        mirrored = sk.FLIP_DIRECTED_EDGE[e]
        assert sk.DIRECTED_EDGES[mirrored] == (sk.FLIP_INDEX[a], sk.FLIP_INDEX[b])
        assert (mirrored < 16) == (e < 16)


def test_limbs_to_draw_are_cocos():
    coco = [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9]]
    coco += [[8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]]
    assert [[a + 1, b + 1] for a, b in sk.LIMBS] == coco


def test_high_variance_keypoints_are_the_ends_of_the_limbs():
    names = {sk.KEYPOINT_NAMES[i] for i in sk.HIGH_VARIANCE_KEYPOINTS}
    assert names == {f"{s}_{j}" for s in ("left", "right") for j in ("elbow", "wrist", "knee", "ankle")}
