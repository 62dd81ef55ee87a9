"""The real node as a real process, and a peer of it in the test's own process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from ament_index_python.packages import get_package_prefix
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from kdc.msg import InstanceMaskArray, PoseArray
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.spinning import SpinThread

# Generous: they only matter when something is wrong, and CI machines are slow at times.
START_TIMEOUT_S = 120.0
EXCHANGE_TIMEOUT_S = 60.0


def slowdown() -> float:
    """How many times longer things take because others use the machine: 1 on an idle one."""
    wall_s, cpu_s = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu_s < 0.03:
        sum(range(1000))
    return max(1.0, (time.monotonic() - wall_s) / (time.thread_time() - cpu_s))


def wait_until(condition: Callable[[], Any], timeout_s: float) -> bool:
    """Wait for a condition; returns whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class NodeProcess:
    """The installed kdc_node executable with parameters; its log is kept in `lines`."""

    def __init__(self, **parameters: Any) -> None:
        command = [str(Path(get_package_prefix("kdc"), "lib", "kdc", "kdc_node")), "--ros-args"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RCUTILS_LOGGING_USE_STDOUT": "0", "RCUTILS_COLORIZED_OUTPUT": "0"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    def logged(self, text: str) -> list[str]:
        """The lines of the log that hold a text."""
        return [line for line in self.lines if text in line]

    def wait_for_log(self, text: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a text was logged; fails with the whole log."""
        found = wait_until(lambda: self.logged(text) or self._process.poll() is not None, timeout_s)
        assert found and self.logged(text), f"'{text}' was not logged:\n" + "\n".join(self.lines)

    def interrupt(self) -> None:
        """Press Ctrl-C once, and do not wait."""
        self._process.send_signal(signal.SIGINT)

    def wait_ready(self) -> None:
        """Wait until the node listens."""
        self.wait_for_log("waiting for images")

    def wait_for_loading(self) -> None:
        """Wait until the node says on /diagnostics that it loads the network."""
        observer, said = rclpy.create_node("observer"), []
        observer.create_subscription(DiagnosticArray, "/diagnostics", said.append, 10)
        executor = SingleThreadedExecutor()
        executor.add_node(observer)

        def loading() -> bool:
            executor.spin_once(timeout_sec=0.1)
            return any(s.message.startswith("loading the network") for array in said for s in array.status)

        try:
            assert wait_until(loading, START_TIMEOUT_S), "\n".join(self.lines)
        finally:
            executor.shutdown()
            observer.destroy_node()

    def exit_code(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Wait for the process's end."""
        code = self._process.wait(timeout_s)
        self._reader.join(2)
        return code

    def stop(self, signal_number: int = signal.SIGINT) -> tuple[int, float]:
        """Send a signal. Returns exit code and seconds until the end, as on an idle machine."""
        before = slowdown()
        started = time.monotonic()
        self._process.send_signal(signal_number)
        code = self.exit_code()
        seconds = time.monotonic() - started
        return code, seconds / max(before, slowdown())

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it, however it is (for the end of a test)."""
        if self.alive():
            self._process.kill()
            self._process.wait(5)


class Peer:
    """Sends images to the node, and keeps everything that it publishes."""

    def __init__(self, overlay: bool = False) -> None:
        self._node = rclpy.create_node("peer")
        self._images = self._node.create_publisher(Image, "image", 1)
        self.poses: list[PoseArray] = []
        self.masks: list[InstanceMaskArray] = []
        self.markers: list[MarkerArray] = []
        self.overlays: list[Image] = []
        listened: list[tuple[type, str, list]] = [
            (PoseArray, "/kdc/poses", self.poses),
            (InstanceMaskArray, "/kdc/masks", self.masks),
            (MarkerArray, "/kdc/markers", self.markers),
        ]
        if overlay:
            listened.append((Image, "/kdc/overlay", self.overlays))
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self._subscriptions = [
            self._node.create_subscription(kind, topic, kept.append, qos) for kind, topic, kept in listened
        ]
        self._spinning = SpinThread(self._node)

    def wait_connected(self) -> None:
        """Wait until the node hears us and we hear the node."""
        assert wait_until(
            lambda: (
                self._images.get_subscription_count() == 1
                and all(self._node.count_publishers(s.topic_name) == 1 for s in self._subscriptions)
            ),
            EXCHANGE_TIMEOUT_S,
        ), "the node and its peer did not find each other"
        # Counted is matched on our side; the node's side may lag by a moment.
        time.sleep(0.2)

    def send(self, message: Image) -> None:
        """Publish an image message as it is."""
        self._images.publish(message)

    def send_until(self, message: Image, condition: Callable[[], Any]) -> None:
        """Publish an image message as it is, anew each second (it may get lost), until a condition holds."""
        deadline = time.monotonic() + EXCHANGE_TIMEOUT_S
        while time.monotonic() < deadline:
            self.send(message)
            if wait_until(condition, 1.0):
                return
        raise AssertionError("the message had no effect")

    def send_picture(self, image: np.ndarray, stamp_s: int, frame_id: str = "camera") -> Header:
        """Publish a picture, uint8 (H, W, 3) RGB. Returns its header."""
        header = Header(stamp=Time(sec=stamp_s, nanosec=123456789), frame_id=frame_id)
        self.send(rgb_to_message(image, header))
        return header

    def answer_to(self, image: np.ndarray, stamp_s: int, timeout_s: float = EXCHANGE_TIMEOUT_S) -> PoseArray:
        """Publish a picture and wait for its poses (best effort: sent anew each second)."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.send_picture(image, stamp_s)
            if wait_until(lambda: self.with_stamp(self.poses, stamp_s), min(timeout_s, 1.0)):
                return self.with_stamp(self.poses, stamp_s)[0]
        raise AssertionError(f"no poses for the picture of {stamp_s} s")

    @staticmethod
    def with_stamp(messages: list, stamp_s: int) -> list:
        """Those messages whose header has the stamp."""
        return [m for m in messages if m.header.stamp.sec == stamp_s]

    def listen_to_latency_and_diagnostics(self) -> None:
        """Keep ~/latency and /diagnostics from now on."""
        self.latencies_s: list[float] = []
        self.diagnostics: list[DiagnosticArray] = []
        self._subscriptions += [
            self._node.create_subscription(Float64, "/kdc/latency", lambda m: self.latencies_s.append(m.data), 10),
            self._node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10),
        ]

    def diagnostic(self, name: str) -> dict[str, str]:
        """The values of the node's newest status of that name."""
        [status] = [s for s in self.diagnostics[-1].status if s.name == f"kdc: {name}"]
        return {pair.key: pair.value for pair in status.values}

    def send_picture_of_now(self, image: np.ndarray) -> None:
        """Publish a picture, uint8 (H, W, 3) RGB, stamped now."""
        stamp = self._node.get_clock().now().to_msg()
        self._images.publish(rgb_to_message(image, Header(stamp=stamp, frame_id="camera")))

    def set_parameter(self, name: str, value: Any) -> SetParametersResult:
        """Change a parameter of the node through its service, as `ros2 param set` does."""
        client = self._node.create_client(SetParameters, "/kdc/set_parameters")
        assert client.wait_for_service(EXCHANGE_TIMEOUT_S)
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        future = client.call_async(request)
        assert wait_until(future.done, EXCHANGE_TIMEOUT_S)
        return future.result().results[0]

    def trigger(self, service: str) -> Trigger.Response:
        """Call a service of type std_srvs/Trigger."""
        client = self._node.create_client(Trigger, service)
        assert client.wait_for_service(EXCHANGE_TIMEOUT_S)
        future = client.call_async(Trigger.Request())
        assert wait_until(future.done, EXCHANGE_TIMEOUT_S)
        return future.result()

    def create_subscription(self, kind: type, topic: str, qos: QoSProfile) -> None:
        """Another subscription, whose messages are not kept."""
        self._subscriptions.append(self._node.create_subscription(kind, topic, lambda _: None, qos))

    def close(self) -> None:
        """Leave."""
        self._spinning.stop()
        self._node.destroy_node()
