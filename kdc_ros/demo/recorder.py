"""Records what the node answers and joins it, by the header's stamp, to the pictures that it was given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import rclpy
from kdc.msg import InstanceMaskArray, PoseArray
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from kdc_core.types import People
from kdc_ros.conversions import people_from_messages
from kdc_ros.demo import camera
from kdc_ros.image_conversion import image_to_rgb

_RESULTS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.RELIABLE)
# Pictures wait for their answer; the node works in order, so those older than an answer get none.
_KEPT_AFTER_ANSWER_NS = 2_000_000_000
_JPEG_QUALITY = 96


class AnswerError(ValueError):
    """The node's messages about one picture contradict each other or the picture."""


@dataclass
class Answer:
    """What came back for one published picture."""

    stamp_ns: int
    poses: PoseArray
    published_ns: int
    masks: InstanceMaskArray | None = None
    markers: MarkerArray | None = None
    jpeg: np.ndarray | None = None
    image_hw: tuple[int, int] | None = None

    @property
    def latency_ms(self) -> float:
        """From the picture's stamp to the publishing of the poses."""
        return (self.published_ns - self.stamp_ns) * 1e-6

    def people(self) -> tuple[People, np.ndarray]:
        """The people with masks, and their track ids, int32 (N,).

        Raises AnswerError where the poses, the masks, the markers and the picture do not agree.
        """
        if self.masks is None:
            raise AnswerError("poses came without masks")
        try:
            people, track_ids = people_from_messages(self.poses, self.masks)
        except ValueError as error:
            raise AnswerError(str(error)) from error
        if self.poses.header.frame_id != camera.FRAME_ID:
            raise AnswerError(f"the answer's frame_id is '{self.poses.header.frame_id}', not the picture's")
        if self.markers is not None and (shown := _people_marked(self.markers)) != len(people):
            raise AnswerError(f"markers of {shown} people for {len(people)} people")
        sizes = {(m.image_height, m.image_width) for m in (self.poses, self.masks)}
        if self.image_hw is not None and sizes != {self.image_hw}:
            raise AnswerError(f"for a picture of {self.image_hw} (height, width) the answer says {sizes}")
        return people, track_ids

    def picture(self) -> np.ndarray:
        """The picture that was answered, uint8 RGB (H, W, 3). Raises AnswerError where it is missing."""
        if self.jpeg is None:
            raise AnswerError("the picture itself did not arrive")
        bgr = cv2.imdecode(self.jpeg, cv2.IMREAD_COLOR)
        assert bgr is not None  # encoded by ourselves
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _people_marked(markers: MarkerArray) -> int:
    return sum(marker.ns == "labels" and marker.action == Marker.ADD for marker in markers.markers)


def stamp_ns(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


@dataclass
class _Store:
    """Messages by stamp, whichever comes first."""

    images: dict[int, Image] = field(default_factory=dict)
    masks: dict[int, InstanceMaskArray] = field(default_factory=dict)
    markers: dict[int, MarkerArray] = field(default_factory=dict)


class Recorder(Node):
    """Subscribes to everything that the node publishes about people, then to the camera. `spin` to record.

    The camera waits for this subscription: discovery takes seconds now and then, and the first answers would be
    nobody's.
    """

    def __init__(self, node_name: str) -> None:
        super().__init__("demo_recorder")
        self.answers: dict[int, Answer] = {}
        self._waiting = _Store()
        self._results = [
            self.create_subscription(PoseArray, f"{node_name}/poses", self._on_poses, _RESULTS),
            self.create_subscription(InstanceMaskArray, f"{node_name}/masks", self._on_masks, _RESULTS),
            self.create_subscription(MarkerArray, f"{node_name}/markers", self._on_markers, _RESULTS),
        ]
        self._images: Subscription | None = None

    def spin(self, seconds: float) -> None:
        """Record for at most so long; returns early when something arrived."""
        if self._images is None and all(results.get_publisher_count() for results in self._results):
            self._images = self.create_subscription(Image, camera.TOPIC, self._on_image, camera.IMAGES)
        rclpy.spin_once(self, timeout_sec=seconds)

    def _on_image(self, message: Image) -> None:
        self._waiting.images[stamp_ns(message.header)] = message
        self._join(stamp_ns(message.header))

    def _on_poses(self, message: PoseArray, info: Any) -> None:
        stamp = stamp_ns(message.header)
        # The sender's own clock; a middleware that does not tell it leaves 0.
        published = info.get("source_timestamp") or self.get_clock().now().nanoseconds
        self.answers[stamp] = Answer(stamp, message, published)
        self._join(stamp)
        for other in [s for s in self._waiting.images if s < stamp - _KEPT_AFTER_ANSWER_NS]:
            del self._waiting.images[other]

    def _on_masks(self, message: InstanceMaskArray) -> None:
        self._waiting.masks[stamp_ns(message.header)] = message
        self._join(stamp_ns(message.header))

    def _on_markers(self, message: MarkerArray) -> None:
        # Nobody there and nobody gone: an array without a marker, and so without a stamp.
        if message.markers:
            stamp = stamp_ns(message.markers[0].header)
            self._waiting.markers[stamp] = message
            self._join(stamp)

    def _join(self, stamp: int) -> None:
        answer = self.answers.get(stamp)
        if answer is None:
            return
        answer.masks = self._waiting.masks.pop(stamp, answer.masks)
        answer.markers = self._waiting.markers.pop(stamp, answer.markers)
        if (image := self._waiting.images.pop(stamp, None)) is not None:
            # Compressed: a minute of full HD would not fit the memory otherwise.
            answer.image_hw = (image.height, image.width)
            bgr = cv2.cvtColor(image_to_rgb(image), cv2.COLOR_RGB2BGR)
            answer.jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
