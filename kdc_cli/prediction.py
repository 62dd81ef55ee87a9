"""The work of `kdc predict`: every picture through the pipeline, results and overlays into a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from kdc_cli.inputs import ImageIds, Inputs, Video, VideoWriter
from kdc_core.coco_results import coco_results
from kdc_core.draw import draw_people
from kdc_core.images import UnreadableImageError, read_rgb
from kdc_core.pipeline import Pipeline
from kdc_core.types import FrameResult

_JPEG_QUALITY = 92


class Prediction:
    """The results of one call of `kdc predict`; a file that cannot be read is noted and passed over."""

    def __init__(self, pipeline: Pipeline, out: Path, overlays: bool, keypoint_threshold: float) -> None:
        self.predictions: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self._pipeline = pipeline
        self._out = out
        self._overlays = out / "overlays" if overlays else None
        self._keypoint_threshold = keypoint_threshold
        self._ids = ImageIds(())
        self._overlay_names: set[str] = set()

    def process(self, inputs: Inputs) -> None:
        """Look at every input, with a progress bar on a terminal. Raises OSError for an unwritable output."""
        self.problems += inputs.problems
        self._ids = ImageIds(inputs.images)
        if self._overlays is not None:
            self._overlays.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(inputs.images), unit="image", disable=None) as progress:
            for path in inputs.images:
                self._process_image(path)
                progress.update()
            for path in inputs.videos:
                self._process_video(path, progress)

    def write_results(self) -> None:
        """Write predictions.json and images.json; leaves earlier ones alone where not one picture could be read."""
        if self._earlier() and not self.images:
            return
        self._write("")
        for name in ("predictions", "images"):  # of a call that was broken off
            (self._out / f"{name}.partial.json").unlink(missing_ok=True)

    def write_partial_results(self) -> None:
        """Write what there is, beside earlier results (as predictions.partial.json) where there are any."""
        if self.images:
            self._write(".partial" if self._earlier() else "")

    def _earlier(self) -> bool:
        return (self._out / "predictions.json").exists()

    def _write(self, infix: str) -> None:
        contents = {"predictions": self.predictions, "images": {"images": self.images}}
        for name, content in contents.items():
            file = self._out / f"{name}{infix}.json"
            half = file.with_suffix(".json.half")
            # No NaN: it is not JSON, and half the readers refuse it.
            half.write_text(json.dumps(content, allow_nan=False) + "\n")
            half.replace(file)

    def report(self) -> int:
        """Say what was done; name what could not be read on stderr. Returns the exit code."""
        file = self._out / "predictions.json"
        if self.images:
            print(f"{len(self.predictions)} people in {len(self.images)} images: {file}")
        else:
            print("not one picture could be read")
        for problem in self.problems:
            print(f"kdc predict: {problem}", file=sys.stderr)
        return 1 if self.problems else 0

    def _process_image(self, path: Path) -> None:
        image_id = self._ids.of(path)
        try:
            image = read_rgb(path)
        except (OSError, UnreadableImageError) as error:
            self.problems.append(str(error))
            return
        result = self._find(image, image_id, path, {})
        if self._overlays is not None:
            # Lossless pictures stay so; everything else becomes a JPEG.
            suffix = ".png" if path.suffix.lower() == ".png" else ".jpg"
            _write_image(self._overlays / self._overlay_name(path, suffix), self._drawn(image, result))

    def _process_video(self, path: Path, progress: tqdm) -> None:
        try:
            video = Video(path)
        except UnreadableImageError as error:
            self.problems.append(str(error))
            return
        progress.total = (progress.total or 0) + video.expected_frames
        writer = None
        if self._overlays is not None:
            writer = VideoWriter(self._overlays / self._overlay_name(path, ".mp4"), video.frames_per_s)
        try:
            for number, frame in enumerate(video.frames()):
                time_s = round(number / video.frames_per_s, 4)
                result = self._find(frame, self._ids.next(), path, {"frame": number, "time_s": time_s})
                if writer is not None:
                    writer.write(self._drawn(frame, result))
                progress.update()
            if video.ends_early:
                self.problems.append(f"{path} ends after {video.frames_read} of {video.expected_frames} frames")
        finally:
            if writer is not None:
                writer.close()

    def _find(self, image: np.ndarray, image_id: int, path: Path, frame: dict[str, Any]) -> FrameResult:
        """Run the pipeline and keep its result; `frame` is what a video's frame says beyond a picture."""
        result = self._pipeline(image)
        height, width = result.image_hw
        entry = {"id": image_id, "file_name": path.name, "width": width, "height": height, "path": str(path)}
        self.images.append({**entry, **frame})
        place = {"file_name": path.name, **({"frame": frame["frame"]} if frame else {})}
        self.predictions += [{**person, **place} for person in coco_results(result.people, image_id)]
        return result

    def _drawn(self, image: np.ndarray, result: FrameResult) -> np.ndarray:
        return draw_people(image, result.people, keypoint_threshold=self._keypoint_threshold)

    def _overlay_name(self, path: Path, suffix: str) -> str:
        """The input's name; a number behind it where another input has the same."""
        name, count = path.stem + suffix, 1
        while name in self._overlay_names:
            count += 1
            name = f"{path.stem}_{count}{suffix}"
        self._overlay_names.add(name)
        return name


def _write_image(path: Path, image_rgb: np.ndarray) -> None:
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), image_bgr, quality):
        raise OSError(f"cannot write the picture {path}")
