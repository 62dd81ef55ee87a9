"""Pictures of the report's frames: the recorded ones with the people drawn over them, or the film's."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from kdc_core.draw import draw_people
from kdc_replay.bag_reader import BagReader, FrameError
from kdc_replay.run_reader import Run, RunFrame
from kdc_replay.worst_frames import Finding

_LONGEST_SIDE_PX = 720
_JPEG_QUALITY = 82
_NEUTRAL = (255, 255, 255)
_BAD = (255, 60, 60)
_DASH_PX = 7


@dataclass(frozen=True, eq=False)
class Picture:
    """uint8 RGB (H, W, 3); drawn: the people are on it already."""

    image: np.ndarray
    drawn: bool = False


# The pictures of frames by their indices; those that cannot be had are left out.
PictureSource = Callable[[Sequence[int]], Mapping[int, Picture]]


def bag_pictures(bag: BagReader, topic: str) -> PictureSource:
    """The recorded pictures of a bag's topic."""

    def pictures(indices: Sequence[int]) -> Mapping[int, Picture]:
        wanted = set(indices)
        found: dict[int, Picture] = {}
        for raw in bag.raw_frames(topic) if wanted else ():
            if raw.index in wanted:
                with contextlib.suppress(FrameError):
                    found[raw.index] = Picture(raw.decode().image)
            if raw.index >= max(wanted):
                break
        return found

    return pictures


def film_pictures(run: Run) -> PictureSource:
    """Pictures from the run's annotated film; none where there is no film, or nothing to read it with."""

    def pictures(indices: Sequence[int]) -> Mapping[int, Picture]:
        path = run.folder / "annotated.mp4"
        if not indices or not path.is_file():
            return {}
        from kdc_replay.video import video_pictures

        number_of = {frame.index: number for number, frame in enumerate(run.frames)}
        found = video_pictures(path, [number_of[i] for i in indices])
        return {i: Picture(found[number_of[i]], drawn=True) for i in indices if number_of[i] in found}

    return pictures


def picture_uri(picture: Picture | None, frame: RunFrame, findings: Sequence[Finding]) -> str:
    """A JPEG as a data URI, with the places of the findings marked; empty without a picture.

    Boxes: dashed where somebody was missed, red where nobody is, white for what merely looks odd.
    """
    if picture is None:
        return ""
    image = picture.image
    if not picture.drawn and image.shape[:2] == frame.image_hw:
        image = draw_people(image, frame.people(), frame.ids)
    scale = min(1.0, _LONGEST_SIDE_PX / max(image.shape[:2]))
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    image = np.ascontiguousarray(image).copy()
    factor = (image.shape[1] / frame.image_hw[1], image.shape[0] / frame.image_hw[0])
    # A film's picture of another size than the frame's has borders: its places are not known.
    if abs(factor[0] / factor[1] - 1) < 0.05:
        for finding in findings:
            for box in finding.boxes:
                _mark(image, [v * factor[i % 2] for i, v in enumerate(box)], finding.kind)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _mark(image: np.ndarray, box_xyxy: Sequence[float], kind: str) -> None:
    x0, y0, x1, y1 = (round(v) for v in box_xyxy)
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    colour = _BAD if kind in ("missed", "false") else _NEUTRAL
    for start, end in zip(corners, corners[1:]):
        if kind == "missed":
            _dashed(image, start, end, colour)
        else:
            cv2.line(image, start, end, colour, 2, cv2.LINE_AA)


def _dashed(image: np.ndarray, start: tuple[int, int], end: tuple[int, int], colour: tuple[int, int, int]) -> None:
    a, b = np.array(start, float), np.array(end, float)
    pieces = max(1, round(float(np.linalg.norm(b - a)) / _DASH_PX))
    for i in range(0, pieces, 2):
        one, other = a + (b - a) * i / pieces, a + (b - a) * min(i + 1, pieces) / pieces
        cv2.line(image, _whole(one), _whole(other), colour, 2, cv2.LINE_AA)


def _whole(xy: np.ndarray) -> tuple[int, int]:
    x, y = np.round(xy).astype(int).tolist()
    return x, y
