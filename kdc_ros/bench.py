"""Suite `node` of `kdc bench`: what ROS costs around the pipeline, and the node's start-up and memory.

Two processes and real DDS between them: a camera that also listens to the results, and this one, which does to each
image what the node does around the pipeline. The camera sends the next frame when it has the last one's results.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from kdc.msg import InstanceMaskArray, PoseArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_bench.crowds import make_crowd
from kdc_bench.machine import set_opencv_threads
from kdc_bench.result import BenchError, BenchSettings, Row, SuiteResult
from kdc_bench.stages import CrowdBackend
from kdc_bench.startup import cpu_ms, memory_mb
from kdc_bench.timing import WARM_UP_ROUNDS, StageTimes, Stopwatch
from kdc_core.backends.base import load_backend
from kdc_core.pipeline import Pipeline
from kdc_core.tracking import FrameTracks
from kdc_core.types import People
from kdc_ros.bench_camera import END, RELIABLE
from kdc_ros.conversions import PersonPool, masks_to_message, poses_to_message
from kdc_ros.image_conversion import image_to_rgb, rgb_to_message

SIZES_HW = ((480, 640), (720, 1280), (1080, 1920))
PEOPLE = (0, 5, 20)
MAX_DOMAIN_ID = 101  # above it the ports may meet the kernel's ephemeral ones
TIMEOUT_S = 120.0


def measure(settings: BenchSettings) -> SuiteResult:
    """Transport, conversion and publication by size and people; the node's start. Raises BenchError."""
    set_opencv_threads(1)
    backend = CrowdBackend(load_backend(settings.model, "onnxruntime", threads=1, device="cpu"))
    pipeline = Pipeline(backend, long_side=settings.long_side, clock=time.thread_time)
    answers: dict[str, tuple[People, float]] = {}
    for size_hw, people in itertools.product(SIZES_HW, PEOPLE):
        case = f"{size_hw[1]}x{size_hw[0]} {people}"
        answers[case] = _answer(pipeline, backend, size_hw, people, settings.rounds)
    pipeline.close()
    with _ros():
        times = _exchange(answers, settings.rounds)
        node_row = _node_row(settings)
    rows = [_row(case, times[case], answers[case][1]) for case in answers]
    return SuiteResult(
        title="ROS around the pipeline",
        rows=[*rows, node_row],
        notes=[
            "CPU time of the node's thread in ms. take: waking, taking and deserialising the image; convert: message "
            "to RGB; messages: poses and masks to messages; publish: both, to a subscriber in another process.",
            "transit_ms: wall time from the camera's publish call to the callback, median. pipeline_ms: CPU time of "
            "the bare pipeline on one thread for the same picture and people. overhead_percent: total over it.",
            "Made people; camera and listener in another process, real DDS with its default settings, results awaited "
            "before the next frame.",
            "start of kdc_node: wall time of a fresh process until its first poses arrive here, and its CPU time until "
            "then; memory after some more.",
        ],
    )


@contextmanager
def _ros() -> Iterator[None]:
    if rclpy.ok():  # somebody else's, set up as they want it
        yield
        return
    # For this process and the two that it starts: a domain of their own, no traffic beyond this machine.
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % MAX_DOMAIN_ID)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"  # later releases warn of this older name
    rclpy.init()
    try:
        yield
    finally:
        rclpy.shutdown()


