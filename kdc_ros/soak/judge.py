"""The endurance test itself: drives the node, disturbs it, and tells whether it bore it. Started by `__main__`."""

from __future__ import annotations

import faulthandler
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.qos import ReliabilityPolicy

from kdc_ros.demo.processes import node_command
from kdc_ros.diagnostics import resident_memory_mb
from kdc_ros.soak.messages import ENCODINGS, SIZES_HW, broken, encoded, picture
from kdc_ros.soak.peer import ANSWER_TIMEOUT_S, Peer, SoakError
from kdc_ros.soak.watched import Progress

MAX_GROWTH_MB = 20.0
STOP_WITHIN_S = 2.0
_STORM_SUBSCRIPTIONS = 40
_STORM_TIMEOUT_S = 20.0
_DISTURB_EVERY = 100  # frames
_SAMPLE_EVERY = 50  # frames
_WARM_UP_ROUNDS = 3
_SHOWN_SAMPLES = 20


class Child:
    """A child process with its log; kdc_node, or what disturbs it."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        # In this process's group, which is ended as a whole.
        with log.open("ab") as output:
            self._child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    def logged(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def memory_mb(self) -> float:
        """Resident memory. Raises SoakError when the process has ended."""
        if self.exit_code is not None:
            raise SoakError(f"the node ended (exit code {self.exit_code}):\n{self.logged()}")
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

    def __init__(self, namespace: str, model: Path, folder: Path, frames: int, progress: Progress) -> None:
        self._command = node_command(namespace, "image", model)
        self._namespace = namespace
        self._model = model
        self._folder = folder
        self._frames = frames
        self._progress = progress
        self._processes: list[Child] = []
        self._peer = Peer(namespace)
        self._original = model.read_bytes()
        self._storms = self._fallen_storms = 0

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

    def _start(self, extra: tuple[str, ...] = ()) -> Child:
        return self._start_process([*self._command, *extra])

    def _start_process(self, command: list[str]) -> Child:
        log = self._folder / f"process{len(self._processes)}.log"
        self._processes.append(Child(command, log))
        return self._processes[-1]

    def _disturb(self, disturbance: Callable[[], None], when: str) -> None:
        self._progress.at(f"{disturbance.__name__.strip('_').replace('_', ' ')} {when}")
        disturbance()

    def _endure(self, node: Child) -> list[str]:
        self._progress.at("the first answer")
        self._peer.exchange(picture(*SIZES_HW[0]))
        disturbances: tuple[Callable[[], None], ...] = (
            self._other_sizes, self._other_encodings, self._broken_messages, self._camera_goes_and_returns,
            self._storm, self._model_replaced_and_deleted, self._second_node,
        )  # fmt: skip
        # Warm when everything has happened a few times: the heap of each thread finds its size.
        for disturb in disturbances * _WARM_UP_ROUNDS:
            self._disturb(disturb, "while warming up")
        self._peer.ages_s.clear()
        image = picture(*SIZES_HW[0])
        memory_mb, started_s = [node.memory_mb()], time.monotonic()
        turns = itertools.cycle(disturbances)
        for frame in range(1, self._frames + 1):
            self._progress.at(f"the answer to frame {frame}")
            self._peer.exchange(image)
            if frame % _SAMPLE_EVERY == 0:
                memory_mb.append(node.memory_mb())
                _show(f"{frame} frames, {memory_mb[-1]:.1f} MB")
            if frame % _DISTURB_EVERY == 0:
                self._disturb(next(turns), f"after frame {frame}")
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
            f"storms of subscribers {self._storms}, of which {self._fallen_storms} got stuck or crashed themselves",
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
        """Another process subscribes and unsubscribes. Whether it bears that itself is not the node's affair."""
        image = picture(*SIZES_HW[3])
        arguments = [self._namespace, str(_STORM_SUBSCRIPTIONS)]
        storm = self._start_process([sys.executable, "-m", "kdc_ros.soak.storm", *arguments])
        deadline = time.monotonic() + _STORM_TIMEOUT_S
        while storm.exit_code is None and time.monotonic() < deadline:
            self._peer.exchange(image)
        self._storms += 1
        if storm.exit_code is None or storm.exit_code < 0:
            self._fallen_storms += 1
            storm.kill()
        elif storm.exit_code > 0:
            raise SoakError(f"a storm of subscribers failed (exit code {storm.exit_code}):\n{storm.logged()}")
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

    def _signals(self, node: Child) -> list[tuple[str, float]]:
        """Seconds to the end by a signal in each state. Raises SoakError beyond the limit."""
        taken = []

        def stop(state: str, process: Child, number: int) -> None:
            self._progress.at(f"the end by {signal.Signals(number).name} while {state}")
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
    """`python -m kdc_ros.soak.judge NAMESPACE FOLDER FRAMES`: the model and the progress are in the folder."""
    faulthandler.enable()  # where every thread is, when whoever watches loses patience
    namespace, folder, frames = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    try:
        rclpy.init()
        lines = Soak(namespace, folder / "model.onnx", folder, frames, Progress.of(folder)).run()
    except (SoakError, OSError) as error:
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
