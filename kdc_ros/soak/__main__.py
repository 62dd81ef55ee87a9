"""Runs the node for many frames, does to it what months do, and tells whether it bore it.

    python -m kdc_ros.soak --frames 10000 --model weights/kdc_mobile.onnx

Ends with exit code 1 when anything was not as it must be. Uses a ROS domain of its own, on this machine alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.qos import ReliabilityPolicy

from kdc_core.backends.base import ModelLoadError
from kdc_core.model_path import default_model_path
from kdc_ros.demo.processes import camera_environment, isolate_ros, node_command
from kdc_ros.diagnostics import resident_memory_mb
from kdc_ros.soak.messages import ENCODINGS, SIZES_HW, broken, encoded, picture
from kdc_ros.soak.peer import ANSWER_TIMEOUT_S, Peer, SoakError

MAX_GROWTH_MB = 20.0
STOP_WITHIN_S = 2.0
_DISTURB_EVERY = 100  # frames
_SAMPLE_EVERY = 50  # frames
_WARM_UP_ROUNDS = 3
_SHOWN_SAMPLES = 20


class NodeProcess:
    """kdc_node as a child process."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def memory_mb(self) -> float:
        """Resident memory. Raises SoakError when the process has ended."""
        if self._child.poll() is not None:
            raise SoakError(f"the node ended (exit code {self._child.returncode}):\n{self.log.read_text()[-3000:]}")
        return resident_memory_mb(self._child.pid)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Send a signal; returns the seconds to the end. Raises SoakError when it takes too long."""
        started_s = time.monotonic()
        self._child.send_signal(number)
        try:
            self._child.wait(10 * STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SoakError(f"the node did not end by {signal.Signals(number).name}") from None
        return time.monotonic() - started_s

    def kill(self) -> None:
        """End it, however it is."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()


