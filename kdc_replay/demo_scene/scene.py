"""The moving scene: people cut out of the photographs walk about in a room; where each is, is known exactly.

A person is placed by a similarity transform (size, turn, shift) of the whole cut-out, so outline and joints
of the photograph give the truth of every frame. Who stands in front hides who is behind.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.label_map import label_rois
from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_core.types import People
from kdc_replay.demo_scene.backdrop import paint_room
from kdc_replay.demo_scene.photos import ASTRONAUT, CAMERAMAN, GRACE_HOPPER, Photo, Polygon
from kdc_replay.demo_scene.truth import Truth

# RealSense's and many a webcam's middle size.
WIDTH, HEIGHT = 848, 480
FPS = 8.0
FRAMES = 72
# How soft a cut-out's edge is, in pixels of the photograph.
_EDGE_SOFTNESS_PX = 1.2


@dataclass(frozen=True)
class Pose:
    """Where a person is at one moment, `time` 0..1 from the first frame to the last.

    x:     of the foot point, in frame pixels. size: frame pixels for each pixel of the photograph.
    turn:  degrees, clockwise. sink: how far the foot point is below the frame's lower edge, in pixels.
    """

    time: float
    x: float
    size: float
    turn: float = 0.0
    sink: float = 8.0


@dataclass(frozen=True)
class Actor:
    """A photographed person, the foot point (in the photograph) and the path that it takes."""

    photo: Photo
    foot: tuple[float, float]
    path: tuple[Pose, ...]

    def transform(self, time: float) -> np.ndarray:
        """Photograph pixels -> frame pixels, float64 (2, 3)."""
        pose = self._pose(time)
        angle = np.deg2rad(pose.turn)
        turn = pose.size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = np.array([pose.x, HEIGHT - 1 + pose.sink]) - turn @ self.foot
        return np.concatenate([turn, shift[:, None]], axis=1)

    def _pose(self, time: float) -> Pose:
        before = max((p for p in self.path if p.time <= time), key=lambda p: p.time, default=self.path[0])
        after = min((p for p in self.path if p.time >= time), key=lambda p: p.time, default=self.path[-1])
        span = after.time - before.time
        share = 0.0 if span <= 0 else (1 - np.cos(np.pi * (time - before.time) / span)) / 2
        values = {
            name: (1 - share) * getattr(before, name) + share * getattr(after, name)
            for name in ("x", "size", "turn", "sink")
        }
        return Pose(time, **values)


# From back to front. The cameraman is cut off at his photograph's left edge, so he only ever leans in from
# the left.
ACTORS: tuple[Actor, ...] = (
    Actor(
        GRACE_HOPPER,
        (256, 599),
        (
            Pose(0.0, 400, 0.60, -1.0),
            Pose(0.2, 470, 0.64, 1.0),
            Pose(0.5, 650, 0.66, -1.0),
            Pose(0.72, 520, 0.62, 1.5),
            Pose(0.86, 445, 0.62, 0.0),
            Pose(1.0, 440, 0.62, 0.5),
        ),
    ),
    Actor(
        CAMERAMAN,
        (0, 511),
        (
            Pose(0.0, -40, 0.80),
            Pose(0.18, -8, 0.80, -1.0),
            Pose(0.34, -300, 0.78),
            Pose(0.62, -300, 0.78),
            Pose(0.8, -8, 0.80),
            Pose(1.0, -6, 0.80, -1.5),
        ),
    ),
    Actor(
        ASTRONAUT,
        (230, 511),
        (
            Pose(0.0, 1000, 0.70),
            Pose(0.22, 720, 0.74, -1.5),
            Pose(0.5, 300, 0.80, 1.5),
            Pose(0.62, 270, 0.80, -1.0),
            Pose(0.86, 690, 0.74, 1.0),
            Pose(1.0, 680, 0.75, -0.5),
        ),
    ),
)


@dataclass(frozen=True, eq=False)
class _CutOut:
    """A photograph, uint8 RGB (H, W, 3), and what is opaque of it: all that moves, and the person alone.

    opacity, person: uint8 (H, W). area_px: the person's pixels.
    """

    picture: np.ndarray
    opacity: np.ndarray
    person: np.ndarray
    area_px: int


def image(index: int) -> np.ndarray:
    """One frame of the scene, uint8 RGB (HEIGHT, WIDTH, 3). Raises PhotoError."""
    canvas = _room().copy()
    for actor in ACTORS:
        cut_out = _cut_out(actor.photo)
        matrix = actor.transform(index / (FRAMES - 1))
        picture = cv2.warpAffine(cut_out.picture, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        opacity = cv2.warpAffine(cut_out.opacity, matrix, (WIDTH, HEIGHT)).astype(np.float32) / 255
        canvas = cv2.blendLinear(picture, canvas, opacity, 1 - opacity)
    return canvas


def truth(index: int) -> Truth:
    """Who is where in that frame. A person out of sight keeps a place, with nothing visible."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    joints = np.zeros((len(ACTORS), NUM_KEYPOINTS, 2))
    known = np.zeros((len(ACTORS), NUM_KEYPOINTS), bool)
    whole_px = np.ones(len(ACTORS))
    for i, actor in enumerate(ACTORS):
        matrix = actor.transform(index / (FRAMES - 1))
        cut_out = _cut_out(actor.photo)
        labels[cv2.warpAffine(cut_out.opacity, matrix, (WIDTH, HEIGHT)) > 127] = 0
        labels[cv2.warpAffine(cut_out.person, matrix, (WIDTH, HEIGHT)) > 127] = i + 1
        places, known[i] = actor.photo.keypoints()
        joints[i] = places @ matrix[:, :2].T + matrix[:, 2]
        whole_px[i] = cut_out.area_px * abs(np.linalg.det(matrix[:, :2]))
    return make_truth(labels, joints, known, tuple(actor.photo.name for actor in ACTORS), whole_px)


