"""What `kdc predict` was pointed at, sorted into pictures and videos with their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from kdc_core.images import IMAGE_SUFFIXES, UnreadableImageError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})


@dataclass(frozen=True)
class Inputs:
    """Files in the order they were named; `problems` says what is wrong with the rest, one line each."""

    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    problems: tuple[str, ...]


def find_inputs(paths: Iterable[Path]) -> Inputs:
    """Sort files and folders (not their subfolders) into pictures and videos, each taken once."""
    images: dict[Path, None] = {}
    videos: dict[Path, None] = {}
    problems = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            found = [p for p in inside if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
            if not found:
                problems.append(f"{path}: no picture or video in this folder")
        elif path.is_file():
            found = [path]
        else:
            problems.append(f"{path}: no such file or folder")
            continue
        for file in found:
            (videos if file.suffix.lower() in VIDEO_SUFFIXES else images)[file] = None
    return Inputs(tuple(images), tuple(videos), tuple(problems))


class ImageIds:
    """COCO image ids: the number that a picture's name is (000000000139.jpg -> 139), else a running number.

    Names are looked at first, so that no running number takes a later picture's.
    """

    def __init__(self, images: Iterable[Path]) -> None:
        self._named: dict[Path, int] = {}
        self._taken: set[int] = set()
        for path in images:
            if path.stem.isascii() and path.stem.isdigit() and int(path.stem) not in self._taken:
                self._named[path] = int(path.stem)
                self._taken.add(int(path.stem))
        self._last = 0

    def of(self, image: Path) -> int:
        """A picture's id."""
        return self._named[image] if image in self._named else self.next()

    def next(self) -> int:
        """The next free running number, for a video's frame."""
        self._last += 1
        while self._last in self._taken:
            self._last += 1
        return self._last


class Video:
    """A video file as RGB frames. Raises UnreadableImageError where there is not one frame in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        opened, frame = self._capture.read() if self._capture.isOpened() else (False, None)
        if not opened:
            self._capture.release()
            raise UnreadableImageError(f"{path} is not a video that OpenCV can read")
        self._first = frame
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        # A container without a rate says 0, NaN or some thousands.
        self.frames_per_s = float(rate) if 0.1 < rate <= 240.0 else 25.0
        # What the header says, which need not be exact.
        self.frames_read = 0
        self.expected_frames = max(1, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    @property
    def ends_early(self) -> bool:
        """Whether far fewer frames could be read than the header says, once all have been."""
        return self.frames_read < 0.9 * self.expected_frames - 2

    def frames(self) -> Iterator[np.ndarray]:
        """The frames, uint8 RGB (H, W, 3), once."""
        frame: np.ndarray | None = self._first
        try:
            while frame is not None:
                self.frames_read += 1
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                opened, following = self._capture.read()
                frame = following if opened else None
        finally:
            self._capture.release()


class VideoWriter:
    """An MP4 of RGB frames, opened with the first one; frames of another size are scaled to its size."""

    def __init__(self, path: Path, frames_per_s: float) -> None:
        self.path, self._rate = path, frames_per_s
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)

    def write(self, frame_rgb: np.ndarray) -> None:
        """Append a frame. Raises OSError where OpenCV cannot write MP4 files."""
        if self._writer is None:
            self._size_wh = (frame_rgb.shape[1], frame_rgb.shape[0])
            # MPEG-4 part 2: the one MP4 codec that every OpenCV wheel can write.
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), codec, self._rate, self._size_wh)
            if not self._writer.isOpened():
                raise OSError(f"OpenCV cannot write the video {self.path}")
        if (frame_rgb.shape[1], frame_rgb.shape[0]) != self._size_wh:
            frame_rgb = cv2.resize(frame_rgb, self._size_wh)
        self._writer.write(cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
