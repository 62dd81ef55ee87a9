"""What stamps say: the age of a frame, and whether time goes on, stands still or jumps."""

from __future__ import annotations

import enum

from builtin_interfaces.msg import Time

NS_PER_S = 1_000_000_000
# A stamp that much before the last one is another time (a bag that starts again, a clock that was set), not a
# frame that was overtaken on the way.
JUMP_BACK_NS = NS_PER_S
# A stamp further from now than this is another clock's: a bag played without simulated time, a camera that
# counts from its own start.
LONGEST_AGE_NS = 3600 * NS_PER_S


class Order(enum.Enum):
    """How a frame's stamp follows the one before."""

    NEXT = "next"
    LATE = "late"
    JUMPED_BACK = "jumped back"


def stamp_ns(stamp: Time) -> int | None:
    """A message's stamp in nanoseconds; None where there is none (zero) or none that can be (negative)."""
    nanoseconds = stamp.sec * NS_PER_S + stamp.nanosec
    return nanoseconds if nanoseconds > 0 else None


def age_s(stamp: int | None, now: int) -> float | None:
    """Seconds from a stamp to now, both in nanoseconds of the same clock.

    None where that is no age: without a stamp, and for a stamp ahead of the clock or by another clock.
    """
    if stamp is None or not 0 <= now - stamp <= LONGEST_AGE_NS:
        return None
    return (now - stamp) / NS_PER_S


class StampOrder:
    """Compares each stamp with the newest so far."""

    def __init__(self) -> None:
        self._newest: int | None = None

    def follow(self, stamp: int | None) -> Order:
        """How this stamp (ns) follows. Stamps that are equal, missing, or far ahead are in order.

        After a jump back, later stamps are compared with the one that jumped.
        """
        if stamp is None:
            return Order.NEXT
        if self._newest is None or stamp >= self._newest:
            self._newest = stamp
            return Order.NEXT
        if self._newest - stamp < JUMP_BACK_NS:
            return Order.LATE
        self._newest = stamp
        return Order.JUMPED_BACK
