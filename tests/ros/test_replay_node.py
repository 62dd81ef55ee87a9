"""A bag through the real node over DDS, its answers beside the offline ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rosbags", reason="needs rosbags")
pytest.importorskip("pycocotools", reason="needs pycocotools")
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from kdc_replay.bag_writer import ImageBagWriter
from kdc_replay.outputs import OutputChoice
from kdc_replay.run_reader import NODE_FRAMES_NAME, load_run, read_frames
from kdc_replay.runner import ReplayJob, ReplayOptions, replay
from kdc_ros import replay_node, replay_player
from kdc_ros.replay_node import NodeReplayError, replay_through_node

FRAMES = 6
DARK = 3  # the canned model finds nobody in this frame
START_NS = 1_700_000_000_123_456_789
STEP_NS = 100_000_000


@pytest.fixture
def job(tmp_path: Path, canned_model: Path):
    """Makes a bag of a few frames and the job of its run, evaluated offline."""

    def make(jpeg_quality: int | None = None) -> ReplayJob:
        with ImageBagWriter(tmp_path / "bag", "mcap", "/camera/image_raw", jpeg_quality) as bag:
            for f in range(FRAMES):
                picture = np.full((96, 128, 3), 0 if f == DARK else 150 + 10 * f, np.uint8)
                bag.write(picture, START_NS + f * STEP_NS)
        made = ReplayJob(
            bag=tmp_path / "bag",
            folder=tmp_path / "run",
            options=ReplayOptions(model=canned_model),
            outputs=OutputChoice(results=False, video=False, report=False),
        )
        replay(made)
        return made

    return make


def test_as_fast_as_it_answers(job) -> None:
    """Every frame is answered, and the answers are the offline ones."""
    made = job()
    environment = dict(os.environ)
    summary = replay_through_node(made, rate=None)
    assert dict(os.environ) == environment
    assert summary["rate"] == "max" and summary["notes"] == []
    assert (summary["frames_published"], summary["frames_answered"]) == (FRAMES, FRAMES)
    latency = summary["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["max"]
    same = summary["comparison"]
    assert (same["frames_same_people"], same["people_matched"]) == (FRAMES, FRAMES - 1)
    assert same["keypoint_max_px"] < 1e-3 and same["mask_iou_min"] == 1 and same["id_mismatches"] == 0
    answers = read_frames(made.folder / NODE_FRAMES_NAME)
    assert [len(a) for a in answers] == [0 if f == DARK else 1 for f in range(FRAMES)]
    assert [a.stamp_ns for a in answers] == [START_NS + f * STEP_NS for f in range(FRAMES)]
    assert answers[0].frame_id == load_run(made.folder).frames[0].frame_id != ""
    assert load_run(made.folder).node == summary


def test_compressed_pictures_at_the_recorded_rate(job) -> None:
    """The node may drop frames at this rate, and says how many; what it answers is still the same."""
    summary = replay_through_node(job(jpeg_quality=90), rate=1.0)
    assert summary["frames_published"] == FRAMES and summary["frames_answered"] >= 1
    assert summary["frames_dropped"] == len(summary["dropped_indices"]) == FRAMES - summary["frames_answered"]
    same = summary["comparison"]
    assert same["frames"] == same["frames_same_people"] == summary["frames_answered"]
    assert same["only_offline"] == same["only_node"] == 0


def test_frames_that_the_node_drops_as_late_are_not_waited_for(job, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = replay_node._recorded
    # As recorded where stamps go back for a moment.
    monkeypatch.setattr(
        replay_node, "_recorded", lambda bag, run: [list(recorded(bag, run))[f] for f in (0, 1, 4, 2, 3, 5)]
    )
    summary = replay_through_node(job(), rate=None)
    assert summary["frames_published"] == summary["frames_answered"] == 4
    assert summary["answered_indices"] == [0, 1, 4, 5]
    (note,) = summary["notes"]
    assert note.startswith("2 frames were not published: their stamps go back a little")


def test_a_node_that_cannot_start(job, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job()
    command = ["sh", "-c", "echo the network is missing; exit 3"]
    monkeypatch.setattr(replay_node, "node_command", lambda *_: command)
    with pytest.raises(NodeReplayError, match=r"ended by itself \(exit code 3\):\nthe network is missing"):
        replay_through_node(made, rate=None)


def test_a_stamp_is_changed_in_place() -> None:
    message = Image(height=1, width=2, encoding="rgb8", step=6, data=bytes(range(6)))
    message.header.frame_id = "camera"
    changed = deserialize_message(replay_player.with_stamp_ns(serialize_message(message), START_NS), Image)
    assert (changed.header.stamp.sec, changed.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    changed.header.stamp = message.header.stamp
    assert changed == message


def test_frames_are_due_by_their_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(replay_player.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(replay_player.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    pace = replay_player.Pace(2.0)
    due = []
    for stamp_s in (50.0, 51.0, 53.0, 10.0, 11.0, 500.0):  # a step back, and a leap: neither is waited for
        pace.wait(round(stamp_s * 1e9))
        due.append(now[0])
    assert due == pytest.approx([100, 100.5, 101.5, 101.5, 102, 102])
