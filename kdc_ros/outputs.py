"""The node's publishers: what of a processed frame goes out. Everything carries the input's header."""

from __future__ import annotations

from dataclasses import dataclass

from kdc.msg import InstanceMaskArray, PoseArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from kdc_core.draw import draw_people
from kdc_core.tracking import FrameTracks
from kdc_core.types import FrameResult
from kdc_ros.camera import Pinhole
from kdc_ros.conversions import masks_to_message, poses_to_message
from kdc_ros.frame import Frame
from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.markers import MarkerBuilder
from kdc_ros.parameters import Settings
from kdc_ros.qos import PICTURES, RESULTS, MismatchLog, create_publisher


class Outputs:
    """Publishes ~/poses always, and ~/masks, ~/markers and ~/overlay while somebody listens.

    Owns all publishers of results: `activate` makes them, `close` removes them; in between `publish` is called
    from the inference thread.
    """

    def __init__(self, node: Node, mismatches: MismatchLog) -> None:
        self._node = node
        self._mismatches = mismatches
        self._context = node.context
        self._publishers: _Publishers | None = None
        self._marker_builder = MarkerBuilder()

    def activate(self) -> None:
        """Create the publishers."""

        def publisher(kind: type, topic: str, qos: QoSProfile) -> Publisher:
            return create_publisher(self._node, kind, topic, qos, self._mismatches)

        self._marker_builder.reset()
        self._publishers = _Publishers(
            poses=publisher(PoseArray, "~/poses", RESULTS),
            masks=publisher(InstanceMaskArray, "~/masks", RESULTS),
            markers=publisher(MarkerArray, "~/markers", RESULTS),
            overlay=publisher(Image, "~/overlay", PICTURES),
        )

    def close(self) -> None:
        """Destroy the publishers; what is published afterwards goes nowhere."""
        publishers, self._publishers = self._publishers, None
        if publishers is not None:
            for publisher in vars(publishers).values():
                self._node.destroy_publisher(publisher)

    def publish(self, frame: Frame, result: FrameResult, tracks: FrameTracks, settings: Settings) -> None:
        """Publish one frame; `tracks` are the identities of its people.

        Does nothing when closed, nor once ROS is shut down.
        """
        publishers = self._publishers
        if publishers is None:
            return
        try:
            self._publish(publishers, frame, result, tracks, settings)
        except RuntimeError:  # rclpy's own exceptions derive from it
            if self._context.ok() and self._publishers is not None:
                raise

    def _publish(
        self,
        publishers: _Publishers,
        frame: Frame,
        result: FrameResult,
        tracks: FrameTracks,
        settings: Settings,
    ) -> None:
        people, header = result.people, frame.header
        publishers.poses.publish(poses_to_message(people, tracks, header, result.image_hw))
        if people.mask_labels is not None and _wanted(publishers.masks):
            publishers.masks.publish(masks_to_message(people, tracks.ids, header))
        if settings.markers and _wanted(publishers.markers):
            self._marker_builder.keypoint_threshold = settings.drawing_threshold
            camera = _camera(frame, result.image_hw)
            publishers.markers.publish(self._marker_builder.build(people, tracks.ids, header, camera))
        else:
            self._marker_builder.reset()
        if settings.overlay and _wanted(publishers.overlay):
            drawn = draw_people(frame.image, people, tracks.ids, settings.drawing_threshold)
            publishers.overlay.publish(rgb_to_message(drawn, header))


@dataclass(frozen=True)
class _Publishers:
    poses: Publisher
    masks: Publisher
    markers: Publisher
    overlay: Publisher


def _camera(frame: Frame, image_hw: tuple[int, int]) -> Pinhole:
    calibrated = None
    if frame.camera_info is not None:
        calibrated = Pinhole.from_camera_info(frame.camera_info, image_hw)
    return calibrated or Pinhole.guess(image_hw)


def _wanted(publisher: Publisher) -> bool:
    return publisher.get_subscription_count() > 0
