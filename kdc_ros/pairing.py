"""Pairs colour frames with the depth images of the same moment, and never holds a colour frame up for long."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sensor_msgs.msg import CompressedImage, Image

from kdc_ros.stamps import JUMP_BACK_NS, stamp_ns

try:
    from message_filters import ApproximateTimeSynchronizer, SimpleFilter, TimeSynchronizer
except ImportError:
    from kdc_ros.compat.message_filters import (
        ApproximateTimeSynchronizer,
        SimpleFilter,
        TimeSynchronizer,
    )

APPROXIMATE, EXACT = "approximate", "exact"
CHOICES = (APPROXIMATE, EXACT)
# Of each kind; beyond that the oldest colour frame goes on alone.
QUEUE_SIZE = 10

Colour: TypeAlias = Image | CompressedImage


@dataclass(frozen=True)
class _Waiting:
    message: Colour
    until_s: float


class DepthPairing:
    """Colour frames and depth images in, colour frames with or without a depth image out.

    A colour frame waits for its depth image `slop_s` seconds at most, by the clock on the wall; then it goes on
    alone. Frames leave in the order in which they came, each exactly once.

    release: called with each colour frame and its depth image (or None).
    exact:   whether stamps must be equal; else they may differ by less than `slop_s`.
    """

    def __init__(
        self,
        release: Callable[[Colour, Image | None], None],
        exact: bool,
        slop_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._release = release
        self._exact = exact
        self._slop_s = slop_s
        self._now_s = now_s
        self._waiting: deque[_Waiting] = deque()
        self._newest_ns = 0
        self._connect()

    def _connect(self) -> None:
        """Start afresh: a synchronizer that holds later stamps throws earlier ones away at once."""
        self._colours, self._depths = SimpleFilter(), SimpleFilter()
        inputs = [self._colours, self._depths]
        if self._exact:
            synchronizer = TimeSynchronizer(inputs, QUEUE_SIZE)
        else:
            synchronizer = ApproximateTimeSynchronizer(inputs, QUEUE_SIZE, self._slop_s)
        synchronizer.registerCallback(self._on_pair)

    def add_colour(self, message: Colour) -> None:
        """A colour frame arrived."""
        stamp = stamp_ns(message.header.stamp)
        if stamp is None:  # nothing to pair it by
            self.flush()
            self._release(message, None)
            return
        if stamp < self._newest_ns - JUMP_BACK_NS:
            self.flush()
            self._connect()
        self._newest_ns = stamp
        self._waiting.append(_Waiting(message, self._now_s() + self._slop_s))
        self._colours.signalMessage(message)
        if len(self._waiting) > QUEUE_SIZE:
            self._release(self._waiting.popleft().message, None)

    def add_depth(self, message: Image) -> None:
        """A depth image arrived."""
        if stamp_ns(message.header.stamp) is not None:
            self._depths.signalMessage(message)

    def check(self) -> None:
        """Let go what has waited long enough; called often while `waiting`."""
        now_s = self._now_s()
        while self._waiting and self._waiting[0].until_s <= now_s:
            self._release(self._waiting.popleft().message, None)

    def flush(self) -> None:
        """Let go everything that waits, without depth."""
        while self._waiting:
            self._release(self._waiting.popleft().message, None)

    @property
    def waiting(self) -> bool:
        """Whether a colour frame waits for its depth image."""
        return bool(self._waiting)

    def _on_pair(self, colour: Colour, depth: Image) -> None:
        if not any(waiting.message is colour for waiting in self._waiting):
            return  # its depth image came too late
        while (first := self._waiting.popleft()).message is not colour:
            self._release(first.message, None)
        self._release(colour, depth)
