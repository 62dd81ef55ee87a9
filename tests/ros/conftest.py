"""Every ROS test runs on this machine alone, in a domain of its own, with its logs out of the way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

# Before anything imports rclpy. Above 101 the ports may meet the kernel's ephemeral ones.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 101)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ["ROS_LOCALHOST_ONLY"] = "1"  # later releases warn of this older name
os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="kdc_ros_log_"))


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    """rclpy, initialised for this process."""
    rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def start_node(ros):
    """Starts the real node as a process; whatever still runs at the end of the test is ended."""
    from tests.ros import processes

    started: list = []

    def start(**parameters):
        started.append(processes.NodeProcess(**parameters))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def make_peer(ros):
    """Makes peers that send images to the node and listen to it."""
    from tests.ros import processes

    made: list = []

    def make(**options):
        made.append(processes.Peer(**options))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


@pytest.fixture(scope="session")
def canned_model(tmp_path_factory):
    """A model that finds the same person in every picture that is not dark."""
    from tests.ros.canned_model import write_canned_model

    return write_canned_model(tmp_path_factory.mktemp("model") / "canned.onnx")


@pytest.fixture
def make_bench(ros):
    """Makes real nodes inside this process, each with a client."""
    from tests.ros.node_bench import NodeBench

    made: list = []

    def make(**parameters):
        made.append(NodeBench(**parameters))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
