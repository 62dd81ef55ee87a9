"""The bag of results: what any reader of bags finds in it, and that it says what the live node says."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the extra 'replay'")
from rosbags.highlevel import AnyReader

from kdc_cli.main import main
from kdc_core.rle import decode_counts
from kdc_core.types import People
from kdc_replay import journal
from kdc_replay.interfaces import Messages
from kdc_replay.result_messages import MARKERS, MASKS, POSES, MarkerArrays, header, mask_array, pose_array
from kdc_replay.tracking import RunTracker
from tests.replay.bags import HW, LOG_DELAY_NS, picture, stamp_of, write_bag
from tests.replay.stub_pipeline import use_stub


def read(path):
    """{topic: [(log time, message)]} of a bag, by nothing but what is in it."""
    found = {}
    with AnyReader([path]) as reader:
        for connection, log_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((log_ns, message))
    return found


def test_the_bag_holds_the_run_under_the_input_headers(tmp_path, monkeypatch):
    use_stub(monkeypatch, tmp_path)
    bag = write_bag(tmp_path / "walk", range(5), broken=[2])
    run = tmp_path / "run"
    assert main(["replay", str(bag), "--out", str(run), "--no-video", "--no-report"]) == 0
    found = read(run / "results")
    assert sorted(found) == ["/kdc/markers", "/kdc/masks", "/kdc/poses"]
    assert sorted(p.name for p in (run / "results").iterdir()) == ["metadata.yaml", "results.mcap"]
    records = list(journal.records(run))
    for topic in found:
        assert [log_ns for log_ns, _ in found[topic]] == [stamp_of(i) + LOG_DELAY_NS for i in (0, 1, 3, 4)]
    for record, (_, poses), (_, masks), (_, markers) in zip(
        records, found["/kdc/poses"], found["/kdc/masks"], found["/kdc/markers"]
    ):
        for head in (poses.header, masks.header, *(m.header for m in markers.markers)):
            assert head.stamp.sec * 10**9 + head.stamp.nanosec == record["stamp_ns"]
            assert head.frame_id == "camera_optical"
        (person,), (entry,), (mask,) = poses.people, record["people"], masks.masks
        assert (person.track_id, journal.state_name(person.state)) == (entry["id"], entry["state"])
        assert np.float32(person.score) == np.float32(entry["score"]) == np.float32(mask.score)
        assert np.float32(mask.mask_score) == np.float32(entry["mask"]["score"]) != np.float32(mask.score)
        assert [person.x_min, person.y_min, person.x_max, person.y_max] == entry["box_xyxy"]
        for joint, (x, y, score) in zip(person.keypoints, entry["keypoints"]):
            assert np.float32(joint.score) == np.float32(score)
            place = np.array([x, y], np.float32) if score > 0 else np.full(2, np.nan, np.float32)
            assert np.array_equal(np.array([joint.x, joint.y], np.float32), place, equal_nan=True)
            assert np.isnan([joint.position.x, joint.position.y, joint.position.z]).all()
        canvas = np.zeros((masks.image_height, masks.image_width), bool)
        roi = mask.roi
        inside = decode_counts(mask.counts, roi.height, roi.width)
        canvas[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width] = inside
        assert np.array_equal(canvas, picture(record["index"], HW).min(2) > 150)
        assert [m.ns for m in markers.markers] == ["joints", "bones", "labels"]
    info = json.loads((run / "run.json").read_text())
    assert info["tracks"] == 1


def test_no_masks_no_topic_of_masks(tmp_path, monkeypatch):
    use_stub(monkeypatch, tmp_path)
    bag = write_bag(tmp_path / "walk", range(2))
    run = tmp_path / "run"
    assert main(["replay", str(bag), "--out", str(run), "--no-masks", "--no-video", "--no-report"]) == 0
    assert sorted(read(run / "results")) == ["/kdc/markers", "/kdc/poses"]


def crowd(count: int, seed: int) -> People:
    """People with all there can be: joints not found, a person without a mask."""
    random = np.random.default_rng(seed)
    labels = np.zeros((90, 120), np.uint16)
    boxes = np.zeros((count, 4), np.float32)
    for i in range(count):
        x, y = 5 + 28 * i, 10
        boxes[i] = (x, y, x + 20, y + 60)
        if i != 2:
            labels[y : y + 60, x : x + 20][random.random((60, 20)) > 0.2] = i + 1
    scores = random.random((count, 17)).astype(np.float32)
    scores[:, 3] = 0
    spread = random.random((count, 17, 2)).astype(np.float32) * (20, 60)
    return People(
        keypoints_xy=(boxes[:, None, :2] + spread).astype(np.float32),
        keypoint_scores=scores,
        scores=np.linspace(0.9, 0.3, count).astype(np.float32),
        boxes_xyxy=boxes,
        mask_labels=labels,
        mask_scores=random.random(count).astype(np.float32) if count != 2 else None,
    )


def test_the_messages_are_the_live_nodes(tmp_path):
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from builtin_interfaces.msg import Time
    from rclpy.serialization import serialize_message
    from std_msgs.msg import Header

    from kdc_core.camera import CameraModel
    from kdc_ros.conversions import masks_to_message, poses_to_message
    from kdc_ros.markers import MarkerBuilder

    messages = Messages()
    live, offline = MarkerBuilder(), MarkerArrays(messages)
    tracker = RunTracker()
    states = set()
    for number, count in enumerate((4, 4, 4, 4, 3, 0, 2)):
        people = crowd(count, seed=1)  # the same people again and again
        tracks = tracker.update(people, number * 100_000_000)
        assert not {track.id for track in tracks.unseen} & set(tracks.ids.tolist())
        states |= {*tracks.states.tolist(), *(int(track.state) for track in tracks.unseen)}
        stamp_ns = stamp_of(number)
        ours = header(messages, stamp_ns, "camera")
        theirs = Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="camera")
        pairs = {
            POSES: (pose_array(messages, people, tracks, ours, (90, 120)),
                    poses_to_message(people, tracks, theirs, (90, 120))),
            MASKS: (mask_array(messages, people, tracks, ours), masks_to_message(people, tracks.ids, theirs)),
            MARKERS: (offline.make(people, tracks.ids, ours, (90, 120)),
                      live.build(people, tracks.ids, theirs, CameraModel.guess((90, 120)))),
        }  # fmt: skip
        for kind, (made, wanted) in pairs.items():
            # Padding between fields is undefined: both go through one serializer.
            again = messages.store.deserialize_cdr(serialize_message(wanted), kind)
            assert messages.serialize(made, kind) == messages.serialize(again, kind), (kind, number)
    assert len(states) >= 3
