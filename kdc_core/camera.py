"""The camera's projection: pixels to rays and back, in the optical frame (x right, y down, z forward)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

# Names of sensor_msgs/distortion_models.hpp. The first two share OpenCV's parameters (5 and 8 of them).
_OPENCV_MODELS = ("plumb_bob", "rational_polynomial")
FISHEYE_MODELS = ("equidistant", "fisheye")
DISTORTION_MODELS = (*_OPENCV_MODELS, *FISHEYE_MODELS)
# Undistorting is iterative: at a wide picture's edge it may end somewhere else; elsewhere it errs by 0.01 px.
_ROUND_TRIP_PX = 1.0
_ITERATIONS = 40
_WIDEST = 50.0  # x / z or y / z, 89 degrees off the axis: no point on an image plane means anything beyond


@dataclass(frozen=True)
class CameraModel:
    """A pinhole with or without lens distortion, for images of one size.

    fx, fy, cx, cy: focal lengths and principal point in pixels (a pixel's centre is an integer).
    distortion:     the lens's coefficients in OpenCV's order; empty = none.
    model:          what they mean, one of DISTORTION_MODELS.

    Raises ValueError for focal lengths that are not positive, and for a model or a number of coefficients that
    OpenCV does not know.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = field(default=())
    model: str = "plumb_bob"

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not (np.isfinite(numbers).all() and self.fx > 0 and self.fy > 0):
            raise ValueError(f"no camera has focal lengths ({self.fx}, {self.fy}) and distortion {self.distortion}")
        if not self.distortion:
            return
        if self.model not in DISTORTION_MODELS:
            raise ValueError(f"distortion model '{self.model}' is not one of {', '.join(DISTORTION_MODELS)}")
        allowed = (4,) if self.model in FISHEYE_MODELS else (4, 5, 8, 12, 14)
        if len(self.distortion) not in allowed:
            raise ValueError(f"'{self.model}' has {allowed} coefficients, got {len(self.distortion)}")

    @classmethod
    def guess(cls, image_hw: tuple[int, int]) -> CameraModel:
        """A stand-in without calibration: 53 degrees along the longer side, principal point in the centre."""
        focal = float(max(image_hw))
        return cls(fx=focal, fy=focal, cx=(image_hw[1] - 1) / 2, cy=(image_hw[0] - 1) / 2)

    def resized(self, from_hw: Sequence[float], to_hw: tuple[int, int]) -> CameraModel:
        """The same camera with its picture scaled from one size (height, width) to another."""
        x, y = to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]
        return CameraModel(
            fx=self.fx * x,
            fy=self.fy * y,
            cx=(self.cx + 0.5) * x - 0.5,
            cy=(self.cy + 0.5) * y - 0.5,
            distortion=self.distortion,
            model=self.model,
        )

    @property
    def matrix(self) -> np.ndarray:
        """The intrinsic matrix, float64 (3, 3)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def to_plane(self, xy: np.ndarray, depth_m: float | np.ndarray = 1.0) -> np.ndarray:
        """Pixels (..., 2) -> points in metres (..., 3) at these depths (z; broadcast over the pixels).

        float64; NaN where a pixel or a depth is NaN, and where the lens model has no inverse: it then does not lead
        back to the pixel, or the ray is (nearly) at right angles to the optical axis.
        """
        xy = np.asarray(xy, np.float64)
        if self.distortion:
            flat = np.ascontiguousarray(xy.reshape(-1, 1, 2))
            undistort = cv2.fisheye.undistortPoints if self.model in FISHEYE_MODELS else _undistort
            coefficients = np.array(self.distortion)
            known = np.isfinite(flat).all(axis=(1, 2))
            normalised = np.full_like(flat, np.nan)
            if known.any():
                normalised[known] = undistort(flat[known], self.matrix, coefficients)
            normalised = normalised.reshape(xy.shape)
            normalised[~self._leads_back(normalised, xy)] = np.nan
        else:
            normalised = (xy - (self.cx, self.cy)) / (self.fx, self.fy)
        depth = np.broadcast_to(np.asarray(depth_m, np.float64), xy.shape[:-1])
        return np.concatenate([normalised * depth[..., None], depth[..., None]], axis=-1)

    def _leads_back(self, normalised: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Whether undistorted places (..., 2) are those of the pixels (..., 2), bool (...)."""
        with np.errstate(invalid="ignore"):
            inside = np.where(np.abs(normalised) < _WIDEST, normalised, np.nan)
            points = np.concatenate([inside, np.ones_like(inside[..., :1])], axis=-1)
            return np.linalg.norm(self.project(points) - xy, axis=-1) < _ROUND_TRIP_PX

    def rays(self, xy: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) -> directions of length 1, float64 (..., 3)."""
        points = self.to_plane(xy)
        return points / np.linalg.norm(points, axis=-1, keepdims=True)

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """Points in metres (..., 3) -> pixels, float64 (..., 2); NaN for what is not in front of the camera."""
        points = np.asarray(points_m, np.float64)
        depth = np.where(points[..., 2] > 0, points[..., 2], np.nan)[..., None]
        normalised = points[..., :2] / depth
        if not self.distortion:
            return normalised * (self.fx, self.fy) + (self.cx, self.cy)
        flat = np.concatenate([normalised, np.ones_like(depth)], axis=-1).reshape(-1, 1, 3)
        known = np.isfinite(flat).all(axis=(1, 2))
        pixels = np.full((len(flat), 1, 2), np.nan)
        if known.any():
            function = cv2.fisheye.projectPoints if self.model in FISHEYE_MODELS else cv2.projectPoints
            zero = np.zeros(3)
            pixels[known] = function(flat[known], zero, zero, self.matrix, np.array(self.distortion))[0].reshape(
                -1, 1, 2
            )
        return pixels.reshape(*points.shape[:-1], 2)


def _undistort(pixels: np.ndarray, matrix: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """OpenCV's undistortPoints with as many iterations as a wide lens takes: its five end degrees off."""
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _ITERATIONS, 1e-9)
    if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4
        places: np.ndarray = cv2.undistortPointsIter(pixels, matrix, coefficients, None, None, criteria)
        return places
    return np.asarray(cv2.undistortPoints(pixels, matrix, coefficients, criteria=criteria))
