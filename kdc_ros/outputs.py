"""The node's publishers: what of a processed frame goes out. Everything carries the input's header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import geometry_msgs.msg
import numpy as np
from kdc.msg import InstanceMaskArray, InstancePolygonsArray, PoseArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from kdc_core.draw import draw_people
from kdc_core.positions import Positions
from kdc_core.tracking import FrameTracks
from kdc_core.types import FrameResult
from kdc_ros.body_frames import TF_QOS, body_transforms, roots_to_message
from kdc_ros.conversions import (
    PersonPool,
    label_image_to_message,
    masks_to_message,
    polygons_to_message,
    poses_to_message,
)
from kdc_ros.frame import Frame
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.jpeg import rgb_to_jpeg_message
from kdc_ros.locating import Located, Locator
from kdc_ros.markers import MarkerBuilder
from kdc_ros.parameters import Settings
from kdc_ros.qos import PICTURES, RESULTS, MismatchLog, create_publisher

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # not among the wheels on PyPI; without it there are no frames of people
    TFMessage = None

# A mono8 label image holds so many people.
_NARROW_LABELS = 255


class Outputs:
    """Publishes ~/poses always, and everything else while somebody listens.

    Owns all publishers of results: `activate` makes them, `close` removes them; in between `publish` is called
    from the inference thread.
    """

    def __init__(self, node: Node, mismatches: MismatchLog, statistics: FrameStatistics) -> None:
        self._node = node
        self._mismatches = mismatches
        self._context = node.context
        self._publishers: _Publishers | None = None
        self._marker_builder = MarkerBuilder()
        self._pool = PersonPool()
        self._locator = Locator(node.get_logger(), statistics)

    def activate(self) -> None:
        """Create the publishers."""

        made: list[Publisher] = []

        def publisher(kind: type, topic: str, qos: QoSProfile) -> Publisher:
            made.append(create_publisher(self._node, kind, topic, qos, self._mismatches))
            return made[-1]

        self._marker_builder.reset()
        try:
            self._publishers = self._create(publisher)
        except Exception:  # an override that makes no sense
            for part in made:
                self._node.destroy_publisher(part)
            raise

    @staticmethod
    def _create(publisher: Callable[[type, str, QoSProfile], Publisher]) -> _Publishers:
        return _Publishers(
            poses=publisher(PoseArray, "~/poses", RESULTS),
            roots=publisher(geometry_msgs.msg.PoseArray, "~/roots", RESULTS),
            frames=None if TFMessage is None else publisher(TFMessage, "/tf", TF_QOS),
            masks=publisher(InstanceMaskArray, "~/masks", RESULTS),
            mask_image=publisher(Image, "~/mask_image", PICTURES),
            polygons=publisher(InstancePolygonsArray, "~/polygons", RESULTS),
            markers=publisher(MarkerArray, "~/markers", RESULTS),
            overlay=publisher(Image, "~/overlay", PICTURES),
            overlay_compressed=publisher(CompressedImage, "~/overlay/compressed", PICTURES),
        )

    def close(self) -> None:
        """Destroy the publishers; what is published afterwards goes nowhere."""
        publishers, self._publishers = self._publishers, None
        if publishers is not None:
            for publisher in vars(publishers).values():
                if publisher is not None:
                    self._node.destroy_publisher(publisher)

    def publish(self, frame: Frame, result: FrameResult, tracks: FrameTracks, settings: Settings) -> bool:
        """Publish one frame; `tracks` are the identities of its people. Returns whether its depth image was of use.

        Does nothing when closed, nor once ROS is shut down.
        """
        publishers = self._publishers
        if publishers is None:
            return False
        track_ids = tracks.ids
        located = self._locator.locate(frame, result.people, result.image_hw, settings)
        try:
            message = poses_to_message(
                result.people, tracks, frame.header, result.image_hw, located.positions, self._pool
            )
            publishers.poses.publish(message)
            self._publish_places(publishers, frame, track_ids, located.positions, settings)
            self._publish_masks(publishers, frame, result, track_ids, settings)
            self._publish_markers(publishers, frame, result, track_ids, located, settings)
            self._publish_overlay(publishers, frame, result, track_ids, settings)
        except RuntimeError:  # rclpy's own exceptions derive from it
            if self._context.ok() and self._publishers is not None:
                raise
        return located.by_depth

    def _publish_places(
        self,
        publishers: _Publishers,
        frame: Frame,
        track_ids: np.ndarray,
        positions: Positions,
        settings: Settings,
    ) -> None:
        if _wanted(publishers.roots):
            publishers.roots.publish(roots_to_message(positions, frame.header))
        if settings.body_frames and publishers.frames is not None:
            transforms = body_transforms(positions, track_ids, frame.header, settings.body_prefix)
            if transforms:
                publishers.frames.publish(TFMessage(transforms=transforms))

    def _publish_masks(
        self,
        publishers: _Publishers,
        frame: Frame,
        result: FrameResult,
        track_ids: np.ndarray,
        settings: Settings,
    ) -> None:
        people, header = result.people, frame.header
        if people.mask_labels is None:
            return
        if _wanted(publishers.masks):
            publishers.masks.publish(masks_to_message(people, track_ids, header))
        if _wanted(publishers.mask_image):
            # By the parameter, not by how many are there: the encoding should not change from frame to frame.
            wide = settings.max_people > _NARROW_LABELS
            publishers.mask_image.publish(label_image_to_message(people, header, wide))
        if _wanted(publishers.polygons):
            tolerance_px = settings.polygon_tolerance_px
            publishers.polygons.publish(polygons_to_message(people, track_ids, header, tolerance_px))

    def _publish_markers(
        self,
        publishers: _Publishers,
        frame: Frame,
        result: FrameResult,
        track_ids: np.ndarray,
        located: Located,
        settings: Settings,
    ) -> None:
        if not (settings.markers and _wanted(publishers.markers)):
            self._marker_builder.reset()
            return
        self._marker_builder.keypoint_threshold = settings.drawing_threshold
        message = self._marker_builder.build(result.people, track_ids, frame.header, located.camera, located.positions)
        publishers.markers.publish(message)

    def _publish_overlay(
        self,
        publishers: _Publishers,
        frame: Frame,
        result: FrameResult,
        track_ids: np.ndarray,
        settings: Settings,
    ) -> None:
        raw, compressed = _wanted(publishers.overlay), _wanted(publishers.overlay_compressed)
        if not settings.overlay or not (raw or compressed):
            return
        drawn = draw_people(frame.image, result.people, track_ids, settings.drawing_threshold)
        if raw:
            publishers.overlay.publish(rgb_to_message(drawn, frame.header))
        if compressed:
            try:
                jpeg = rgb_to_jpeg_message(drawn, frame.header, settings.overlay_jpeg_quality)
            except ValueError as error:  # more pixels than JPEG can have; the frame itself is out
                self._node.get_logger().warning(f"no ~/overlay/compressed: {error}", throttle_duration_sec=30.0)
                return
            publishers.overlay_compressed.publish(jpeg)


@dataclass(frozen=True)
class _Publishers:
    poses: Publisher
    roots: Publisher
    frames: Publisher | None
    masks: Publisher
    mask_image: Publisher
    polygons: Publisher
    markers: Publisher
    overlay: Publisher
    overlay_compressed: Publisher


def _wanted(publisher: Publisher) -> bool:
    return publisher.get_subscription_count() > 0
