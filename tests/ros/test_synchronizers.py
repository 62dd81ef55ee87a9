"""message_filters and our stand-in by the same cases; which depth image goes with which colour frame."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_ros.compat import message_filters as stand_in
from kdc_ros.pairing import QUEUE_SIZE, DepthPairing

# On a robot, where message_filters is there, both must pass.
IMPLEMENTATIONS = {"stand-in": stand_in}
try:
    import message_filters

    IMPLEMENTATIONS["message_filters"] = message_filters
except ImportError:
    pass


def image(ms: int, name: str = "") -> Image:
    return Image(header=Header(stamp=Time(sec=ms // 1000, nanosec=ms % 1000 * 1_000_000), frame_id=name))


def ms_of(message: Image) -> int:
    return message.header.stamp.sec * 1000 + message.header.stamp.nanosec // 1_000_000


@pytest.fixture(params=IMPLEMENTATIONS)
def make(request):
    """Makes two inputs and a synchronizer of them; what comes out is kept as pairs of milliseconds."""
    module = IMPLEMENTATIONS[request.param]

    def make(queue_size: int = 5):
        inputs = [module.SimpleFilter(), module.SimpleFilter()]
        synchronizer = module.TimeSynchronizer(inputs, queue_size)
        pairs: list[tuple[int, int]] = []
        synchronizer.registerCallback(lambda a, b, note: pairs.append((ms_of(a), ms_of(b), note)), "note")
        return SimpleNamespace(
            first=lambda ms: inputs[0].signalMessage(image(ms)),
            second=lambda ms: inputs[1].signalMessage(image(ms)),
            take=lambda: [pairs.pop(0)[:2] for _ in list(pairs)],
        )

    return make


def test_exact(make):
    sync = make()
    sync.first(1000)
    sync.second(1001)
    assert sync.take() == []
    sync.second(1000)
    assert sync.take() == [(1000, 1000)]
    sync.second(1000)  # used up
    assert sync.take() == []
    sync.second(1100)
    sync.first(1100)
    assert sync.take() == [(1100, 1100)]


def test_the_oldest_leave_a_full_queue(make):
    sync = make(queue_size=2)
    for ms in (1000, 1100, 1200):
        sync.first(ms)
    for ms in (1000, 1100, 1200):
        sync.second(ms)
    assert sync.take() == [(1100, 1100), (1200, 1200)]


def test_a_stamp_older_than_a_full_queue_is_lost(make):
    sync = make(queue_size=2)
    for ms in (1000, 1100, 500):
        sync.first(ms)
    sync.second(500)
    assert sync.take() == []


class Bench:
    """A pairing whose clock is set by hand; what it releases is kept as (colour ms, depth ms or None)."""

    def __init__(self, exact: bool = False, slop_s: float = 0.05) -> None:
        self.now_s = 0.0
        self.released: list[tuple[int, int | None]] = []
        self.pairing = DepthPairing(self._keep, exact, slop_s, lambda: self.now_s)

    def _keep(self, colour, depth) -> None:
        self.released.append((ms_of(colour), None if depth is None else ms_of(depth)))

    def colour(self, ms: int) -> None:
        self.pairing.add_colour(image(ms))

    def depth(self, ms: int) -> None:
        self.pairing.add_depth(image(ms))

    def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.pairing.check()


def test_a_pair_goes_at_once_whichever_comes_first():
    bench = Bench()
    bench.colour(1000)
    assert bench.released == [] and bench.pairing.waiting
    bench.depth(1010)
    bench.depth(1040)
    bench.colour(1035)
    assert bench.released == [(1000, 1010), (1035, 1040)]
    assert not bench.pairing.waiting


def test_exact_pairs_have_equal_stamps():
    bench = Bench(exact=True)
    bench.depth(1001)
    bench.colour(1000)
    bench.depth(1000)
    assert bench.released == [(1000, 1000)]


def test_without_depth_a_frame_waits_for_the_slop_and_no_longer():
    bench = Bench()
    bench.colour(1000)
    bench.after(0.049)
    assert bench.released == []
    bench.after(0.002)
    assert bench.released == [(1000, None)]
    bench.depth(1000)  # too late: nothing goes twice
    assert bench.released == [(1000, None)]


def test_a_depth_camera_slower_by_more_than_a_frame_still_pairs():
    bench = Bench()
    bench.colour(1000)
    bench.after(0.033)
    bench.colour(1033)  # does not push the one before out
    bench.after(0.010)
    bench.depth(1000)
    assert bench.released == [(1000, 1000)]
    bench.after(0.030)
    bench.depth(1033)
    assert bench.released == [(1000, 1000), (1033, 1033)]


def pairs_of(bench: Bench, events: list[tuple[int, str, int]]) -> list[tuple[int, int | None]]:
    """What is released of (arrival ms, kind, stamp ms), checked every 10 ms as the node does."""
    now_ms = 0
    for at_ms, kind, ms in sorted(events):
        while now_ms < at_ms:
            step = min(10, at_ms - now_ms)
            now_ms += step
            bench.after(step / 1000)
        (bench.colour if kind == "colour" else bench.depth)(ms)
    bench.after(1.0)
    return bench.released


def stream(kind: str, first: int, period: int, count: int, late: int, lost: tuple[int, ...] = ()) -> list:
    stamps = [first + i * period for i in range(count)]
    return [(ms + late, kind, ms) for i, ms in enumerate(stamps) if i not in lost]


@pytest.mark.parametrize("depth_late", [0, 8, 30])
@pytest.mark.parametrize("offset", [0, 8, -8, 14, -14])
def test_after_a_loss_everybody_has_the_own_partner_again(depth_late, offset):
    """Colour frames 3 and 11 and depth images 6, 7 and 15 are lost; the depth is stamped `offset` ms off."""
    lost_colour, lost_depth = (3, 11), (6, 7, 15)
    colours = stream("colour", 1000, 33, 30, 2, lost_colour)
    depths = stream("depth", 1000 + offset, 33, 30, 2 + depth_late, lost_depth)
    released = dict(pairs_of(Bench(), colours + depths))
    assert list(released) == [ms for _, _, ms in colours]
    for colour, depth in released.items():
        i = (colour - 1000) // 33
        if i not in lost_depth:
            assert depth == colour + offset, i
        else:  # a neighbour's at most, where that lost its own colour frame
            assert depth is None or abs(depth - colour) < 50


def test_a_lossy_depth_stream_keeps_its_own_images():
    lost = tuple(int(i) for i in np.random.default_rng(0).permutation(90)[:54] if i > 1)
    colours, depths = stream("colour", 1000, 33, 90, 2), stream("depth", 1000, 33, 90, 10, lost)
    released = pairs_of(Bench(), colours + depths)
    assert [c for c, d in released if d == c] == [ms for _, _, ms in depths]


def test_depth_first_then_colour():
    """What came before the first colour frame is nobody's."""
    depths = stream("depth", 967, 33, 10, 9)
    colours = stream("colour", 1000, 33, 9, 2)
    assert pairs_of(Bench(), colours + depths) == [(ms, ms) for _, _, ms in colours]


