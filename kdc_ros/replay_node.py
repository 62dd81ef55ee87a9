"""A bag through the live node over DDS: the frames of an offline run published again, the answers recorded.

The node is a process of its own, in a ROS domain of its own on this machine. It gets the recorded messages as they
are; compressed pictures, which it may not take, are decoded first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from kdc.msg import InstanceMaskArray, PoseArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm

from kdc_replay.bag_reader import IMAGE_TYPE, NS, BagReader, Frame, RawFrame
from kdc_replay.journal import clean, frame_record
from kdc_replay.node_run import NodeReplay, write_node_run
from kdc_replay.run_reader import Run, RunFrame, load_run
from kdc_replay.runner import ReplayJob
from kdc_ros.conversions import people_from_messages, tracks_from_message
from kdc_ros.demo.processes import Process, camera_environment, isolate_ros, node_command
from kdc_ros.image_conversion import rgb_to_message

_TOPIC = "replayed/image"
# Reliable, so that what gets lost is what the node dropped, not what the middleware did.
_IMAGES = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
_RESULTS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=200, reliability=ReliabilityPolicy.RELIABLE)
# Loading may include building an engine for a GPU.
_START_TIMEOUT_S = 180.0
# The node subscribes anew once it knows that the publisher is reliable; frames in between get lost.
_SETTLE_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 15.0
_MOST_SILENT = 5
_LONGEST_PAUSE_S = 10.0
_POLL_S = 0.05


class NodeReplayError(RuntimeError):
    """The node could not be started, or stopped answering; the message holds what it said last."""


def replay_through_node(job: ReplayJob, rate: float | None, progress: bool = False) -> dict[str, Any]:
    """Play the frames of a finished run (`kdc_replay.runner.replay` of the same job) to the node.

    rate: how much faster than recorded; None = the next frame as soon as the one before is answered.
    Writes node_run.json and node_frames.jsonl into the run's folder and returns the former's content.
    Raises NodeReplayError, ProcessError, BagError, RunError.
    """
    run = load_run(job.folder)
    with (
        tempfile.TemporaryDirectory(prefix="kdc_replay_") as folder,
        _isolated(folder) as namespace,
        BagReader(job.bag) as bag,
    ):
        command = [*node_command(namespace, _TOPIC, job.options.model), *_parameters(run)]
        # The process first: rclpy starts threads, and those do not mix with forking.
        with Process(command, Path(folder, "node.log")) as node, _player(namespace) as player:
            replay = _play(player, node, bag, run, rate, progress)
            if node.exit_code is None and (code := node.stop()) != 0:
                replay.notes.append(f"the node did not end cleanly (exit code {code})")
    return write_node_run(job.folder, run.frames, replay)


def _parameters(run: Run) -> list[str]:
    """The run's options as the node's parameters."""
    options = run.info["options"]
    values = {name: options[name] for name in ("person_threshold", "keypoint_threshold", "max_people", "masks")}
    values |= {"long_side": options["long_side"] or 0, "tracking": True}
    if run.info["backend"].startswith("onnxruntime"):
        values["backend"] = "onnxruntime"
    return [
        word
        for name, value in values.items()
        for word in ("-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}")
    ]


@contextlib.contextmanager
def _isolated(log_folder: str) -> Iterator[str]:
    """ROS on this machine alone, for us and the node; yields a namespace."""
    before = dict(os.environ)
    try:
        namespace = isolate_ros()
        # The node's own log files, which by default pile up in the home directory.
        os.environ["ROS_LOG_DIR"] = log_folder
        os.environ.update(camera_environment())
        yield namespace
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _player(namespace: str) -> Iterator[_Player]:
    context = Context()
    # Its signal handlers would end the recording before the node is stopped in order.
    rclpy.init(
        args=["--ros-args", "-r", f"__ns:={namespace}"],
        context=context,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    try:
        player = _Player(context)
        try:
            yield player
        finally:
            player.close()
    finally:
        context.try_shutdown()


class _Player:
    """Publishes pictures, and keeps the node's answers with the time each one arrived."""

    def __init__(self, context: Context) -> None:
        self._node = rclpy.create_node("replay_player", context=context)
        self._images = self._node.create_publisher(Image, _TOPIC, _IMAGES)
        self._node.create_subscription(PoseArray, "kdc/poses", self._on_poses, _RESULTS)
        self._node.create_subscription(InstanceMaskArray, "kdc/masks", self._on_masks, _RESULTS)
        self.sent_ns: dict[int, int] = {}
        self.arrived_ns: dict[int, int] = {}
        self.poses: dict[int, PoseArray] = {}
        self.masks: dict[int, InstanceMaskArray] = {}
        self._changed = threading.Condition()
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5)
        self._node.destroy_node()

    def subscribed(self) -> bool:
        """Whether the node hears us and we hear the node."""
        topics = ("kdc/poses", "kdc/masks")
        return self._images.get_subscription_count() > 0 and all(self._node.count_publishers(t) for t in topics)

    def reliable(self) -> bool:
        """Whether the node's subscription asks for lost pieces again."""
        asked = self._node.get_subscriptions_info_by_topic(self._node.resolve_topic_name(_TOPIC))
        return bool(asked) and all(a.qos_profile.reliability == ReliabilityPolicy.RELIABLE for a in asked)

    def publish(self, message: Image | bytes, stamp_ns: int) -> None:
        """Publish a picture, as a message or as it was recorded."""
        self.sent_ns[stamp_ns] = time.monotonic_ns()
        self._images.publish(message)

    def wait_answered(self, stamp_ns: int, masks: bool, timeout_s: float) -> bool:
        """Wait for the answer to a picture; returns whether it came."""
        with self._changed:
            return self._changed.wait_for(
                lambda: stamp_ns in self.poses and (stamp_ns in self.masks or not masks), timeout_s
            )

    def _on_poses(self, message: PoseArray) -> None:
        now_ns = time.monotonic_ns()
        with self._changed:
            self.arrived_ns[_stamp_ns(message.header)] = now_ns
            self.poses[_stamp_ns(message.header)] = message
            self._changed.notify_all()

    def _on_masks(self, message: InstanceMaskArray) -> None:
        with self._changed:
            self.masks[_stamp_ns(message.header)] = message
            self._changed.notify_all()


