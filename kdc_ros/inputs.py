"""What the node subscribes to, put together into one frame for the inference thread: the newest only."""

from __future__ import annotations

import copy
import threading
from collections import deque
from dataclasses import dataclass

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.image_subscription import RAW, Departures, ImageSubscription
from kdc_ros.mailbox import Mailbox
from kdc_ros.pairing import EXACT, DepthPairing
from kdc_ros.parameters import Settings
from kdc_ros.qos import LATCHED, NEWEST, OVERRIDABLE, MismatchLog
from kdc_ros.stamps import stamp_ns

# Waiting frames are looked at so many times within the slop: how much beyond it one may wait.
_CHECKS_PER_SLOP = 4
KEPT_CALIBRATIONS = 10


@dataclass(frozen=True, eq=False)
class Incoming:
    """One camera frame as it came, with the depth image and calibration that go with it."""

    message: Image | CompressedImage
    depth: Image | None = None
    camera_info: CameraInfo | None = None


class Inputs:
    """The subscriptions from `open` to `close`; frames go into the mailbox.

    Callable from any thread: timers and transitions run in different ones.

    calibrations: the newest ones, of earlier inputs too: a camera may publish its only once.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        statistics: FrameStatistics,
        mismatches: MismatchLog,
        departures: Departures,
        calibrations: deque[CameraInfo] | None = None,
    ) -> None:
        self._node = node
        self._settings = settings
        self._statistics = statistics
        self._mismatches = mismatches
        self._departures = departures
        self._lock = threading.RLock()
        self._mailbox: Mailbox[Incoming] | None = None
        self._calibrations = deque(maxlen=KEPT_CALIBRATIONS) if calibrations is None else calibrations
        self._pictures: list[ImageSubscription] = []
        self._entities: list[tuple] = []
        self._latched = False
        self._pairing: DepthPairing | None = None
        self._pairing_timer: Timer | None = None

    def open(self, mailbox: Mailbox[Incoming]) -> None:
        """Subscribe. Frames go into `mailbox` until `close`."""
        node, settings = self._node, self._settings
        with self._lock:
            self._mailbox = mailbox
            calibration = node.create_subscription(
                CameraInfo,
                "camera_info",
                self._on_calibration,
                copy.copy(NEWEST),
                event_callbacks=self._mismatches.for_subscription(node.resolve_topic_name("camera_info")),
                qos_overriding_options=OVERRIDABLE,
            )
            self._entities.append((node.destroy_subscription, calibration))
            if settings.use_depth:
                self._pairing = DepthPairing(
                    self._deliver_paired, settings.sync_policy == EXACT, settings.sync_slop_s
                )
                self._subscribe("depth", self._on_depth, RAW)
                self._pairing_timer = node.create_timer(
                    settings.sync_slop_s / _CHECKS_PER_SLOP,
                    self._check_pairing,
                    clock=Clock(clock_type=ClockType.STEADY_TIME),
                )
                self._entities.append((node.destroy_timer, self._pairing_timer))
            self._subscribe("image", self._on_image, settings.image_transport)

    def close(self) -> None:
        """Unsubscribe from everything; no frame goes into the mailbox afterwards."""
        with self._lock:
            for pictures in self._pictures:
                pictures.close()
            for destroy, entity in self._entities:
                destroy(entity)
            if self._pairing is not None and (waiting := self._pairing.forget()):
                self._statistics.count_discarded(waiting)
            self._pictures, self._entities = [], []
            self._pairing = self._pairing_timer = self._mailbox = None
            self._latched = False

    def adapt(self) -> None:
        """Follow what the publishers offer; called now and then by a timer."""
        with self._lock:
            for pictures in self._pictures:
                pictures.adapt()
            if self._mailbox is not None and not self._latched:
                self._subscribe_latched()

    @property
    def topic_name(self) -> str:
        """The topic of the colour images."""
        with self._lock:
            return self._pictures[-1].topic_name if self._pictures else ""

    def publisher_count(self) -> int:
        """How many publishers the colour images have."""
        with self._lock:
            return self._pictures[-1].publisher_count() if self._pictures else 0

    def other_types(self) -> list[str]:
        """What else than pictures of the transport asked for is published on the topic of the colour images."""
        with self._lock:
            return self._pictures[-1].other_types() if self._pictures else []

    def _subscribe_latched(self) -> None:
        """Receive the calibration of a camera that publishes it once, and keeps it for those who come later.

        Only where there is one: any other would be told of an incompatible subscription.
        """
        topic = self._node.resolve_topic_name("camera_info")
        offers = self._node.get_publishers_info_by_topic("camera_info")
        if any(offer.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers):
            events = self._mismatches.for_subscription(topic, unless=tuple(QoSPolicyKind))
            kept = self._node.create_subscription(
                CameraInfo, "camera_info", self._on_calibration, copy.copy(LATCHED), event_callbacks=events
            )
            self._entities.append((self._node.destroy_subscription, kept))
            self._latched = True

    def _subscribe(self, topic: str, callback, transport: str) -> None:
        reliability = self._settings.image_reliability
        self._pictures.append(
            ImageSubscription(
                self._node, topic, callback, reliability, self._mismatches, self._departures, transport
            )
        )

    def _on_image(self, message: Image | CompressedImage) -> None:
        with self._lock:
            if self._mailbox is None:
                return
            self._statistics.count_received()
            if self._pairing is None or self._pairing_timer is None:
                self._deliver(Incoming(message, None, self._calibration(message)))
            else:
                self._pairing.add_colour(message)
                # The timer runs only while a frame waits.
                if self._pairing.waiting and self._pairing_timer.is_canceled():
                    self._pairing_timer.reset()

    def _on_calibration(self, message: CameraInfo) -> None:
        if stamp_ns(message.header.stamp) is None:
            self._calibrations.clear()  # by its stamp it would never be the nearest
        self._calibrations.append(message)

    def _on_depth(self, message: Image) -> None:
        with self._lock:
            if self._pairing is not None:
                self._pairing.add_depth(message)

    def _check_pairing(self) -> None:
        with self._lock:
            if self._pairing is not None and self._pairing_timer is not None:
                self._pairing.check()
                if not self._pairing.waiting:
                    self._pairing_timer.cancel()

    def _deliver_paired(self, message: Image | CompressedImage, depth: Image | None) -> None:
        self._deliver(Incoming(message, depth, self._calibration(message)))

    def _deliver(self, incoming: Incoming) -> None:
        if self._mailbox is not None and self._mailbox.put(incoming):
            self._statistics.count_superseded()

    def _calibration(self, message: Image | CompressedImage) -> CameraInfo | None:
        """The calibration nearest in time, the newest of equals. It hardly ever changes, so none is waited for."""
        calibrations = list(self._calibrations)
        stamp = stamp_ns(message.header.stamp)
        if not calibrations or stamp is None:
            return calibrations[-1] if calibrations else None
        return min(reversed(calibrations), key=lambda info: abs((stamp_ns(info.header.stamp) or 0) - stamp))