def _answer(
    pipeline: Pipeline, backend: CrowdBackend, size_hw: tuple[int, int], people: int, rounds: int
) -> tuple[People, float]:
    """The people of a made crowd in a picture of this size, and the bare pipeline's median time in ms."""
    backend.answer = make_crowd(people, pipeline.spec.letterbox(size_hw).input_hw).outputs
    image = np.zeros((*size_hw, 3), np.uint8)
    times = StageTimes()
    for _ in range(max(3, rounds // 4)):
        result = pipeline(image)
        times.add(result.stage_ms)
    return result.people, times.summaries()["total"].p50


def _row(case: str, times: tuple[StageTimes, list[float]], pipeline_ms: float) -> Row:
    stages = times[0].summaries()
    figures = {
        "transit_ms": float(np.median(times[1])),
        "pipeline_ms": pipeline_ms,
        "overhead_percent": 100 * stages["total"].p50 / pipeline_ms,
    }
    size, _, people = case.partition(" ")
    return Row({"image": size, "people": people}, stages, figures)


class _Around(Node):
    """Does what the node does around the pipeline, and times it."""

    def __init__(self, answers: dict[str, tuple[People, float]]) -> None:
        super().__init__("kdc_bench")
        self.times = {case: (StageTimes(), list[float]()) for case in answers}
        self.done = False
        self._answers = answers
        self._seen = dict.fromkeys(answers, 0)
        self._pool = PersonPool()
        self._cpu_s = time.thread_time()
        self._poses = self.create_publisher(PoseArray, "bench/poses", RELIABLE)
        self._masks = self.create_publisher(InstanceMaskArray, "bench/masks", RELIABLE)
        self.create_subscription(Image, "bench/image", self._on_image, RELIABLE)

    def _on_image(self, message: Image) -> None:
        now_ns = time.time_ns()
        case = message.header.frame_id
        if case == END:
            self.done = True
            return
        watch = Stopwatch(time.thread_time)
        watch.stage_ms["take"] = (time.thread_time() - self._cpu_s) * 1e3
        people = self._answers[case][0]
        with watch("convert"):
            image = image_to_rgb(message)
        ids = np.arange(1, len(people) + 1, dtype=np.int32)
        tracks = dataclasses.replace(FrameTracks.untracked(len(people)), ids=ids)
        with watch("messages"):
            poses = poses_to_message(people, tracks, message.header, (image.shape[0], image.shape[1]), pool=self._pool)
            masks = masks_to_message(people, ids, message.header)
        with watch("publish"):
            self._poses.publish(poses)
            self._masks.publish(masks)
        self._seen[case] += 1
        if self._seen[case] > WARM_UP_ROUNDS:
            times, transit_ms = self.times[case]
            times.add(watch.stage_ms)
            sent_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            transit_ms.append((now_ns - sent_ns) / 1e6)
        self._cpu_s = time.thread_time()


def _exchange(answers: dict[str, tuple[People, float]], rounds: int) -> dict[str, tuple[StageTimes, list[float]]]:
    """Answer the camera until it has sent every case often enough. Raises BenchError where it falls silent."""
    around = _Around(answers)
    executor = SingleThreadedExecutor()
    executor.add_node(around)
    camera = subprocess.Popen([sys.executable, "-m", "kdc_ros.bench_camera", str(rounds + WARM_UP_ROUNDS), *answers])
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while not around.done:
            executor.spin_once(timeout_sec=1.0)
            if time.monotonic() > deadline or camera.poll() not in (None, 0):
                raise BenchError("no more images came from the benchmark's camera process")
    finally:
        camera.terminate()
        camera.wait()
        executor.shutdown()
        around.destroy_node()
    return around.times


def _node_row(settings: BenchSettings) -> Row:
    """Start the installed node, show it one picture again and again until poses come."""
    try:
        executable = Path(get_package_prefix("kdc"), "lib", "kdc", "kdc_node")
    except PackageNotFoundError as error:
        raise BenchError("the ROS package kdc is not built here: run `make setup` or colcon, and source it") from error
    watcher = rclpy.create_node("kdc_bench_start")
    arrived: list[PoseArray] = []
    watcher.create_subscription(PoseArray, "/kdc/poses", arrived.append, RELIABLE)
    images = watcher.create_publisher(Image, "/image", RELIABLE)
    picture = np.full((*settings.source_hw, 3), 90, np.uint8)
    start = time.monotonic()
    parameters = ["-p", f"model:={settings.model}", "-p", f"threads:={settings.threads}"]
    node = subprocess.Popen([str(executable), "--ros-args", "--log-level", "error", *parameters])
    try:
        while not arrived:
            now = watcher.get_clock().now().to_msg()
            images.publish(rgb_to_message(picture, Header(stamp=now, frame_id="camera")))
            rclpy.spin_once(watcher, timeout_sec=0.05)
            if time.monotonic() - start > TIMEOUT_S or node.poll() is not None:
                raise BenchError("the node gave no answer")
        times = StageTimes()
        times.add({"start": (time.monotonic() - start) * 1e3})
        used_ms = cpu_ms(node.pid)
        for _ in range(10):
            images.publish(rgb_to_message(picture, Header(stamp=watcher.get_clock().now().to_msg())))
            rclpy.spin_once(watcher, timeout_sec=0.3)
        return Row({"image": "start of kdc_node"}, times.summaries(), {"cpu_ms": used_ms, **memory_mb(str(node.pid))})
    finally:
        node.terminate()
        node.wait()
        watcher.destroy_node()
