"""Stand-in for the part of `message_filters` that the node uses, for machines without that package.

Same names, same behaviour; tests/ros/test_synchronizers.py runs the same cases over both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.time import Time


class SimpleFilter:
    """Hands messages on to the callbacks registered with it."""

    def __init__(self) -> None:
        self._registered: list[tuple[Callable[..., None], tuple]] = []

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:
        """Have `cb(*messages, *args)` called for each output. Returns the connection's number."""
        self._registered.append((cb, args))
        return len(self._registered) - 1

    def signalMessage(self, *msg: Any) -> None:
        """Put an output out."""
        for callback, args in self._registered:
            callback(*msg, *args)


class TimeSynchronizer(SimpleFilter):
    """Puts out messages of several inputs together when their stamps are equal.

    fs:         the inputs. queue_size: messages of each input that are kept; the oldest stamps go first.
    """

    def __init__(self, fs: Sequence[SimpleFilter], queue_size: int) -> None:
        super().__init__()
        self.queue_size = queue_size
        self.lock = threading.Lock()
        self.queues: list[dict[int, Any]] = [{} for _ in fs]
        for index, source in enumerate(fs):
            source.registerCallback(self._receive, index)

    def _receive(self, message: Any, index: int) -> None:
        stamp_ns = Time.from_msg(message.header.stamp).nanoseconds
        with self.lock:
            queue = self.queues[index]
            queue[stamp_ns] = message
            while len(queue) > self.queue_size:
                del queue[min(queue)]
            self._match(stamp_ns, index)

    def _match(self, stamp_ns: int, index: int) -> None:
        if all(stamp_ns in queue for queue in self.queues):
            self._put_out([stamp_ns] * len(self.queues))

    def _put_out(self, stamps_ns: Sequence[int]) -> None:
        chosen = [queue[stamp] for queue, stamp in zip(self.queues, stamps_ns)]
        self.signalMessage(*chosen)
        for queue, stamp in zip(self.queues, stamps_ns):
            del queue[stamp]
