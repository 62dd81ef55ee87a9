"""One image message in, messages out: between the node (topics, timing) and the pipeline (no ROS)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Protocol

import numpy as np
from rclpy.clock import Clock
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.time import Time
from sensor_msgs.msg import Image

from kdc_core.backends.base import InferenceError
from kdc_core.pipeline import Pipeline
from kdc_core.tracking import FrameTracks
from kdc_core.types import FrameResult
from kdc_ros.frame import Frame
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.image_conversion import ImageConversionError, image_to_rgb
from kdc_ros.parameters import Settings, pipeline_options
from kdc_ros.tracking import TrackIds

FAULT_LOG_PERIOD_S = 5.0


class FrameOutputs(Protocol):
    """Where a processed frame goes (`kdc_ros.outputs.Outputs`)."""

    def publish(self, frame: Frame, result: FrameResult, tracks: FrameTracks, settings: Settings) -> None:
        """Publish one frame."""


class FrameProcessor:
    """Runs the pipeline on image messages. A bad frame is counted, logged and dropped, never an exception.

    Lives in the inference thread. `settings` is asked for each frame, so a changed parameter holds from the
    next one.
    """

    def __init__(
        self,
        outputs: FrameOutputs,
        track_ids: TrackIds,
        settings: Callable[[], Settings],
        statistics: FrameStatistics,
        clock: Clock,
        logger: RcutilsLogger,
    ) -> None:
        self._outputs = outputs
        self._track_ids = track_ids
        self._settings = settings
        self._statistics = statistics
        self._clock = clock
        self._logger = logger

    def process(self, pipeline: Pipeline, message: Image) -> None:
        """Find the people in one image message and publish them."""
        try:
            image = image_to_rgb(message)
        except ImageConversionError as error:
            count = self._statistics.count_rejected(str(error))
            if count == 1:  # at once, whatever else was logged lately
                self._logger.warning(f"frame dropped: {error}")
            else:
                self._logger.warning(
                    f"frame dropped: {error} ({count} such frames so far)",
                    throttle_duration_sec=FAULT_LOG_PERIOD_S,
                )
            return
        try:
            result = self._find_and_publish(pipeline, image, message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next frame may be fine again
            count = self._statistics.count_failed()
            # An inference error's message is enough; anything else is a bug, told in full the first time.
            known = isinstance(error, InferenceError) or count > 1
            self._logger.error(
                f"a frame of {message.width} x {message.height} failed: {type(error).__name__}: {error} "
                f"({count} failures so far)" + ("" if known else "\n" + traceback.format_exc()),
                throttle_duration_sec=FAULT_LOG_PERIOD_S,
            )
            return
        stamp = Time.from_msg(message.header.stamp)
        latency_s = None
        if stamp.nanoseconds:
            latency_s = (self._clock.now().nanoseconds - stamp.nanoseconds) * 1e-9
        self._statistics.count_processed(result.stage_ms, latency_s)

    def _find_and_publish(self, pipeline: Pipeline, image: np.ndarray, message: Image) -> FrameResult:
        settings = self._settings()
        options = pipeline_options(settings, pipeline.options)
        if options != pipeline.options:
            pipeline.options = options
        result = pipeline(image)
        stamp = Time.from_msg(message.header.stamp)
        # A camera that stamps nothing still gets tracks, by the time of processing.
        seen = stamp if stamp.nanoseconds else self._clock.now()
        tracks = self._track_ids.update(result.people, seen.nanoseconds * 1e-9, settings.tracking)
        self._outputs.publish(Frame(image, message.header), result, tracks, settings)
        return result
