"""Where pixels lie in space: the pinhole projection of the camera's image plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sensor_msgs.msg import CameraInfo


@dataclass(frozen=True)
class Pinhole:
    """Focal lengths and principal point in pixels of the image at hand."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_camera_info(cls, info: CameraInfo, image_hw: tuple[int, int]) -> Pinhole | None:
        """The calibration for an image of this size; None when the message holds none (fx = 0, or no size).

        An image smaller than the calibrated one is taken as scaled (pixel centres are at integers).
        """
        k = info.k
        if k[0] <= 0 or k[4] <= 0 or info.width == 0 or info.height == 0:
            return None
        scale_x, scale_y = image_hw[1] / info.width, image_hw[0] / info.height
        return cls(
            fx=k[0] * scale_x,
            fy=k[4] * scale_y,
            cx=(k[2] + 0.5) * scale_x - 0.5,
            cy=(k[5] + 0.5) * scale_y - 0.5,
        )

    @classmethod
    def guess(cls, image_hw: tuple[int, int]) -> Pinhole:
        """A stand-in without calibration: 53 degrees along the longer side, principal point in the centre."""
        focal = float(max(image_hw))
        return cls(fx=focal, fy=focal, cx=(image_hw[1] - 1) / 2, cy=(image_hw[0] - 1) / 2)

    def to_plane(self, xy: np.ndarray, depth_m: float) -> np.ndarray:
        """Pixels (..., 2) -> points in metres (..., 3) in the optical frame, on the plane z = depth_m."""
        xy = np.asarray(xy, np.float64)
        x = (xy[..., 0] - self.cx) / self.fx * depth_m
        y = (xy[..., 1] - self.cy) / self.fy * depth_m
        return np.stack([x, y, np.full_like(x, depth_m)], axis=-1)
