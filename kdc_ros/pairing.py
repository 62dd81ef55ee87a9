"""Pairs colour frames with the depth images of the same moment, and never holds a colour frame up for long."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sensor_msgs.msg import CompressedImage, Image

from kdc_ros.stamps import JUMP_BACK_NS, NS_PER_S, stamp_ns

try:
    from message_filters import SimpleFilter, TimeSynchronizer
except ImportError:
    from kdc_ros.compat.message_filters import SimpleFilter, TimeSynchronizer

APPROXIMATE, EXACT = "approximate", "exact"
CHOICES = (APPROXIMATE, EXACT)
# Of each kind at least, more for a long slop; beyond that the oldest colour frame goes on alone.
QUEUE_SIZE = 10
_FASTEST_HZ = 60
_PERIODS = 9  # of a stream, to know its own by

Colour: TypeAlias = Image | CompressedImage


@dataclass(frozen=True)
class _Waiting:
    message: Colour
    stamp_ns: int
    until_s: float


class DepthPairing:
    """Colour frames and depth images in, colour frames with or without a depth image out.

    A colour frame waits for its depth image `slop_s` seconds at most, by the clock on the wall; then it goes on
    alone. Frames leave in the order in which they came, each exactly once; a depth image goes with one of them.

    release: called with each colour frame and its depth image (or None).
    exact:   whether stamps must be equal; else they may differ by less than `slop_s`, and the nearest are paired.
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
        self._limit = max(QUEUE_SIZE, round(slop_s * _FASTEST_HZ))
        self._waiting: deque[_Waiting] = deque()
        self._newest_colour_ns = 0
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._newest_depth_ns = 0
        self._nearest = _NearestDepth(round(self._slop_s * NS_PER_S), self._limit)
        self._connect()

    def _connect(self) -> None:
        """A synchronizer that holds later stamps throws earlier ones away at once: make another."""
        self._colours, self._depths = SimpleFilter(), SimpleFilter()
        TimeSynchronizer([self._colours, self._depths], self._limit).registerCallback(self._on_exact_pair)
        for waiting in self._waiting:
            self._colours.signalMessage(waiting.message)

    def add_colour(self, message: Colour) -> None:
        """A colour frame arrived."""
        stamp = stamp_ns(message.header.stamp)
        if stamp is None:  # nothing to pair it by
            self.flush()
            self._release(message, None)
            return
        if stamp < self._newest_colour_ns - JUMP_BACK_NS:
            self.flush()
            self._start_afresh()
        self._newest_colour_ns = stamp
        self._waiting.append(_Waiting(message, stamp, self._now_s() + self._slop_s))
        if self._exact:
            self._colours.signalMessage(message)
        else:
            self._nearest.add_colour(stamp)
            self._release_settled()
        if len(self._waiting) > self._limit:
            self._release(self._waiting.popleft().message, None)

    def add_depth(self, message: Image) -> None:
        """A depth image arrived."""
        stamp = stamp_ns(message.header.stamp)
        if stamp is None:
            return
        if stamp < self._newest_depth_ns - JUMP_BACK_NS:
            self._nearest.forget_depth()
            self._connect()
        self._newest_depth_ns = stamp
        if self._exact:
            self._depths.signalMessage(message)
        else:
            self._nearest.add_depth(stamp, message)
            self._release_settled()

    def check(self) -> None:
        """Let go what has waited long enough; called often while `waiting`."""
        self._release_settled()

    def flush(self) -> None:
        """Let go everything that waits, without depth."""
        while self._waiting:
            self._release(self._waiting.popleft().message, None)

    def forget(self) -> int:
        """Drop everything that waits; returns how many colour frames that were."""
        count = len(self._waiting)
        self._waiting.clear()
        return count

    @property
    def waiting(self) -> bool:
        """Whether a colour frame waits for its depth image."""
        return bool(self._waiting)

    def _release_settled(self) -> None:
        now_s = self._now_s()
        for partner in self._nearest.partners([waiting.stamp_ns for waiting in self._waiting]):
            first = self._waiting[0]
            if first.until_s > now_s and not self._nearest.is_settled(first.stamp_ns):
                return
            self._waiting.popleft()
            self._release(first.message, None if partner is None else self._nearest.take(partner))

    def _on_exact_pair(self, colour: Colour, depth: Image) -> None:
        if not any(waiting.message is colour for waiting in self._waiting):
            return  # its depth image came too late
        while (first := self._waiting.popleft()).message is not colour:
            self._release(first.message, None)
        self._release(colour, depth)


