"""The image subscription follows what the publishers offer, and receives from both kinds."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from kdc_ros.image_subscription import REST_S, Departures, ImageSubscription  # noqa: E402
from kdc_ros.qos import MismatchLog  # noqa: E402
from tests.ros.fakes import FakeLogger  # noqa: E402
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until  # noqa: E402

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


class Bench:
    """A receiving and a sending node in one executor."""

    def __init__(self, reliability: str) -> None:
        self.departures = Departures()
        self.receiver = rclpy.create_node("receiver")
        self.sender = rclpy.create_node("sender")
        self.logger = FakeLogger()
        self.received: list[str] = []
        self.images = ImageSubscription(
            self.receiver,
            "adapting_image",
            lambda message: self.received.append(message.header.frame_id),
            reliability,
            MismatchLog(self.logger),
            self.departures,
        )
        self.executor = SingleThreadedExecutor()
        for node in (self.receiver, self.sender):
            self.executor.add_node(node)

    def publisher(self, reliability: ReliabilityPolicy):
        return self.sender.create_publisher(
            Image, "adapting_image", QoSProfile(depth=1, reliability=reliability)
        )

    def run_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            self.images.adapt()
            self.executor.spin_once(timeout_sec=0.05)
        return condition()

    def arrives(self, publisher, name: str) -> bool:
        """Whether an image gets through (sent again until it does)."""
        message = Image()
        message.header.frame_id = name

        def sent_and_received() -> bool:
            publisher.publish(message)
            return name in self.received

        return self.run_until(sent_and_received)

    def close(self) -> None:
        self.executor.shutdown()
        self.receiver.destroy_node()
        self.sender.destroy_node()


@pytest.fixture
def make_bench(ros):
    made: list[Bench] = []

    def make(reliability: str) -> Bench:
        made.append(Bench(reliability))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def test_auto_follows_the_publishers(make_bench):
    bench = make_bench("auto")
    assert bench.images.reliability == RELIABLE
    first = bench.publisher(RELIABLE)
    assert bench.arrives(first, "reliable camera")
    second = bench.publisher(BEST_EFFORT)
    assert bench.run_until(lambda: bench.images.reliability == BEST_EFFORT)
    assert bench.images.open, "a best-effort subscription needs no rest"
    assert bench.arrives(first, "reliable camera again")
    assert bench.arrives(second, "best-effort camera")
    bench.sender.destroy_publisher(second)
    assert bench.run_until(lambda: bench.images.reliability == RELIABLE)
    assert bench.arrives(first, "reliable camera alone")
    assert bench.logger.lines == [], "what is followed is no mismatch"


def test_a_topic_rests_before_it_is_subscribed_reliably_again(make_bench, monkeypatch):
    """Else Fast DDS may never return from taking a picture that was on its way (see the module)."""
    now_s = 1000.0
    monkeypatch.setattr("kdc_ros.image_subscription.time", SimpleNamespace(monotonic=lambda: now_s))
    bench = make_bench("reliable")
    assert bench.images.open
    bench.images.close()
    bench.images.adapt()
    assert not bench.images.open
    now_s += REST_S / 2
    bench.images.adapt()
    assert not bench.images.open
    now_s += REST_S
    bench.images.adapt()
    assert bench.images.open


@pytest.fixture
def receiver(ros):
    made = []

    def make(*rules: str):
        arguments = [part for rule in rules for part in ("-r", rule)]
        made.append(rclpy.create_node("remapped", cli_args=["--ros-args", *arguments] if rules else None))
        return made[-1]

    yield make
    for node in made:
        node.destroy_node()


@pytest.mark.parametrize(
    ("transport", "rules", "name"),
    [
        ("raw", (), "/image"),
        ("raw", ("image:=/depth", "depth:=/image"), "/depth"),
        ("raw", ("image:=/a", "/a:=/b"), "/a"),
        ("compressed", (), "/image/compressed"),
        ("compressed", ("image:=/camera/image_raw",), "/camera/image_raw/compressed"),
        ("compressed", ("image:=/camera/compressed", "/camera/compressed:=/b"), "/camera/compressed"),
        ("compressed", ("image:=/a", "/a/compressed:=/b"), "/b"),
    ],
)
def test_topics_are_remapped_once(receiver, transport, rules, name):
    node = receiver(*rules)
    images = ImageSubscription(node, "image", print, "auto", MismatchLog(FakeLogger()), Departures(), transport)
    try:
        assert images.topic_name == images._subscription.topic_name == name
        camera = node.create_publisher(
            CompressedImage if transport == "compressed" else Image, images._name, QoSProfile(depth=1)
        )
        assert camera.topic_name == name
        assert wait_until(lambda: images.publisher_count() == 1, EXCHANGE_TIMEOUT_S)
        node.destroy_publisher(camera)
    finally:
        images.close()


def test_publishers_of_another_type_are_told_apart(receiver):
    images = ImageSubscription(receiver(), "typed_image", print, "auto", MismatchLog(FakeLogger()), Departures())
    elsewhere = rclpy.Context()  # within one, a topic has one type
    rclpy.init(context=elsewhere)
    sender = rclpy.create_node("wrong_sender", context=elsewhere)
    sender.create_publisher(CompressedImage, "typed_image", QoSProfile(depth=1, reliability=BEST_EFFORT))
    try:
        assert wait_until(images.other_types, EXCHANGE_TIMEOUT_S)
        assert images.other_types() == ["sensor_msgs/msg/CompressedImage"] and images.publisher_count() == 0
        images.adapt()
        assert images.reliability == RELIABLE, "whose images never come need not be followed"
    finally:
        sender.destroy_node()
        rclpy.shutdown(context=elsewhere)
        images.close()


def test_a_fixed_choice_stays_and_its_mismatch_is_told_once(make_bench):
    bench = make_bench("reliable")
    publishers = [bench.publisher(BEST_EFFORT) for _ in range(2)]
    assert bench.run_until(lambda: len(bench.logger.lines) > 0)
    assert not bench.run_until(lambda: len(bench.logger.lines) > 1, timeout_s=0.5)
    [(level, text)] = bench.logger.lines
    assert level == "warning"
    assert "a publisher of '/adapting_image' has an incompatible QoS (reliability)" in text
    assert bench.images.reliability == RELIABLE
    assert bench.images.publisher_count() == len(publishers)
