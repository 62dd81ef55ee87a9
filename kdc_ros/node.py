"""The ROS 2 node: parameters, topics, timing and the life of the inference thread. Executable: kdc_node.

Subscribes  image (sensor_msgs/Image), camera_info (sensor_msgs/CameraInfo, optional: places the markers)
Publishes   ~/poses, ~/masks, ~/markers, ~/overlay (see kdc_ros.outputs)
Serves      ~/reset_tracking (std_srvs/Trigger): forget everybody; ids go on
"""

from __future__ import annotations

import os
import sys

import rclpy
import rclpy.logging
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from kdc_core.backends.base import ModelLoadError
from kdc_core.pipeline import Pipeline
from kdc_ros.frame_processor import FrameProcessor
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.image_subscription import ImageSubscription
from kdc_ros.mailbox import Mailbox
from kdc_ros.monitor import FrameMonitor
from kdc_ros.outputs import Outputs
from kdc_ros.parameters import NodeParameters, SettingsError, model_path, pipeline_options
from kdc_ros.qos import MismatchLog
from kdc_ros.tracking import TrackIds
from kdc_ros.worker import InferenceWorker

# A frame in the network is waited for when the node stops; a native call that takes longer is abandoned.
STOP_TIMEOUT_S = 1.5
WATCH_PERIOD_S = 0.5


class StartupError(RuntimeError):
    """The node cannot start, for a reason that its user can mend; the message is one line."""


class PeopleNode(Node):
    """Finds the people in an image stream. `start` brings it to work, `stop` ends the work."""

    def __init__(self, **node_options) -> None:
        super().__init__("kdc", **node_options)
        try:
            self.parameters = NodeParameters(self)
        except SettingsError as error:
            raise StartupError(str(error)) from error
        mismatches = MismatchLog(self.get_logger())
        self.statistics = FrameStatistics()
        self._outputs = Outputs(self, mismatches)
        self._mailbox: Mailbox[Image] = Mailbox()
        self._track_ids = TrackIds()
        self._processor = FrameProcessor(
            self._outputs,
            self._track_ids,
            self.parameters.current,
            self.statistics,
            self.get_clock(),
            self.get_logger(),
        )
        self._worker = InferenceWorker(self._mailbox, self._load, self._processor.process)
        self._mismatches = mismatches
        self.create_service(Trigger, "~/reset_tracking", self._on_reset_tracking)

    def start(self) -> None:
        """Load the network in its thread, then subscribe. Raises StartupError when it cannot be loaded."""
        self._worker.start()
        # In small steps, so that a signal ends even a load that takes minutes (an engine being built).
        while not self._worker.wait_loaded(timeout_s=0.1):
            if not self.context.ok():
                return
        if not self.context.ok():
            return
        self._raise_worker_fault()
        reliability = self.parameters.current().image_reliability
        images = ImageSubscription(self, "image", self._on_image, reliability, self._mismatches)
        self._outputs.activate()
        monitor = FrameMonitor(
            images.topic_name,
            self.statistics,
            self.get_logger(),
            timeout_s=lambda: self.parameters.current().no_frame_timeout_s,
            publishers=images.publisher_count,
        )

        def watch() -> None:
            self._raise_worker_fault()
            images.adapt()
            monitor.check()

        self.create_timer(WATCH_PERIOD_S, watch)
        self.get_logger().info(f"waiting for images on '{images.topic_name}'")

    def stop(self) -> bool:
        """End the inference thread. Returns False when it is still in a native call."""
        return self._worker.stop(STOP_TIMEOUT_S)

    def _load(self) -> Pipeline:
        settings = self.parameters.current()
        try:
            path = model_path(settings)
            pipeline = Pipeline.load(
                path,
                backend=settings.backend,
                options=pipeline_options(settings),
                threads=settings.threads,
                long_side=settings.long_side or None,
            )
        except (ModelLoadError, ValueError) as error:  # ValueError: no such backend, no such input size
            raise StartupError(str(error)) from error
        height, width = pipeline.spec.input_hw
        self.get_logger().info(f"network {path} ({width} x {height}) on {pipeline.backend_name}")
        return pipeline

    def _on_image(self, message: Image) -> None:
        self.statistics.count_received(superseded=self._mailbox.put(message))

    def _on_reset_tracking(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._track_ids.reset()
        response.success, response.message = True, "everybody gets a new id in the next image"
        return response

    def _raise_worker_fault(self) -> None:
        if self._worker.error is not None:
            raise self._worker.error


def _init_ros(args: list[str] | None) -> None:
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # rclpy's own exceptions derive from it
        raise StartupError(f"ROS arguments: {error}") from error


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop. Returns the exit code: 0, or 1 when it could not start."""
    logger = rclpy.logging.get_logger("kdc")
    node = None
    stopped = True
    try:
        _init_ros(args)
        node = PeopleNode()
        node.start()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except StartupError as error:
        logger.fatal(" ".join(str(error).split()))
        return 1
    except RuntimeError:  # rclpy's own exceptions derive from it
        # Whatever is made or published after a signal has shut ROS down fails.
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            stopped = node.stop()
            node.destroy_node()
        rclpy.try_shutdown()
    if not stopped:
        # The thread is inside native code; unloading that code under it would crash.
        sys.stderr.flush()
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