def _play(
    player: _Player, node: Process, bag: BagReader, run: Run, rate: float | None, progress: bool
) -> NodeReplay:
    """Publish the run's frames and collect the answers. Raises NodeReplayError."""
    _wait_ready(player, node)
    masks = bool(run.info["options"]["masks"])
    published: dict[int, RunFrame] = {}
    notes: list[str] = []
    silent = twice = 0
    pace = _Pace(rate)
    bar = tqdm(_recorded(bag, run), "node", len(run.frames), unit="frame", disable=None if progress else True)
    with bar:
        for raw, frame in bar:
            # Answers are told apart by their stamps.
            if frame.time_ns in published:
                twice += 1
                continue
            message = _message(raw, frame)
            pace.wait(frame.time_ns)
            if node.exit_code is not None:
                raise NodeReplayError(f"the node ended by itself (exit code {node.exit_code}):\n{node.output()}")
            published[frame.time_ns] = frame
            player.publish(message, frame.time_ns)
            if rate is None:
                silent = 0 if player.wait_answered(frame.time_ns, masks, _ANSWER_TIMEOUT_S) else silent + 1
                if silent == _MOST_SILENT:
                    raise NodeReplayError(f"the node left {silent} frames in a row unanswered:\n{node.output()}")
    # At a fixed rate the node may still be at the last frame.
    for stamp_ns in list(published)[-1:]:
        player.wait_answered(stamp_ns, masks, _ANSWER_TIMEOUT_S)
    if twice:
        notes.append(f"{twice} frames were not published: another frame has the same stamp")
    records, faults = _answers(player, published, masks)
    if published and not player.poses:
        raise NodeReplayError(f"the node answered none of {len(published)} frames:\n{node.output()}")
    return NodeReplay(rate, [f.index for f in published.values()], records, notes + faults)