def photo_truth(photo: Photo) -> Truth:
    """The truth about a photograph by itself."""
    width, height = photo.size_wh
    mask = _fill(photo.person, (height, width)) > 127
    places, known = photo.keypoints()
    labels = mask.astype(np.uint16)
    return make_truth(labels, places[None], known[None], (photo.name,), np.array([mask.sum()], float))


def make_truth(
    labels: np.ndarray, joints: np.ndarray, known: np.ndarray, names: tuple[str, ...], whole_px: np.ndarray
) -> Truth:
    """Truth from what can be seen.

    labels:   uint16 (H, W), whose pixel each is. joints: float (N, K, 2). known: bool (N, K).
    whole_px: float (N,), how many pixels each person would have if nothing hid it.
    A joint counts as visible when the pixel under it is the person's.
    """
    height, width = labels.shape
    count = len(names)
    columns, rows = np.round(joints[..., 0]).astype(int), np.round(joints[..., 1]).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    below = labels[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    visible = known & inside & (below == np.arange(1, count + 1)[:, None])
    rois = label_rois(labels, count)
    boxes = np.concatenate([rois[:, :2], rois[:, :2] + np.maximum(rois[:, 2:] - 1, 0)], axis=1)
    seen_px = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    people = People(
        keypoints_xy=joints.astype(np.float32),
        keypoint_scores=visible.astype(np.float32),
        scores=np.ones(count, np.float32),
        boxes_xyxy=boxes.astype(np.float32),
        mask_labels=labels,
    )
    return Truth(people, names, np.clip(seen_px / whole_px, 0, 1))


@functools.cache
def _room() -> np.ndarray:
    return paint_room(WIDTH, HEIGHT)


@functools.cache
def _cut_out(photo_: Photo) -> _CutOut:
    picture = photo_.read()
    hw = picture.shape[:2]
    if photo_.grey:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    person = _fill(photo_.person, hw)
    opacity = np.maximum(person, _fill(photo_.carried, hw))
    return _CutOut(picture, opacity, person, int((person > 127).sum()))


def _fill(polygons: tuple[Polygon, ...], hw: tuple[int, int]) -> np.ndarray:
    """Polygons as an opacity, uint8 (H, W), with soft edges except at the photograph's border."""
    mask = np.zeros(hw, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.array(polygon, np.int32)], 255)
    return cv2.GaussianBlur(mask, (0, 0), _EDGE_SOFTNESS_PX, borderType=cv2.BORDER_REPLICATE)
