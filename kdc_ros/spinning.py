"""Spinning in a thread of its own."""

from __future__ import annotations

import threading

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future


class SpinThread:
    """Runs a node's callbacks in a thread until `stop`.

    rclpy's Executor.shutdown does not wait for the thread that spins, but destroys what that one is just using.
    """

    def __init__(self, node: Node, context: Context | None = None) -> None:
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(node)
        self._stopped: Future = Future()
        self._thread = threading.Thread(target=self._spin, name=f"spin_{node.get_name()}", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        self._executor.spin_until_future_complete(self._stopped)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Wait for the callback under way, and run no more. Then the node may be destroyed."""
        self._stopped.set_result(None)
        self._thread.join(timeout_s)
        self._executor.shutdown(timeout_s)
