"""One camera frame in, messages out: between the node (topics, timing) and the pipeline (no ROS)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Protocol

import numpy as np
from rclpy.clock import Clock
from rclpy.impl.rcutils_logger import RcutilsLogger

from kdc_core.backends.base import InferenceError
from kdc_core.pipeline import Pipeline
from kdc_core.tracking import FrameTracks
from kdc_core.types import FrameResult
from kdc_ros.frame import Frame
from kdc_ros.frame_statistics import FrameStatistics, shortened
from kdc_ros.image_conversion import ImageConversionError, message_to_rgb
from kdc_ros.inputs import Incoming
from kdc_ros.parameters import Settings, pipeline_options
from kdc_ros.stamps import Order, StampOrder, age_s, stamp_ns
from kdc_ros.tracking import TrackIds

FAULT_LOG_PERIOD_S = 5.0


class FrameOutputs(Protocol):
    """Where a processed frame goes (`kdc_ros.outputs.Outputs`)."""

    def publish(self, frame: Frame, result: FrameResult, tracks: FrameTracks, settings: Settings) -> bool:
        """Publish one frame. Returns whether its depth image was of use."""


class FrameProcessor:
    """Runs the pipeline on camera frames. A bad frame is counted, logged and dropped, never an exception.

    Lives in the inference thread. `settings` is asked for each frame, so a changed parameter holds from the
    next one. `on_age` is told the age of each result (seconds from the stamp to the end of publication) where
    there is one.
    """

    def __init__(
        self,
        outputs: FrameOutputs,
        track_ids: TrackIds,
        settings: Callable[[], Settings],
        statistics: FrameStatistics,
        clock: Clock,
        logger: RcutilsLogger,
        on_age: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._outputs = outputs
        self._track_ids = track_ids
        self._settings = settings
        self._statistics = statistics
        self._clock = clock
        self._logger = logger
        self._on_age = on_age
        self._order = StampOrder()

    def process(
        self, pipeline: Pipeline, incoming: Incoming, given_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Find the people in one frame and publish them, unless the work was given up while the network had it."""
        settings = self._settings()
        stamp = stamp_ns(incoming.message.header.stamp)
        if self._is_stale(stamp, settings):
            return
        try:
            image = message_to_rgb(incoming.message, settings.max_image_megapixels * 1_000_000)
        except ImageConversionError as error:
            self._reject(str(error))
            return
        except Exception as error:  # noqa: BLE001 - no message may end the thread
            self._reject(f"the picture cannot be converted: {type(error).__name__}: {error}")
            return
        frame = Frame(image, incoming.message.header, incoming.depth, incoming.camera_info)
        try:
            result = self._find(pipeline, frame, settings)
            if given_up():  # another thread may be at work by now
                self._statistics.count_discarded()
                return
            by_depth = self._publish(frame, result, stamp, settings)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next frame may be fine again
            self._fail(error, image)
            return
        if settings.use_depth:
            self._statistics.count_depth(paired=by_depth)
        latency_s = age_s(stamp, self._clock.now().nanoseconds)
        self._statistics.count_processed(
            result.stage_ms, latency_s, len(result.people), odd_stamp=stamp is not None and latency_s is None
        )
        if latency_s is not None:
            self._on_age(latency_s)

    def _is_stale(self, stamp: int | None, settings: Settings) -> bool:
        """Whether a frame comes too late to be of use; gives the tracks up when time has jumped back."""
        order = self._order.follow(stamp)
        if order is Order.LATE:
            self._statistics.count_out_of_order()
            return True
        if order is Order.JUMPED_BACK:
            count = self._statistics.count_stamp_jump()
            self._logger.warning(
                f"the images' stamps jumped back: tracks start afresh ({count} such jumps so far)",
                throttle_duration_sec=FAULT_LOG_PERIOD_S,
            )
            self._track_ids.reset()
        if settings.max_age_s <= 0:
            return False
        age = age_s(stamp, self._clock.now().nanoseconds)
        if age is None or age <= settings.max_age_s:
            return False
        self._statistics.count_too_old()
        return True

    def _find(self, pipeline: Pipeline, frame: Frame, settings: Settings) -> FrameResult:
        options = pipeline_options(settings, pipeline.options)
        if options != pipeline.options:
            pipeline.options = options
        return pipeline(frame.image)

    def _publish(self, frame: Frame, result: FrameResult, stamp: int | None, settings: Settings) -> bool:
        # A camera that stamps nothing still gets tracks, by the time of processing.
        seen_ns = stamp if stamp is not None else self._clock.now().nanoseconds
        tracks = self._track_ids.update(result.people, seen_ns * 1e-9, settings.tracking)
        return self._outputs.publish(frame, result, tracks, settings)

    def _reject(self, cause: str) -> None:
        cause = shortened(cause)
        count = self._statistics.count_rejected(cause)
        if count == 1:  # at once, whatever else was logged lately
            self._logger.warning(f"frame dropped: {cause}")
        else:
            self._logger.warning(
                f"frame dropped: {cause} ({count} such frames so far)",
                throttle_duration_sec=FAULT_LOG_PERIOD_S,
            )

    def _fail(self, error: Exception, image: np.ndarray) -> None:
        count = self._statistics.count_failed()
        # An inference error's message is enough; anything else is a bug, told in full the first time.
        known = isinstance(error, InferenceError) or count > 1
        self._logger.error(
            f"a frame of {image.shape[1]} x {image.shape[0]} failed: {type(error).__name__}: {error} "
            f"({count} failures so far)" + ("" if known else "\n" + traceback.format_exc()),
            throttle_duration_sec=FAULT_LOG_PERIOD_S,
        )
