"""The node's executor: messages at the cost of a single thread, while transitions may take their time.

rclpy's MultiThreadedExecutor hands every callback to a pool and waits for its end by waking up again: several
milliseconds of work for each image. Only the slow callbacks are worth that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ConditionReachedException, Executor, ShutdownException, TimeoutException
from rclpy.task import Task


class SlowGroupsExecutor(Executor):
    """Runs callbacks in the thread that spins, and those of some groups in a pool of threads.

    slow:    the groups whose callbacks may take long.
    threads: how many of them may run at a time.
    """

    def __init__(self, slow: Collection[CallbackGroup], threads: int, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._slow = frozenset(slow)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kdc_transition")
        self._running: list[Task] = []

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for one callback and run it, or have it run. Raises what a callback has raised."""
        # rclpy holds subscriptions while it waits for them, but not their event handlers: one that a transition
        # destroys at that moment is an InvalidHandle, once.
        with contextlib.suppress(ShutdownException, TimeoutException, ConditionReachedException, InvalidHandle):
            handler, entity, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
            if entity is not None and entity.callback_group in self._slow:
                self._pool.submit(handler)
                self._running.append(handler)
            else:
                handler()
                handler.result()
        for task in [task for task in self._running if task.done()]:
            self._running.remove(task)
            task.result()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop; wait for the slow callbacks, which end soon once ROS is shut down."""
        ended = super().shutdown(timeout_sec)
        self._pool.shutdown()
        for task in self._running:
            if task.done():
                task.exception()  # fetched, or it is told at the very end: ROS was shut down under them
        return ended