class _Rhythm:
    """The newest stamp of a stream and the time between two: `usual` of the last ones."""

    def __init__(self, usual: Callable[[Sequence[int]], float]) -> None:
        self._usual = usual
        self.newest_ns: int | None = None
        self._periods_ns: deque[int] = deque(maxlen=_PERIODS)

    def add(self, stamp: int) -> None:
        if self.newest_ns is not None and stamp > self.newest_ns:
            self._periods_ns.append(stamp - self.newest_ns)
        self.newest_ns = stamp if self.newest_ns is None else max(stamp, self.newest_ns)

    def has_passed(self, stamp: int, unknown_period_ns: float) -> bool:
        """Whether nothing to come will be nearer to this stamp than what has come."""
        if self.newest_ns is None:
            return False
        period_ns = self._usual(self._periods_ns) if self._periods_ns else unknown_period_ns
        return self.newest_ns >= stamp - period_ns / 2


class _NearestDepth:
    """Which depth image belongs to which colour frame: the pairs nearest in time.

    Not message_filters.ApproximateTimeSynchronizer: it pairs a frame on arrival with what is there. Once a colour
    frame is lost, the next one gets its depth image, the one after that the next one's, and so on for good.
    """

    def __init__(self, slop_ns: int, limit: int) -> None:
        self._slop_ns = slop_ns
        self._limit = limit
        self._images: dict[int, Image] = {}
        self._colour_rhythm, self._depth_rhythm = _Rhythm(statistics.median), _new_depth_rhythm()

    def add_colour(self, stamp: int) -> None:
        """A colour frame arrived."""
        self._colour_rhythm.add(stamp)

    def add_depth(self, stamp: int, image: Image) -> None:
        """A depth image arrived."""
        self._depth_rhythm.add(stamp)
        self._images[stamp] = image
        if len(self._images) > self._limit:
            del self._images[min(self._images)]

    def forget_depth(self) -> None:
        """The depth images' stamps begin anew."""
        self._images, self._depth_rhythm = {}, _new_depth_rhythm()

    def is_settled(self, colour_ns: int) -> bool:
        """Whether the nearest depth image of this colour frame must be there by now."""
        return self._depth_rhythm.has_passed(colour_ns, 0)

    def partners(self, colours_ns: Sequence[int]) -> list[int | None]:
        """The stamp of each colour frame's depth image, None without: nearest pairs first, each image once."""
        # The others are for a colour frame still to come.
        offered = [ns for ns in self._images if self._colour_rhythm.has_passed(ns, math.inf)]
        gaps = sorted(
            (abs(colour_ns - depth_ns), i, depth_ns)
            for i, colour_ns in enumerate(colours_ns)
            for depth_ns in offered
            if abs(colour_ns - depth_ns) < self._slop_ns
        )
        partners: list[int | None] = [None] * len(colours_ns)
        for _, i, depth_ns in gaps:
            if partners[i] is None and depth_ns not in partners:
                partners[i] = depth_ns
        return partners

    def take(self, stamp: int) -> Image | None:
        """The depth image of a stamp, with which those before it go as well: colour frames come in order."""
        image = self._images.get(stamp)
        self._images = {ns: other for ns, other in self._images.items() if ns > stamp}
        return image


def _new_depth_rhythm() -> _Rhythm:
    # The shortest: where many depth images are lost, the usual gap is longer than the camera's period, and a frame
    # would go before its own depth image has come.
    return _Rhythm(min)
