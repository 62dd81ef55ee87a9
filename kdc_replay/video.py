"""The run as a film: the recorded pictures with the people drawn over them, at the times of their stamps."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np

from kdc_core.draw import draw_people
from kdc_core.types import People

NS_PER_S = 1_000_000_000
# What MPEG counts time in; every usual frame rate is a whole number of these.
_CLOCK_HZ = 90_000
# A pause is shown as it was; a longer one, or a step back, is a clock that was set, not something to sit through.
_LONGEST_PAUSE_S = 10.0
_FIRST_STEP_S = 1 / 30
_LONGEST_SIDE_PX = 1920
_SHORTEST_SIDE_PX = 16
# H.264 is what browsers, players and Foxglove all show. The number of threads changes the file's bytes, so it is
# the same on every machine.
_CODEC = "libx264"
_CODEC_OPTIONS = {"preset": "veryfast", "crf": "23", "threads": "2"}


class AnnotatedVideo:
    """An H.264 MP4 with one picture for each frame, shown when its stamp says. Use as a context manager.

    The first picture sets the size: at most 1920 pixels on its longer side, one pixel of border where a side is odd.
    Pictures of another size are fitted into it with their proportions kept. Raises OSError where the file cannot be
    written.
    """

    def __init__(self, path: Path, keypoint_threshold: float = 0.2) -> None:
        self.path = path
        self._keypoint_threshold = keypoint_threshold
        self._container: av.container.OutputContainer | None = None
        self._size_wh = (0, 0)
        self._last_ns = 0
        self._step = round(_FIRST_STEP_S * _CLOCK_HZ)
        self._clock = 0

    def __enter__(self) -> AnnotatedVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, image_rgb: np.ndarray, people: People, track_ids: np.ndarray, time_ns: int) -> None:
        """Append a frame: uint8 RGB (H, W, 3), its people with ids int (N,), and its stamp."""
        picture = draw_people(image_rgb, people, track_ids, self._keypoint_threshold)
        if self._container is None:
            self._open(picture)
        else:
            self._clock += self._advance(time_ns)
        self._last_ns = time_ns
        frame = av.VideoFrame.from_ndarray(_fitted(picture, self._size_wh), format="rgb24")
        frame.pts, frame.time_base = self._clock, Fraction(1, _CLOCK_HZ)
        assert self._container is not None
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file; without a single frame there is none."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def _open(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        scale = min(1.0, _LONGEST_SIDE_PX / max(height, width))
        width, height = (max(_SHORTEST_SIDE_PX, round(side * scale)) for side in (width, height))
        # The colour planes have half the size.
        self._size_wh = (width + width % 2, height + height % 2)
        self._container = av.open(str(self.path), "w", format="mp4", options={"movflags": "+faststart"})
        stream = self._container.add_stream(_CODEC, rate=round(1 / _FIRST_STEP_S), options=_CODEC_OPTIONS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = self._size_wh
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _CLOCK_HZ)
        self._stream = stream

    def _advance(self, time_ns: int) -> int:
        """Ticks from the last frame to this one."""
        step_ns = time_ns - self._last_ns
        if 0 < step_ns <= _LONGEST_PAUSE_S * NS_PER_S:
            self._step = max(1, round(step_ns * _CLOCK_HZ / NS_PER_S))
        return self._step


def _fitted(picture: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """A picture in the middle of a frame of a given size, scaled where it does not fit or is much smaller."""
    width, height = size_wh
    rows, columns = picture.shape[:2]
    # A pixel of border is for the side that must be even; more is another picture's size.
    if not (0 <= height - rows <= 1 and 0 <= width - columns <= 1):
        scale = min(width / columns, height / rows)
        columns, rows = max(1, round(columns * scale)), max(1, round(rows * scale))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = cv2.resize(picture, (columns, rows), interpolation=interpolation)
    if (columns, rows) == size_wh:
        return picture
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    frame[top : top + rows, left : left + columns] = picture
    return frame


def video_pictures(path: Path, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """Pictures of a film by their numbers from 0, uint8 RGB (H, W, 3); those beyond its end or damage are left out."""
    wanted = set(numbers)
    found: dict[int, np.ndarray] = {}
    if not wanted:
        return found
    # What precedes the damage of a film that was cut off is as good as ever.
    with contextlib.suppress(av.error.FFmpegError), av.open(str(path)) as container:
        if not container.streams.video:
            return found
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if len(found) == len(wanted):
                break
    return found
