"""A bag through the live node over DDS: the frames of an offline run published again, the answers recorded.

The node is a process of its own, in a ROS domain of its own on this machine. It gets the recorded messages as they
are; compressed pictures, which it may not take, are decoded first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.context import Context
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
from kdc_ros.replay_player import TOPIC, Pace, Player, with_stamp_ns
from kdc_ros.stamps import Order, StampOrder

# Loading may include building an engine for a GPU.
_START_TIMEOUT_S = 180.0
# The node subscribes anew once it knows that the publisher is reliable; frames in between get lost.
_SETTLE_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 15.0
_MOST_SILENT = 5
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
        command = [*node_command(namespace, TOPIC, job.options.model), *_parameters(run)]
        # The process first: rclpy starts threads, and those do not mix with forking.
        with Process(command, Path(folder, "node.log")) as node, _player(namespace) as player:
            replay = _play(player, node, bag, run, rate, progress)
            if node.exit_code is None and (code := node.stop()) != 0:
                replay.notes.append(f"the node did not end cleanly (exit code {code})")
    return write_node_run(job.folder, run.frames, replay)


def _parameters(run: Run) -> list[str]:
    """The run's options as the node's parameters."""
    options = run.info["options"]
    names = ("person_threshold", "keypoint_threshold", "max_people", "masks", "mask_only")
    values = {name: options[name] for name in names}
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
def _player(namespace: str) -> Iterator[Player]:
    context = Context()
    # Its signal handlers would end the recording before the node is stopped in order.
    rclpy.init(
        args=["--ros-args", "-r", f"__ns:={namespace}"],
        context=context,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    try:
        player = Player(context)
        try:
            yield player
        finally:
            player.close()
    finally:
        context.try_shutdown()


def _play(
    player: Player, node: Process, bag: BagReader, run: Run, rate: float | None, progress: bool
) -> NodeReplay:
    """Publish the run's frames and collect the answers. Raises NodeReplayError."""
    _wait_ready(player, node)
    masks = bool(run.info["options"]["masks"])
    published: dict[int, RunFrame] = {}
    notes: list[str] = []
    silent = twice = late = 0
    order = StampOrder()
    pace = Pace(rate)
    bar = tqdm(_recorded(bag, run), "node", len(run.frames), unit="frame", disable=None if progress else True)
    with bar:
        for raw, frame in bar:
            # Answers are told apart by their stamps.
            if frame.time_ns in published:
                twice += 1
                continue
            if order.follow(frame.time_ns) is Order.LATE:
                late += 1
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
    if late:
        notes.append(f"{late} frames were not published: their stamps go back a little, and the node drops such frames")
    if published and not player.poses:
        raise NodeReplayError(f"the node answered none of {len(published)} frames:\n{node.output()}")
    records, faults = _answers(player, published, masks)
    return NodeReplay(rate, [f.index for f in published.values()], records, notes + faults)


def _wait_ready(player: Player, node: Process) -> None:
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
        return with_stamp_ns(raw.data, frame.time_ns) if frame.stamp_ns == 0 else bytes(raw.data)
    stamp = Time(sec=frame.time_ns // NS, nanosec=frame.time_ns % NS)
    return rgb_to_message(raw.decode().image, Header(stamp=stamp, frame_id=frame.frame_id))


def _answers(
    player: Player, published: dict[int, RunFrame], masks: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Lines of node_frames.jsonl in the order of the bag, and what is wrong with the other answers."""
    records, faults = [], []
    for stamp_ns, frame in published.items():
        poses, found = player.take(stamp_ns)
        if poses is None:
            continue
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
