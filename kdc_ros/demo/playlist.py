"""What the camera of the demonstration plays: the built-in photographs and scene, or the user's own.

A playlist is a sequence of clips, each a sequence of frames at a steady rate.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from kdc_replay.demo_scene import scene
from kdc_replay.demo_scene.photos import ALL_PHOTOS, PEOPLE_PHOTOS, Photo
from kdc_replay.demo_scene.truth import Truth

SCENE = "scene"
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# A picture is shown for two seconds, so that a slow machine answers it as well.
PICTURE_FPS = 5.0
PICTURE_FRAMES = 10
# A camera's picture, not a scanner's: larger ones are shrunk.
LONGEST_SIDE_PX = 1920
_VIDEO_FPS_IF_UNKNOWN = 25.0


class PlaylistError(ValueError):
    """The input cannot be played; the message says why."""


@dataclass(frozen=True)
class Clip:
    """One picture shown for a while, a video or a scene.

    name:     unique in the playlist, fit for a file name.
    fps:      frames in a second.
    encoding: how the frames lie in memory, a sensor_msgs/Image encoding (rgb8, bgr8 or mono8).
    moving:   whether the frames differ.
    frames:   makes them: uint8 (H, W, 3), or (H, W) for mono8.
    """

    name: str
    fps: float
    encoding: str
    moving: bool
    frames: Callable[[], Iterable[np.ndarray]]


def built_in() -> list[Clip]:
    """The photographs one by one, then the scene. Raises PhotoError when one of them is missing."""
    for photo in ALL_PHOTOS:
        photo.read()
    clips = [_photo_clip(photo) for photo in PEOPLE_PHOTOS]
    return [*clips, Clip(SCENE, scene.FPS, "rgb8", True, lambda: map(scene.image, range(scene.FRAMES)))]


def built_in_truth(clip: str, index: int) -> Truth:
    """The truth about frame `index` of a built-in clip."""
    if clip == SCENE:
        return scene.truth(index)
    return scene.photo_truth(next(photo for photo in PEOPLE_PHOTOS if photo.name == clip))


def _photo_clip(photo: Photo) -> Clip:
    return Clip(
        photo.name,
        PICTURE_FPS,
        "mono8" if photo.grey else "rgb8",
        False,
        lambda: itertools.repeat(photo.read(), PICTURE_FRAMES),
    )


def from_input(source: str, seconds: float) -> list[Clip]:
    """The user's own: a picture, a folder of pictures, a video file or a camera device.

    seconds: a video or a device is played for so long at most. Several sources may be given, separated by
             commas
    or spaces, as a shell's `*.jpg` in `make demo INPUT="..."` ends up. Raises PlaylistError.
    """
    clips = [clip for path in _paths(source) for clip in _clips(path, seconds)]
    taken = {"overview", *(clip.name for clip in clips)}  # the overview is the demo's own
    return [_renamed(clip, clips, taken) for clip in clips]


def _paths(source: str) -> list[Path]:
    """The source as one path when there is such a file (whose name may hold spaces), else as several."""
    if not source.strip(" ,"):
        raise PlaylistError("no input given")
    whole = Path(os.path.expanduser(source))
    parts = [whole] if whole.exists() else [Path(os.path.expanduser(p)) for p in source.replace(",", " ").split()]
    for part in parts:
        if not part.exists():
            raise PlaylistError(f"{part} does not exist")
    return parts


def _clips(path: Path, seconds: float) -> list[Clip]:
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise PlaylistError(f"{path} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
        return [_picture_clip(p) for p in pictures]
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return [_picture_clip(path)]
    return [_video_clip(path, seconds)]


def _picture_clip(path: Path) -> Clip:
    # Read once here, so that a broken file is told of before anything is started.
    _read(path)
    return Clip(path.stem, PICTURE_FPS, "bgr8", False, lambda: itertools.repeat(_read(path), PICTURE_FRAMES))


def _read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    if picture is None:
        raise PlaylistError(f"{path} cannot be read as a picture")
    return _shrunk(picture)


def _video_clip(path: Path, seconds: float) -> Clip:
    live = path.is_char_device()
    capture = _open(path)
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    fps = fps if 1 <= fps <= 120 else _VIDEO_FPS_IF_UNKNOWN
    return Clip(path.stem, fps, "bgr8", True, lambda: _video_frames(path, live, round(seconds * fps)))


def _open(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise PlaylistError(f"{path} cannot be opened as a video or a camera")
    return capture


def _video_frames(path: Path, live: bool, limit: int) -> Iterator[np.ndarray]:
    capture = _open(path)
    try:
        for index in range(limit):
            good, frame = capture.read()
            if not good:
                if live or index == 0:
                    raise PlaylistError(f"{path} gives no pictures")
                return
            yield _shrunk(frame)
    finally:
        capture.release()


def _shrunk(picture: np.ndarray) -> np.ndarray:
    factor = LONGEST_SIDE_PX / max(picture.shape[:2])
    if factor >= 1:
        return picture
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def _renamed(clip: Clip, clips: list[Clip], taken: set[str]) -> Clip:
    """Pictures of the same name from different folders get a number that no other has; `taken` grows."""
    if clip.name != "overview" and sum(other.name == clip.name for other in clips) == 1:
        return clip
    name = next(n for n in (f"{clip.name}_{i}" for i in itertools.count(1)) if n not in taken)
    taken.add(name)
    return Clip(name, clip.fps, clip.encoding, clip.moving, clip.frames)
