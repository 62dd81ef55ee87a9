"""Where the people of a frame are, from what came with it: depth image, CameraInfo, parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger

from kdc_core.body_distance import BodyOptions
from kdc_core.camera import CameraModel
from kdc_core.image_encodings import ImageConversionError
from kdc_core.lifting import LiftingOptions
from kdc_core.positions import PositionOptions, Positions, locate_people
from kdc_core.types import People
from kdc_ros.camera import camera_from_info, same_shape
from kdc_ros.depth_conversion import depth_from_message
from kdc_ros.frame import Frame
from kdc_ros.frame_statistics import MAX_CAUSES, FrameStatistics, shortened
from kdc_ros.parameters import Settings

FAULT_LOG_PERIOD_S = 30.0


@dataclass(frozen=True, eq=False)
class Located:
    """The people's places, and the camera by which they were found: a guess when it is not calibrated.

    by_depth: whether the frame's depth image was of use.
    """

    positions: Positions
    camera: CameraModel
    by_depth: bool = False


class Locator:
    """Finds the people's places in space. What cannot be used for it is counted by cause, and logged."""

    def __init__(self, logger: RcutilsLogger, statistics: FrameStatistics) -> None:
        self._logger = logger
        self._statistics = statistics
        self._told: set[str] = set()

    def locate(self, frame: Frame, people: People, image_hw: tuple[int, int], settings: Settings) -> Located:
        """Places of the people of a frame; unknown without a calibration."""
        camera = self._camera(frame, image_hw, settings.image_rectified)
        if camera is None:
            if frame.depth is not None:
                self._refuse("depth images, but no calibration (CameraInfo): nobody can be placed in space")
            return Located(Positions.unknown(len(people)), CameraModel.guess(image_hw))
        depth = self._depth(frame, image_hw)
        return Located(locate_people(people, camera, image_hw, depth, _options(settings)), camera, depth is not None)

    def _camera(self, frame: Frame, image_hw: tuple[int, int], rectified: bool) -> CameraModel | None:
        if frame.camera_info is None:
            return None
        try:
            camera = camera_from_info(frame.camera_info, image_hw, rectified)
        except ValueError as error:
            self._refuse(f"CameraInfo is not used: {error}")
            return None
        if camera is None:  # as drivers of cameras without a calibration send it
            matrix = "P" if rectified else "K"
            self._tell(f"CameraInfo holds no calibration ({matrix} or the size is zero): nobody can be placed in space")
        return camera

    def _depth(self, frame: Frame, image_hw: tuple[int, int]) -> np.ndarray | None:
        if frame.depth is None:
            return None
        frames = (frame.depth.header.frame_id, frame.header.frame_id)
        if frames[0] != frames[1]:
            self._tell(
                f"the depth image is of frame '{frames[0]}', the image of '{frames[1]}': places in space are wrong "
                "unless the depth is registered to the image"
            )
        try:
            depth = depth_from_message(frame.depth)
        except ImageConversionError as error:
            self._refuse(f"the depth image is not used: {error}")
            return None
        height, width = image_hw
        if not same_shape(depth.shape, image_hw):
            size = f"{depth.shape[1]} x {depth.shape[0]}"
            self._refuse(
                f"the depth image is not used: it has {size} pixels, the image {width} x {height}; "
                "is the depth registered to the image?"
            )
            return None
        return depth

    def _refuse(self, cause: str) -> None:
        """Count and log what comes with a frame and cannot be used."""
        cause = shortened(cause)
        count = self._statistics.count_unusable(cause)
        if count == 1:
            self._logger.warning(cause)
        else:
            self._logger.warning(f"{cause} ({count} times so far)", throttle_duration_sec=FAULT_LOG_PERIOD_S)

    def _tell(self, text: str) -> None:
        """Log once what may well be meant so."""
        text = shortened(text)
        # A sender of ever new nonsense must not fill memory and log.
        if text not in self._told and len(self._told) < MAX_CAUSES:
            self._told.add(text)
            self._logger.warning(text)


def _options(settings: Settings) -> PositionOptions:
    usual = BodyOptions()
    spread = usual.height_std_m / usual.height_m
    return PositionOptions(
        lifting=LiftingOptions(far_m=settings.depth_max_m),
        body=replace(usual, height_m=settings.body_height_m, height_std_m=spread * settings.body_height_m),
        estimate=settings.estimate_distance,
    )