class Soak:
    """One run. `model` is a copy that may be replaced and deleted."""

    def __init__(self, namespace: str, model: Path, folder: Path, frames: int) -> None:
        self._command = node_command(namespace, "image", model)
        self._model = model
        self._folder = folder
        self._frames = frames
        self._processes: list[NodeProcess] = []
        self._peer = Peer(namespace)
        self._original = model.read_bytes()

    def run(self) -> list[str]:
        """Everything. Returns the report's lines; raises SoakError where the node fails."""
        try:
            node = self._start()
            lines = self._endure(node)
            lines += [f"{name}: {seconds:.2f} s" for name, seconds in self._signals(node)]
        finally:
            for process in self._processes:
                process.kill()
            self._peer.close()
        return lines

    def _start(self, extra: tuple[str, ...] = ()) -> NodeProcess:
        log = self._folder / f"node{len(self._processes)}.log"
        self._processes.append(NodeProcess([*self._command, *extra], log))
        return self._processes[-1]

    def _endure(self, node: NodeProcess) -> list[str]:
        self._peer.exchange(picture(*SIZES_HW[0]))
        disturbances: tuple[Callable[[], None], ...] = (
            self._other_sizes, self._other_encodings, self._broken_messages, self._camera_goes_and_returns,
            self._storm, self._model_replaced_and_deleted, self._second_node,
        )  # fmt: skip
        # Warm when everything has happened a few times: the heap of each thread finds its size.
        for disturb in disturbances * _WARM_UP_ROUNDS:
            disturb()
        self._peer.ages_s.clear()
        image = picture(*SIZES_HW[0])
        memory_mb, started_s = [node.memory_mb()], time.monotonic()
        turns = itertools.cycle(disturbances)
        for frame in range(1, self._frames + 1):
            self._peer.exchange(image)
            if frame % _SAMPLE_EVERY == 0:
                memory_mb.append(node.memory_mb())
                _show(f"{frame} frames, {memory_mb[-1]:.1f} MB")
            if frame % _DISTURB_EVERY == 0:
                next(turns)()
        seconds = time.monotonic() - started_s
        tenth = max(1, len(memory_mb) // 10)
        growth_mb = float(np.median(memory_mb[-tenth:]) - np.median(memory_mb[:tenth]))
        shown = " ".join(f"{value:.0f}" for value in memory_mb[:: -(-len(memory_mb) // _SHOWN_SAMPLES)])
        if growth_mb > MAX_GROWTH_MB:
            raise SoakError(f"memory grew by {growth_mb:.1f} MB over {self._frames} frames: {shown}")
        ages_ms = np.percentile(self._peer.ages_s, [50, 95]) * 1e3
        return [
            f"{self._frames} frames in {seconds:.0f} s, {self._frames // _DISTURB_EVERY} disturbances",
            f"memory after warm-up {memory_mb[0]:.1f} MB, at the end {memory_mb[-1]:.1f} MB, "
            f"largest {max(memory_mb):.1f} MB, growth (medians of tenths) {growth_mb:+.1f} MB",
            f"memory on the way (MB): {shown}",
            f"from capture to the receiver: median {ages_ms[0]:.1f} ms, 95th percentile {ages_ms[1]:.1f} ms",
        ]

    # --- disturbances; after each the node must answer as before ---

    def _answers(self) -> None:
        self._peer.exchange(picture(*SIZES_HW[0]))

    def _other_sizes(self) -> None:
        for hw in SIZES_HW:
            self._peer.exchange(picture(*hw))
        self._answers()

    def _other_encodings(self) -> None:
        for encoding in ENCODINGS:
            self._peer.send(encoded(picture(*SIZES_HW[0]), encoding, self._peer.stamp()))
        self._answers()

    def _broken_messages(self) -> None:
        for message in broken(self._peer.stamp()):
            self._peer.send(message)
        self._answers()

    def _camera_goes_and_returns(self) -> None:
        for reliability in (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE):
            self._peer.replace_camera(reliability)
            self._answers()

    def _storm(self) -> None:
        image = picture(*SIZES_HW[3])
        for i, _ in enumerate(self._peer.storm(40)):
            if i % 5 == 0:
                self._peer.exchange(image)
        self._answers()

    def _model_replaced_and_deleted(self) -> None:
        deactivate, activate = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE
        self._model.write_bytes(b"not a model")
        self._answers()  # what is loaded is loaded
        self._model.unlink()
        self._answers()
        if not self._peer.change_state(deactivate) or self._peer.change_state(activate):
            raise SoakError("the node activated without a model")
        self._model.write_bytes(self._original)
        if not self._peer.change_state(activate):
            raise SoakError("the node did not activate again")
        self._answers()

    def _second_node(self) -> None:
        """Another node on the same model file, in its own namespace, comes and goes."""
        other = self._start(("-r", "__ns:=/kdc_soak_other"))
        self._answers()
        time.sleep(0.5)
        self._answers()
        other.stop()

    # --- signals ---

    def _signals(self, node: NodeProcess) -> list[tuple[str, float]]:
        """Seconds to the end by a signal in each state. Raises SoakError beyond the limit."""
        taken = []

        def stop(state: str, process: NodeProcess, number: int) -> None:
            seconds = process.stop(number)
            taken.append((f"{signal.Signals(number).name} while {state}", seconds))
            if seconds > STOP_WITHIN_S:
                raise SoakError(f"{taken[-1][0]}: {seconds:.1f} s")

        for _ in range(20):
            self._peer.send(encoded(picture(720, 1280), "bgr8", self._peer.stamp()))
        stop("busy", node, signal.SIGTERM)
        for number in (signal.SIGINT, signal.SIGTERM):
            for delay_s in (0.1, 1.0, 2.0):
                starting = self._start()
                time.sleep(delay_s)
                stop(f"starting ({delay_s:g} s after the start)", starting, number)
            idle = self._start()
            self._answers()
            stop("idle", idle, number)
            inactive = self._start()
            self._answers()
            if not self._peer.change_state(Transition.TRANSITION_DEACTIVATE):
                raise SoakError("the node did not deactivate")
            stop("deactivated", inactive, number)
        return taken


def _show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kdc_ros.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000, help="frames after warm-up (default: 10000)")
    parser.add_argument("--model", type=Path, help="ONNX file (default: the shipped one)")
    arguments = parser.parse_args()
    namespace = isolate_ros()
    os.environ.update(camera_environment())
    with tempfile.TemporaryDirectory(prefix="kdc_soak_") as name:
        folder = Path(name)
        os.environ["ROS_LOG_DIR"] = name
        try:
            model = folder / "model.onnx"
            shutil.copyfile(arguments.model or default_model_path(), model)
            rclpy.init()
            lines = Soak(namespace, model, folder, arguments.frames).run()
        except (SoakError, ModelLoadError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        finally:
            rclpy.try_shutdown()
    print("\n".join(lines))
    print(f"all well (limits: memory growth {MAX_GROWTH_MB:g} MB, end by a signal {STOP_WITHIN_S:g} s, "
          f"an answer {ANSWER_TIMEOUT_S:g} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
