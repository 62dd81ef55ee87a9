"""The real node inside the test's own process, and a client that talks to it over DDS."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from kdc.msg import PoseArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from std_srvs.srv import SetBool, Trigger

from kdc_ros.node import PeopleNode, spin
from kdc_ros.spinning import SpinThread
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until

_numbers = itertools.count()

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP
SHUTDOWN = {
    "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


class NodeBench:
    """A node with parameters in a namespace of its own, spun as `kdc_node` does it.

    `{namespace}` in a parameter's name stands for that namespace.
    """

    def __init__(self, **parameters: Any) -> None:
        self.namespace = f"/bench{next(_numbers)}"
        overrides = [
            Parameter(name.format(namespace=self.namespace), value=value) for name, value in parameters.items()
        ]
        self.node = PeopleNode(namespace=self.namespace, parameter_overrides=overrides)
        self.client = rclpy.create_node("client", namespace=self.namespace)
        self.poses: list[PoseArray] = []
        self.diagnostics: list[DiagnosticArray] = []
        qos = QoSProfile(depth=100)
        self.client.create_subscription(PoseArray, "kdc/poses", self.poses.append, qos)
        self.client.create_subscription(DiagnosticArray, "/diagnostics", self._keep, qos)
        self._publishers: dict[str, Any] = {}
        self._spinning = SpinThread(self.client)
        self._node_thread = threading.Thread(target=self._spin_node, daemon=True)
        self._node_thread.start()

    def _spin_node(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            spin(self.node)

    def _keep(self, message: DiagnosticArray) -> None:
        if message.status[0].name.startswith(self.namespace.lstrip("/")):
            self.diagnostics.append(message)

    def call(self, kind: type, name: str, request: Any) -> Any:
        """The answer of one of the node's services."""
        client = self.client.create_client(kind, f"kdc/{name}")
        assert client.wait_for_service(EXCHANGE_TIMEOUT_S), f"no service {name}"
        future = client.call_async(request)
        assert wait_until(future.done, EXCHANGE_TIMEOUT_S), f"{name} does not answer"
        self.client.destroy_client(client)
        return future.result()

    def change(self, transition: int) -> bool:
        """Ask for a transition; returns whether it succeeded."""
        return self.call(ChangeState, "change_state", ChangeState.Request(transition=Transition(id=transition))).success

    def state(self) -> str:
        """The state as the standard service tells it."""
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def enable(self, on: bool) -> SetBool.Response:
        return self.call(SetBool, "enable", SetBool.Request(data=on))

    def reset_tracking(self) -> Trigger.Response:
        return self.call(Trigger, "reset_tracking", Trigger.Request())

    def set_parameter(self, name: str, value: Any) -> Any:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def wait_for_state(self, label: str) -> None:
        assert wait_until(lambda: self.node.state_label == label, EXCHANGE_TIMEOUT_S), self.node.state_label

    def publish(self, message: Any, topic: str = "image", qos: QoSProfile | int = 10) -> None:
        """Publish a message on a topic in the node's namespace."""
        if topic not in self._publishers:
            self._publishers[topic] = self.client.create_publisher(type(message), topic, qos)
        self._publishers[topic].publish(message)

    def publish_until(self, make: Callable[[], Any], condition: Callable[[], Any], topic: str = "image") -> None:
        """Publish new messages until a condition holds."""
        deadline = time.monotonic() + EXCHANGE_TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "the messages had no effect"
            self.publish(make(), topic)
            wait_until(condition, 0.1)

    def status(self, name: str, condition: Callable[[DiagnosticStatus], Any] = lambda _: True) -> DiagnosticStatus:
        """The next status of that name in /diagnostics that fulfils a condition."""
        self.diagnostics.clear()
        found: list[DiagnosticStatus] = []

        def search() -> bool:
            for message in list(self.diagnostics):
                found.extend(s for s in message.status if s.name.endswith(f": {name}") and condition(s))
            return bool(found)

        assert wait_until(search, EXCHANGE_TIMEOUT_S), f"no such status; the last: {self.diagnostics[-1:]}"
        return found[-1]

    def close(self) -> None:
        """End everything."""
        self.node.stop()
        self.node.end()
        self._spinning.stop()
        self._node_thread.join(5)
        for node in (self.node, self.client):
            node.destroy_node()


def values(status: DiagnosticStatus) -> dict[str, str]:
    """A status's values by key."""
    return {pair.key: pair.value for pair in status.values}