@pytest.mark.parametrize("depth_late", [1, 12])
def test_a_slower_depth_camera_goes_with_the_frames_of_its_moments(depth_late):
    colours = stream("colour", 1000, 33, 31, 5)
    depths = stream("depth", 1000, 99, 11, depth_late)
    released = pairs_of(Bench(), colours + depths)
    assert [colour for colour, _ in released] == [ms for _, _, ms in colours]
    # The first ones come before the rhythms are known.
    assert [(c, d) for c, d in released if c > 1200 and d is not None] == [(ms, ms) for ms in range(1297, 2000, 99)]


def test_a_long_slop_pairs_whatever_comes_within():
    colours = stream("colour", 1000, 33, 90, 0)
    depths = stream("depth", 1000, 33, 90, 700)
    assert pairs_of(Bench(slop_s=1.0), colours + depths) == [(ms, ms) for _, _, ms in colours]


@pytest.mark.parametrize("exact", [False, True])
def test_depth_stamps_that_jump_back_by_themselves(exact):
    bench = Bench(exact=exact)
    for ms in range(101_000, 101_500, 33):
        bench.depth(ms)
    for ms in range(1_000, 2_000, 33):
        bench.colour(ms)
        bench.depth(ms)
    assert bench.released[1:] == [(ms, ms) for ms in range(1_000, 2_000, 33)][1:]
    assert bench.released[0][0] == 1_000  # before the first depth image of the new time


def test_order_is_kept():
    bench = Bench()
    bench.colour(1000)
    bench.colour(1100)
    bench.depth(1100)
    assert bench.released == [(1000, None), (1100, 1100)]


def test_unstamped_frames_do_not_wait():
    bench = Bench()
    bench.colour(1000)
    bench.colour(0)
    assert bench.released == [(1000, None), (0, None)]


def test_stamps_that_jump_back_pair_again():
    bench = Bench()
    for ms in range(100_000, 101_000, 33):
        bench.depth(ms)
        bench.colour(ms)
    bench.released.clear()
    for ms in range(1_000, 2_000, 33):  # the bag starts again
        bench.colour(ms)
        bench.depth(ms)
    assert bench.released == [(ms, ms) for ms in range(1_000, 2_000, 33)]


def test_what_waits_is_bounded():
    bench = Bench()
    for i in range(3 * QUEUE_SIZE):
        bench.colour(1000 + i)
    assert len(bench.released) == 2 * QUEUE_SIZE
    bench.pairing.flush()
    assert [colour for colour, _ in bench.released] == list(range(1000, 1000 + 3 * QUEUE_SIZE))
