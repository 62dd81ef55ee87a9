"""Articulated walkers in metres, seen by a pinhole camera: places of the 17 keypoints, who hides whom, label maps.

World: X to the right, Z away from the camera, Y up; the floor is Y = 0. The camera stands at (pan, CAMERA_HEIGHT_M, 0)
and looks along Z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.skeleton import KEYPOINT_INDEX, LIMBS, NUM_KEYPOINTS

IMAGE_HW = (360, 640)
FOCAL_PX = 480.0
CAMERA_HEIGHT_M = 1.2
STRIDE_M = 1.45  # length of a double step


@dataclass(frozen=True)
class Walker:
    """A person on a way: knots (stamp s, X m, Z m) joined by straight lines. Absent before the first knot and after
    the last. height_m scales the body; phase (rad) offsets the gait."""

    knots: tuple[tuple[float, float, float], ...]
    height_m: float = 1.7
    phase: float = 0.0

    def ground(self, t: float) -> tuple[np.ndarray, np.ndarray, float] | None:
        """Place (X, Z), heading (unit vector in X, Z) and distance walked in metres at `t`; None while absent."""
        knots = np.asarray(self.knots)
        if not knots[0, 0] <= t <= knots[-1, 0]:
            return None
        place = np.array([np.interp(t, knots[:, 0], knots[:, i]) for i in (1, 2)])
        steps = np.diff(knots[:, 1:], axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        walked = np.interp(t, knots[:, 0], np.concatenate([[0.0], np.cumsum(lengths)]))
        part = int(np.clip(np.searchsorted(knots[:, 0], t, side="right") - 1, 0, len(steps) - 1))
        # Someone who stands looks where she walked last (or will walk first).
        moving = [i for i in (*range(part, -1, -1), *range(part, len(steps))) if lengths[i] > 1e-6]
        heading = steps[moving[0]] / lengths[moving[0]] if moving else np.array([1.0, 0.0])
        return place, heading, float(walked)


def _body(phase: float, height_m: float) -> np.ndarray:
    """Joints (K, 3) in metres: forward, to the left, up, from the point on the floor under the hips."""
    joints = np.zeros((NUM_KEYPOINTS, 3))
    fixed = {"nose": (0.11, 0, 1.57), "eye": (0.09, 0.032, 1.61), "ear": (0.0, 0.075, 1.59),
             "shoulder": (0.0, 0.19, 1.42), "hip": (0.0, 0.10, 0.92)}  # fmt: skip
    for name, k in KEYPOINT_INDEX.items():
        side = -1.0 if name.startswith("right") else 1.0
        part = name.split("_")[-1]
        if part in fixed:
            forward, left, up = fixed[part]
            joints[k] = forward, side * left, up
            continue
        swing = np.sin(phase) * side
        if part in ("knee", "ankle"):
            thigh = 0.42 * swing
            shin = thigh - 0.35 * (1 + np.sin(phase + side * np.pi / 2 + np.pi)) / 2
            knee = (0.44 * np.sin(thigh), side * 0.10, 0.92 - 0.44 * np.cos(thigh))
            joints[k] = knee if part == "knee" else (
                knee[0] + 0.42 * np.sin(shin), side * 0.10, knee[2] - 0.42 * np.cos(shin))  # fmt: skip
        else:
            upper = -0.35 * swing
            elbow = (0.29 * np.sin(upper), side * 0.22, 1.42 - 0.29 * np.cos(upper))
            joints[k] = elbow if part == "elbow" else (
                elbow[0] + 0.26 * np.sin(upper + 0.3), side * 0.22, elbow[2] - 0.26 * np.cos(upper + 0.3)
            )  # fmt: skip
    return joints * (height_m / 1.7)


@dataclass(frozen=True)
class Seen:
    """The people present at one instant. xy (N, K, 2) px; boxes (N, 4) px of the whole body, hidden or not;
    visible (N, K): the joint is in the image and nothing stands in front of it; labels uint16 (H, W), i + 1 = the
    pixels of person i that are seen; walkers (N,): their numbers; visible_share (N,): seen pixels of all in view."""

    xy: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray
    labels: np.ndarray
    walkers: np.ndarray
    visible_share: np.ndarray


def look(
    walkers: Sequence[Walker], t: float, pan_px: float = 0.0, pillars: Sequence[tuple[float, float, float]] = ()
) -> Seen:
    """Draw the scene at `t`. pan_px shifts the image to the left (the camera turns right); pillars: (X from, X to, Z)
    hide what is behind them."""
    things: list[tuple[float, int, np.ndarray]] = []
    joints: list[np.ndarray] = []
    numbers: list[int] = []
    for number, walker in enumerate(walkers):
        ground = walker.ground(t)
        if ground is None:
            continue
        place, heading, walked = ground
        body = _body(walker.phase + 2 * np.pi * walked / STRIDE_M, walker.height_m)
        world_x = place[0] + body[:, 0] * heading[0] - body[:, 1] * heading[1]
        world_z = place[1] + body[:, 0] * heading[1] + body[:, 1] * heading[0]
        xy = np.stack(
            [
                IMAGE_HW[1] / 2 + FOCAL_PX * world_x / world_z - pan_px,
                IMAGE_HW[0] / 2 + FOCAL_PX * (CAMERA_HEIGHT_M - body[:, 2]) / world_z,
            ],
            axis=1,
        )
        things.append((float(place[1]), len(joints), xy))
        joints.append(xy)
        numbers.append(number)
    count = len(joints)
    labels = np.zeros(IMAGE_HW, np.uint16)
    alone = np.zeros(count)
    boxes = np.zeros((count, 4))
    for left, right, z in pillars:
        edges = IMAGE_HW[1] / 2 + FOCAL_PX * np.array([left, right]) / z - pan_px
        things.append((z, -1, edges))
    for z, person, places in sorted(things, key=lambda thing: -thing[0]):
        if person < 0:
            x0, x1 = np.clip(places, 0, IMAGE_HW[1]).astype(int)
            labels[:, x0:x1] = 0
            continue
        silhouette, boxes[person] = _silhouette(places, FOCAL_PX / z)
        part = _part(boxes[person])
        alone[person] = silhouette[part].sum()
        labels[part][silhouette[part]] = person + 1
    own = np.array([(labels[_part(boxes[i])] == i + 1).sum() for i in range(count)])
    visible = np.zeros((count, NUM_KEYPOINTS), bool)
    for i, xy in enumerate(joints):
        x, y = np.rint(xy).astype(int).T
        inside = (x >= 0) & (x < IMAGE_HW[1]) & (y >= 0) & (y < IMAGE_HW[0])
        visible[i, inside] = labels[y[inside], x[inside]] == i + 1
    return Seen(
        xy=np.array(joints).reshape(count, NUM_KEYPOINTS, 2),
        boxes=boxes,
        visible=visible,
        labels=labels,
        walkers=np.array(numbers, int),
        visible_share=own / np.maximum(alone, 1),
    )


def _part(box: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the image that hold a box."""
    x0, y0, x1, y1 = (int(v) for v in np.clip(box, -1, (*IMAGE_HW[::-1], *IMAGE_HW[::-1])))
    return slice(max(y0 - 1, 0), y1 + 2), slice(max(x0 - 1, 0), x1 + 2)


def _silhouette(xy: np.ndarray, px_per_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of one body, bool (H, W), and its box (4,), which may reach beyond the image."""
    canvas = np.zeros(IMAGE_HW, np.uint8)
    thick = 0.12 * px_per_m
    places = np.rint(xy).astype(int).tolist()
    for a, b in LIMBS:
        cv2.line(canvas, places[a], places[b], 1, max(1, round(thick)))
    torso = xy[[KEYPOINT_INDEX[n] for n in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]]
    cv2.fillConvexPoly(canvas, cv2.convexHull(np.rint(torso).astype(np.int32)), 1)
    head = xy[[KEYPOINT_INDEX[n] for n in ("nose", "left_ear", "right_ear")]].mean(0)
    radius = 0.13 * px_per_m
    cv2.circle(canvas, tuple(np.rint(head).astype(int).tolist()), max(1, round(radius)), 1, -1)
    low = np.minimum(xy.min(0) - thick / 2, head - radius)
    high = np.maximum(xy.max(0) + thick / 2, head + radius)
    return canvas.view(bool), np.concatenate([low, high])
