"""The node's publishers: what of a processed frame goes out. Everything carries the input's header."""

from __future__ import annotations

import numpy as np
from kdc.msg import InstanceMaskArray, PoseArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from kdc_core.draw import draw_people
from kdc_core.types import FrameResult
from kdc_ros.camera import Pinhole
from kdc_ros.conversions import masks_to_message, poses_to_message
from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.markers import MarkerBuilder
from kdc_ros.parameters import Settings
from kdc_ros.qos import PICTURES, RESULTS, MismatchLog


class Outputs:
    """Publishes ~/poses always, and ~/masks, ~/markers and ~/overlay while somebody listens."""

    def __init__(self, node: Node, mismatches: MismatchLog) -> None:
        def publisher(kind: type, topic: str, qos: QoSProfile) -> Publisher:
            callbacks = mismatches.for_publisher(node.resolve_topic_name(topic))
            return node.create_publisher(kind, topic, qos, event_callbacks=callbacks)

        self._context = node.context
        self._poses = publisher(PoseArray, "~/poses", RESULTS)
        self._masks = publisher(InstanceMaskArray, "~/masks", RESULTS)
        self._markers = publisher(MarkerArray, "~/markers", RESULTS)
        self._overlay = publisher(Image, "~/overlay", PICTURES)
        self._marker_builder = MarkerBuilder()
        self._camera_info: CameraInfo | None = None

    def set_camera_info(self, info: CameraInfo) -> None:
        """The camera's calibration, for the place of the markers."""
        self._camera_info = info

    def publish(
        self,
        image: np.ndarray,
        result: FrameResult,
        track_ids: np.ndarray,
        header: Header,
        settings: Settings,
    ) -> None:
        """Publish one frame.

        image: uint8 (H, W, 3) RGB, the picture that was processed. track_ids: int (N,), 0 = not tracked.
        Does nothing once ROS is shut down.
        """
        try:
            self._publish(image, result, track_ids, header, settings)
        except RuntimeError:  # rclpy's own exceptions derive from it
            if self._context.ok():
                raise

    def _publish(
        self,
        image: np.ndarray,
        result: FrameResult,
        track_ids: np.ndarray,
        header: Header,
        settings: Settings,
    ) -> None:
        people = result.people
        self._poses.publish(poses_to_message(people, track_ids, header, result.image_hw))
        if people.mask_labels is not None and _wanted(self._masks):
            self._masks.publish(masks_to_message(people, track_ids, header))
        if settings.markers and _wanted(self._markers):
            self._marker_builder.keypoint_threshold = settings.drawing_threshold
            camera = self._camera(result.image_hw)
            self._markers.publish(self._marker_builder.build(people, track_ids, header, camera))
        else:
            self._marker_builder.reset()
        if settings.overlay and _wanted(self._overlay):
            drawn = draw_people(image, people, track_ids, settings.drawing_threshold)
            self._overlay.publish(rgb_to_message(drawn, header))

    def _camera(self, image_hw: tuple[int, int]) -> Pinhole:
        calibrated = None
        if self._camera_info is not None:
            calibrated = Pinhole.from_camera_info(self._camera_info, image_hw)
        return calibrated or Pinhole.guess(image_hw)


def _wanted(publisher: Publisher) -> bool:
    return publisher.get_subscription_count() > 0
