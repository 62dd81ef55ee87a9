"""One run: node and camera started, the answers recorded, both stopped. Nothing waits for ever."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions

from kdc_ros.demo.camera import TOPIC
from kdc_ros.demo.journal import Published, read_journal
from kdc_ros.demo.processes import Process, camera_command, camera_environment, isolate_ros, node_command
from kdc_ros.demo.recorder import Answer, Recorder

NODE_NAME = "kdc"
# Loading may include building an engine for a GPU.
START_TIMEOUT_S = 180.0
# The camera publishes several frames a second; so long without one, it hangs.
_CAMERA_STALL_S = 30.0
# After the last picture: how long to wait for the next answer.
_QUIET_S = 3.0
_SPIN_S = 0.1
_JOURNAL_POLL_S = 0.5
_NETWORK_LINE = re.compile(
    r"network (?P<model>.+) \((?P<width>\d+) x (?P<height>\d+)\) on (?P<backend>.+)$", re.M
)


class SessionError(RuntimeError):
    """The run broke off; the message holds what the process that failed had to say."""


@dataclass(frozen=True)
class Loaded:
    """What the node said that it loaded: the model's file, its input size in pixels and the runtime."""

    model: Path
    input_wh: tuple[int, int]
    backend: str


@dataclass(frozen=True)
class Session:
    """What was played and what came back, in the order of the stamps."""

    published: list[Published]
    answers: list[Answer]
    loaded: Loaded | None


def run(
    source: str | None, model: Path | None, seconds: float, node_log: Path, progress: Callable[[str], None]
) -> Session:
    """Play `source` (None = the built-in photographs) to the node. Raises SessionError, ProcessError.

    seconds:  a video or a device is played no longer.
    node_log: where the node's output goes.
    progress: is told what happens, a line at a time.
    """
    namespace = isolate_ros()
    with tempfile.TemporaryDirectory(prefix="kdc_demo_") as folder:
        # The node's own log files, which by default pile up in the home directory.
        os.environ["ROS_LOG_DIR"] = folder
        journal, camera_log = Path(folder, "journal"), Path(folder, "camera.log")
        play = camera_command(namespace, journal, source, seconds, START_TIMEOUT_S)
        # The processes first: rclpy starts threads, and those do not mix with forking.
        with (
            Process(node_command(namespace, TOPIC, model), node_log) as node,
            Process(play, camera_log, camera_environment()) as camera,
            _recorder(namespace) as recorder,
            _interrupts_noted() as interrupted,
        ):
            progress("starting the node")
            _record(recorder, node, camera, journal, progress, interrupted)
            published = read_journal(journal)
            code = node.stop()
            if code != 0:
                raise SessionError(f"the node did not end cleanly (exit code {code}):\n{node.output()}")
    answers = [recorder.answers[stamp] for stamp in sorted(recorder.answers)]
    return Session(published, answers, _loaded(node_log))


@contextlib.contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Ctrl-C and a polite kill set the event: an exception inside rclpy's C++ would come out garbled."""
    noted = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: noted.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _recorder(namespace: str) -> Iterator[Recorder]:
    # Its signal handlers would end the recording before the processes are stopped in order.
    rclpy.init(
        args=["--ros-args", "-r", f"__ns:={namespace}"], signal_handler_options=SignalHandlerOptions.NO
    )
    try:
        recorder = Recorder(NODE_NAME)
        yield recorder
        recorder.destroy_node()
    finally:
        rclpy.try_shutdown()


def _record(
    recorder: Recorder,
    node: Process,
    camera: Process,
    journal: Path,
    progress: Callable[[str], None],
    interrupted: threading.Event,
) -> None:
    """Record until the camera is through and the node silent. Raises KeyboardInterrupt, SessionError."""
    start = last_frame = last_look = time.monotonic()
    frames, clip, answered = 0, "", 0
    last_answer = start
    while True:
        recorder.spin(_SPIN_S)
        now = time.monotonic()
        if interrupted.is_set():
            raise KeyboardInterrupt
        if node.exit_code is not None:
            raise SessionError(f"the node ended by itself (exit code {node.exit_code}):\n{node.output()}")
        if len(recorder.answers) > answered:
            answered, last_answer = len(recorder.answers), now
        camera_done = camera.exit_code is not None
        if now - last_look > _JOURNAL_POLL_S or camera_done:
            last_look = now
            published = read_journal(journal)
            if len(published) > frames:
                frames, last_frame = len(published), now
            if published and published[-1].clip != clip:
                clip = published[-1].clip
                progress(f"playing {clip}")
            if camera_done and (camera.exit_code or not published):
                raise SessionError(_both("the camera failed", camera, node))
            if camera_done and (published[-1].stamp_ns in recorder.answers or now - last_answer > _QUIET_S):
                break
        if now - last_frame > (_CAMERA_STALL_S if frames else START_TIMEOUT_S + _CAMERA_STALL_S):
            raise SessionError(_both("the camera hangs", camera, node))
    # The masks and markers of the last poses are still on their way.
    end = time.monotonic() + 5 * _SPIN_S
    while time.monotonic() < end:
        recorder.spin(_SPIN_S)


def _both(fault: str, camera: Process, node: Process) -> str:
    return f"{fault} (exit code {camera.exit_code}):\n{camera.output()}\nthe node said:\n{node.output()}"


def _loaded(node_log: Path) -> Loaded | None:
    """The node's own word in its log, if it is there."""
    said = _NETWORK_LINE.search(node_log.read_text(errors="replace"))
    if said is None:
        return None
    return Loaded(Path(said["model"]), (int(said["width"]), int(said["height"])), said["backend"].strip())
