"""Plays recorded pictures to the node and keeps its answers; when each picture is due."""

from __future__ import annotations

import struct
import threading
import time

import rclpy
from kdc.msg import InstanceMaskArray, PoseArray
from rclpy.context import Context
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from kdc_replay.bag_reader import NS
from kdc_ros.spinning import SpinThread

TOPIC = "replayed/image"
# Reliable, so that what gets lost is what the node dropped, not what the middleware did.
_IMAGES = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
_RESULTS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=200, reliability=ReliabilityPolicy.RELIABLE)
_LONGEST_PAUSE_S = 10.0


class Player:
    """Publishes pictures, and keeps the node's answers with the time each one arrived.

    sent_ns, arrived_ns: time.monotonic_ns() of each picture and its poses, by the picture's stamp.
    poses, masks:        the answers as they came (`take` hands them out), by stamp.
    """

    def __init__(self, context: Context) -> None:
        self._node = rclpy.create_node("replay_player", context=context)
        self._images = self._node.create_publisher(Image, TOPIC, _IMAGES)
        # As they come: a message of Python objects takes several times the memory.
        self._node.create_subscription(PoseArray, "kdc/poses", self._on_poses, _RESULTS, raw=True)
        self._node.create_subscription(InstanceMaskArray, "kdc/masks", self._on_masks, _RESULTS, raw=True)
        self.sent_ns: dict[int, int] = {}
        self.arrived_ns: dict[int, int] = {}
        self.poses: dict[int, bytes] = {}
        self.masks: dict[int, bytes] = {}
        self._changed = threading.Condition()
        self._spinning = SpinThread(self._node, context)

    def close(self) -> None:
        """Leave."""
        self._spinning.stop()
        self._node.destroy_node()

    def subscribed(self) -> bool:
        """Whether the node hears us and we hear the node."""
        topics = ("kdc/poses", "kdc/masks")
        return self._images.get_subscription_count() > 0 and all(self._node.count_publishers(t) for t in topics)

    def reliable(self) -> bool:
        """Whether the node's subscription asks for lost pieces again."""
        asked = self._node.get_subscriptions_info_by_topic(self._node.resolve_topic_name(TOPIC))
        return bool(asked) and all(a.qos_profile.reliability == ReliabilityPolicy.RELIABLE for a in asked)

    def publish(self, message: Image | bytes, stamp_ns: int) -> None:
        """Publish a picture, as a message or as it was recorded."""
        self.sent_ns[stamp_ns] = time.monotonic_ns()
        self._images.publish(message)

    def wait_answered(self, stamp_ns: int, masks: bool, timeout_s: float) -> bool:
        """Wait for the answer to a picture; returns whether it came."""
        with self._changed:
            return self._changed.wait_for(
                lambda: stamp_ns in self.poses and (stamp_ns in self.masks or not masks), timeout_s
            )

    def take(self, stamp_ns: int) -> tuple[PoseArray | None, InstanceMaskArray | None]:
        """The answer to a picture, which is not kept any longer; None for what did not come."""
        with self._changed:
            poses, masks = self.poses.pop(stamp_ns, None), self.masks.pop(stamp_ns, None)
        return (
            None if poses is None else deserialize_message(poses, PoseArray),
            None if masks is None else deserialize_message(masks, InstanceMaskArray),
        )

    def _on_poses(self, data: bytes) -> None:
        now_ns, stamp_ns = time.monotonic_ns(), read_stamp_ns(data)
        with self._changed:
            self.arrived_ns[stamp_ns] = now_ns
            self.poses[stamp_ns] = data
            self._changed.notify_all()

    def _on_masks(self, data: bytes) -> None:
        with self._changed:
            self.masks[read_stamp_ns(data)] = data
            self._changed.notify_all()


class Pace:
    """Waits until a frame is due; a pause of the recording of more than 10 s, or a step back, is passed over."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._last_ns: int | None = None
        self._due_s = 0.0

    def wait(self, time_ns: int) -> None:
        """Return when the frame of this stamp is due."""
        if self._rate is None:
            return
        if self._last_ns is None:
            self._due_s = time.monotonic()
        elif 0 < (step_s := (time_ns - self._last_ns) / NS) <= _LONGEST_PAUSE_S:
            self._due_s += step_s / self._rate
        self._last_ns = time_ns
        if (early_s := self._due_s - time.monotonic()) > 0:
            time.sleep(early_s)


# CDR: four bytes of encapsulation, whose second tells the byte order, then the stamp's seconds and nanoseconds.
def read_stamp_ns(data: bytes) -> int:
    """The stamp of a serialized message whose header comes first, in nanoseconds."""
    seconds, nanoseconds = struct.unpack_from(f"{_byte_order(data)}iI", data, 4)
    return int(seconds) * NS + int(nanoseconds)


def with_stamp_ns(data: bytes, stamp_ns: int) -> bytes:
    """A serialized message whose header comes first, with another stamp."""
    return data[:4] + struct.pack(f"{_byte_order(data)}iI", stamp_ns // NS, stamp_ns % NS) + data[12:]


def _byte_order(data: bytes) -> str:
    return "<" if data[1] & 1 else ">"
