"""The other side of the node under test: a camera, a listener, and a client of its services."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from kdc.msg import PoseArray
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.qos import PublisherEventCallbacks

ANSWER_TIMEOUT_S = 30.0
# An answer that does not come in this time: the frame was lost, and is sent again with a new stamp.
_RESEND_S = 1.0


class SoakError(RuntimeError):
    """The node did not do what it must."""


class Peer:
    """Sends frames to the node `namespace`/kdc and waits for the answers."""

    def __init__(self, namespace: str) -> None:
        self.node = rclpy.create_node("soak", namespace=namespace)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._stamps: dict[int, int] = {}
        self.node.create_subscription(PoseArray, "kdc/poses", self._on_poses, 10)
        self._camera = self._new_camera(ReliabilityPolicy.RELIABLE)
        self.ages_s: list[float] = []

    def _on_poses(self, poses: PoseArray) -> None:
        stamp = poses.header.stamp.sec * 10**9 + poses.header.stamp.nanosec
        self._stamps[stamp] = len(poses.people)
        while len(self._stamps) > 100:
            del self._stamps[min(self._stamps)]

    def _new_camera(self, reliability: ReliabilityPolicy) -> Any:
        # That a best-effort camera does not suit a reliable subscription for a moment is meant here, and no news.
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        qos = QoSProfile(depth=1, reliability=reliability)
        return self.node.create_publisher(Image, "image", qos, event_callbacks=quiet)

    def replace_camera(self, reliability: ReliabilityPolicy) -> None:
        """The camera goes, and one of the given reliability comes."""
        self.node.destroy_publisher(self._camera)
        self._camera = self._new_camera(reliability)

    def spin_until(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Work until a condition holds; returns whether it did in time."""
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def stamp(self) -> Header:
        """A header of now."""
        return Header(stamp=self.node.get_clock().now().to_msg(), frame_id="soak")

    def send(self, message: Image) -> None:
        """Publish an image message as it is."""
        self._camera.publish(message)
        self._executor.spin_once(timeout_sec=0)

    def exchange(self, picture: np.ndarray) -> int:
        """Send a picture until it is answered; returns the number of people. Raises SoakError after too long."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while time.monotonic() < deadline:
            message = rgb_to_message(picture, self.stamp())
            sent = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            self._camera.publish(message)
            if self.spin_until(functools.partial(self._stamps.__contains__, sent), _RESEND_S):
                self.ages_s.append((self.node.get_clock().now().nanoseconds - sent) * 1e-9)
                return self._stamps[sent]
        raise SoakError(f"a picture of {picture.shape[1]} x {picture.shape[0]} was not answered")

    def call(self, kind: type, name: str, request: Any) -> Any:
        """The answer of one of the node's services. Raises SoakError without one."""
        client: Any = self.node.create_client(kind, f"kdc/{name}")
        try:
            if not self.spin_until(client.service_is_ready, ANSWER_TIMEOUT_S):
                raise SoakError(f"there is no service {name}")
            future = client.call_async(request)
            if not self.spin_until(future.done, ANSWER_TIMEOUT_S):
                raise SoakError(f"the service {name} does not answer")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def change_state(self, transition: int) -> bool:
        """Ask the node for a lifecycle transition; returns whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, "change_state", request).success

    def state(self) -> str:
        """The node's lifecycle state."""
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def close(self) -> None:
        """Leave."""
        self._executor.shutdown()
        self.node.destroy_node()
