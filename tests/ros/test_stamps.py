"""Ages and orders of stamps."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from builtin_interfaces.msg import Time

from kdc_ros.stamps import NS_PER_S, Order, StampOrder, age_s, stamp_ns


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (Time(sec=2, nanosec=5), 2_000_000_005),
        (Time(), None),
        (Time(sec=-1, nanosec=500), None),  # rclpy's own Time raises on it
        (Time(sec=0, nanosec=1), 1),
    ],
)
def test_stamp_ns(stamp, expected):
    assert stamp_ns(stamp) == expected


@pytest.mark.parametrize(
    ("stamp_s", "now_s", "expected"),
    [
        (10.0, 10.25, 0.25),
        (10.0, 10.0, 0.0),
        (10.0, 9.999, None),  # ahead of the clock: never a negative latency
        (10.0, 0.0, None),  # simulated time before the first /clock
        (10.0, 1.7e9, None),  # another clock
        (None, 5.0, None),
    ],
)
def test_age(stamp_s, now_s, expected):
    stamp = None if stamp_s is None else round(stamp_s * NS_PER_S)
    assert age_s(stamp, round(now_s * NS_PER_S)) == expected


def test_order():
    order = StampOrder()
    steps = [
        (100.0, Order.NEXT),
        (100.0, Order.NEXT),  # a camera that repeats a stamp
        (100.2, Order.NEXT),
        (99.5, Order.LATE),
        (None, Order.NEXT),
        (100.1, Order.LATE),
        (5000.0, Order.NEXT),
        (100.3, Order.JUMPED_BACK),
        (100.4, Order.NEXT),
        (1.0, Order.JUMPED_BACK),  # a bag that starts again
        (1.1, Order.NEXT),
    ]
    for stamp_s, expected in steps:
        assert order.follow(None if stamp_s is None else round(stamp_s * NS_PER_S)) is expected, stamp_s