def _wait_ready(player: _Player, node: Process) -> None:
    for condition, timeout_s in ((player.subscribed, _START_TIMEOUT_S), (player.reliable, _SETTLE_TIMEOUT_S)):
        end = time.monotonic() + timeout_s
        while not condition():
            if node.exit_code is not None:
                raise NodeReplayError(f"the node ended by itself (exit code {node.exit_code}):\n{node.output()}")
            if time.monotonic() > end:
                break
            time.sleep(_POLL_S)
    if not player.subscribed():
        raise NodeReplayError(f"the node did not subscribe within {_START_TIMEOUT_S:.0f} s:\n{node.output()}")
    # Counted is matched on our side; the node's side may lag by a moment.
    time.sleep(4 * _POLL_S)


def _recorded(bag: BagReader, run: Run) -> Iterator[tuple[RawFrame, RunFrame]]:
    """The frames of the run as they were recorded."""
    evaluated = {frame.index: frame for frame in run.frames}
    last = max(evaluated, default=-1)
    for raw in itertools.takewhile(lambda raw: raw.index <= last, bag.raw_frames(run.info["topic"])):
        if raw.index in evaluated:
            yield raw, evaluated[raw.index]


def _message(raw: RawFrame, frame: RunFrame) -> Image | bytes:
    """The recorded message, or one with the decoded picture where it was compressed; stamped by the run's time."""
    if raw.message_type == IMAGE_TYPE:
        return _stamped(raw.data, frame.time_ns) if frame.stamp_ns == 0 else bytes(raw.data)
    stamp = Time(sec=frame.time_ns // NS, nanosec=frame.time_ns % NS)
    return rgb_to_message(raw.decode().image, Header(stamp=stamp, frame_id=frame.frame_id))


def _stamped(data: bytes, stamp_ns: int) -> bytes:
    """A serialized message whose header comes first, with another stamp.

    CDR: four bytes of encapsulation, whose second tells the byte order, then the stamp's seconds and nanoseconds.
    """
    order = "<" if data[1] & 1 else ">"
    return data[:4] + struct.pack(f"{order}iI", stamp_ns // NS, stamp_ns % NS) + data[12:]


class _Pace:
    """Waits until a frame is due; a pause of the recording of more than 10 s, or a step back, is passed over."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._last_ns: int | None = None
        self._due_s = 0.0

    def wait(self, time_ns: int) -> None:
        if self._rate is None:
            return
        if self._last_ns is None:
            self._due_s = time.monotonic()
        elif 0 < (step_s := (time_ns - self._last_ns) / NS) <= _LONGEST_PAUSE_S:
            self._due_s += step_s / self._rate
        self._last_ns = time_ns
        if (early_s := self._due_s - time.monotonic()) > 0:
            time.sleep(early_s)


def _answers(
    player: _Player, published: dict[int, RunFrame], masks: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Lines of node_frames.jsonl in the order of the bag, and what is wrong with the other answers."""
    records, faults = [], []
    for stamp_ns, frame in published.items():
        poses = player.poses.get(stamp_ns)
        if poses is None:
            continue
        found = player.masks.get(stamp_ns)
        try:
            if masks and found is None:
                raise ValueError("poses came without masks")
            people, _ = people_from_messages(poses, found if masks else None)
            tracks = tracks_from_message(poses)
        except ValueError as error:
            faults.append(f"frame {frame.index}: {error}")
            continue
        if (poses.image_height, poses.image_width) != frame.image_hw:
            faults.append(f"frame {frame.index}: the node saw {poses.image_width} x {poses.image_height} pixels")
            continue
        # Only the picture's size goes into the record.
        size = np.broadcast_to(np.uint8(0), (*frame.image_hw, 3))
        seen = Frame(frame.index, frame.stamp_ns, frame.log_ns, poses.header.frame_id, size)
        latency_ms = (player.arrived_ns[stamp_ns] - player.sent_ns[stamp_ns]) * 1e-6
        records.append({**frame_record(seen, clean(people), tracks), "latency_ms": round(latency_ms, 3)})
    return records, faults


def _stamp_ns(header: Header) -> int:
    return header.stamp.sec * NS + header.stamp.nanosec
