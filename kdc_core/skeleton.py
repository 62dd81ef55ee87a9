"""The human skeleton: COCO's 17 keypoints, the tree that joins them, and their OKS constants.

One place for the joint order. Everything else (targets, network, decoder, messages, drawing) imports it from
here.
"""

from __future__ import annotations

import numpy as np

KEYPOINT_NAMES: tuple[str, ...] = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
NUM_KEYPOINTS = len(KEYPOINT_NAMES)
KEYPOINT_INDEX: dict[str, int] = {name: i for i, name in enumerate(KEYPOINT_NAMES)}

# COCO keypoint evaluation constants (cocoapi, cocoeval.py: kpt_oks_sigmas).
OKS_SIGMAS = (
    np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], np.float32) / 1000.0
)

# A person's area as a share of its box, where there is no mask (CrowdPose's evaluation).
PERSON_AREA_SHARE = 0.53

# Index of each keypoint's mirror image.
FLIP_INDEX: tuple[int, ...] = tuple(
    KEYPOINT_INDEX[
        name.replace("left", "right") if name.startswith("left") else name.replace("right", "left")
    ]
    for name in KEYPOINT_NAMES
)

# The kinematic tree that the decoder walks (PersonLab's 16 edges), each as (a, b).
TREE_EDGES: tuple[tuple[int, int], ...] = tuple(
    (KEYPOINT_INDEX[a], KEYPOINT_INDEX[b])
    for a, b in (
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("nose", "left_shoulder"),
        ("nose", "right_shoulder"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
        ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"),
        ("left_hip", "left_knee"),
        ("right_hip", "right_knee"),
        ("left_knee", "left_ankle"),
        ("right_knee", "right_ankle"),
        ("left_shoulder", "left_elbow"),
        ("right_shoulder", "right_elbow"),
        ("left_elbow", "left_wrist"),
        ("right_elbow", "right_wrist"),
    )
)
NUM_EDGES = len(TREE_EDGES)

# Every edge in both directions: first the 16 forward (a -> b), then the 16 backward (b -> a).
# The displacement field has two channels (dx, dy) for each, in this order.
DIRECTED_EDGES: tuple[tuple[int, int], ...] = TREE_EDGES + tuple((b, a) for a, b in TREE_EDGES)
NUM_DIRECTED_EDGES = len(DIRECTED_EDGES)

# Mirror image of each directed edge.
FLIP_DIRECTED_EDGE: tuple[int, ...] = tuple(
    DIRECTED_EDGES.index((FLIP_INDEX[a], FLIP_INDEX[b])) for a, b in DIRECTED_EDGES
)

# Keypoints whose place varies most (KDC section 3.1, "HVK"): they get the narrower smoothing.
HIGH_VARIANCE_KEYPOINTS: tuple[int, ...] = tuple(
    i
    for i, name in enumerate(KEYPOINT_NAMES)
    if name.endswith(("wrist", "ankle", "elbow", "knee"))
)

# Bones as people expect to see them drawn (COCO's skeleton; not the decoder's tree).
LIMBS: tuple[tuple[int, int], ...] = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (1, 2),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)
