"""The figures and the verdict, from answers made by hand; no process is started."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("kdc.msg", reason="needs the built messages")

from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from kdc_core.tracking import FrameTracks
from kdc_core.types import People
from kdc_replay.demo_scene import scene
from kdc_replay.demo_scene.truth import FrameMatch, PersonMatch
from kdc_ros.conversions import masks_to_message, poses_to_message
from kdc_ros.demo import camera
from kdc_ros.demo.__main__ import REPORT, _remove_old, summary, write_pictures
from kdc_ros.demo.journal import Published
from kdc_ros.demo.pictures import spread
from kdc_ros.demo.playlist import built_in_truth
from kdc_ros.demo.recorder import Answer, AnswerError
from kdc_ros.demo.report import check_answers, id_switches, make_report
from kdc_ros.demo.session import Session

PERIOD_NS = 100_000_000


def answer(frame: Published, people: People, latency_ms: float = 80) -> Answer:
    """What a node would send that found exactly these people."""
    header = Header(frame_id=camera.FRAME_ID)
    header.stamp.sec, header.stamp.nanosec = divmod(frame.stamp_ns, 10**9)
    ids = np.arange(1, len(people) + 1, dtype=np.int32)
    hw = people.mask_labels.shape
    markers = MarkerArray(markers=[Marker(header=header, ns="labels", action=Marker.ADD) for _ in ids])
    return Answer(
        stamp_ns=frame.stamp_ns,
        poses=poses_to_message(people, dataclasses.replace(FrameTracks.untracked(len(people)), ids=ids), header, hw),
        published_ns=frame.stamp_ns + round(latency_ms * 1e6),
        masks=masks_to_message(people, ids, header),
        markers=markers,
        jpeg=cv2.imencode(".jpg", np.full((*hw, 3), 120, np.uint8))[1],
        image_hw=hw,
    )


def well_seen(clip: str, index: int) -> People:
    """The people of the truth who can be seen well: a perfect answer."""
    truth = built_in_truth(clip, index)
    keep = np.flatnonzero(truth.counted)
    labels = np.zeros_like(truth.people.mask_labels)
    for new, old in enumerate(keep):
        labels[truth.people.mask(old)] = new + 1
    arrays = {
        name: getattr(truth.people, name)[keep]
        for name in ("keypoints_xy", "keypoint_scores", "scores", "boxes_xyxy")
    }
    return People(**arrays, mask_labels=labels)


def session(people_of=well_seen) -> Session:
    """A run over the photographs, of which every other picture is answered, and a part of the scene."""
    frames = [(name, i) for name in ("astronaut", "grace_hopper", "cameraman") for i in range(2)]
    frames += [("scene", i) for i in range(0, scene.FRAMES, 12)]
    published = [Published(name, i, (n + 1) * PERIOD_NS) for n, (name, i) in enumerate(frames)]
    answers = [answer(f, people_of(f.clip, f.index)) for f in published if f.clip == "scene" or f.index == 1]
    return Session(published, answers, None)


def test_perfect_answers_pass():
    report = make_report(session(), None, built_in_truth)
    assert report["failures"] == []
    assert report["passed"]
    assert report["frames_published"] == 12
    assert report["frames_answered"] == 9
    assert report["latency_ms"] == {"p50": 80.0, "p95": 80.0}
    assert report["persons_total"] == sum(clip["persons_total"] for clip in report["clips"].values())
    truth = report["clips"]["scene"]["truth"]
    assert truth["recall"] == truth["mask_iou"] == truth["oks"] == 1
    assert truth["found"] == truth["visible"] == sum(p["visible"] for p in truth["by_name"].values())
    assert len(report["credits"]) == 4
    assert json.loads(json.dumps(report)) == report


def test_ids_that_change_are_counted():
    """Two who are found with ids 1 and 2, then 2 and 1; one is overlooked, then comes untracked, then with a third."""
    both = FrameMatch((PersonMatch("a", 1, 1, 1, (), 0), PersonMatch("b", 1, 1, 1, (), 1)), 0)
    one = FrameMatch((PersonMatch("a", 1, 1, 1, (), 0), PersonMatch("b")), 0)
    frames = [both, both, one, both, both]
    ids = [np.array(i, np.int32) for i in ([1, 2], [2, 1], [2], [2, 0], [2, 3])]
    assert id_switches(frames, ids) == 3
    assert id_switches(frames[:1], ids[:1]) == id_switches([], []) == 0
    # A weak overlap is not the person found.
    assert id_switches([both, FrameMatch((PersonMatch("a", 0.3, 0.3, 0, (), 0),), 0)], [ids[0], ids[1]]) == 0


def test_a_node_that_sees_nobody_fails():
    def nobody(clip: str, index: int) -> People:
        return People.empty(built_in_truth(clip, index).people.mask_labels.shape)

    report = make_report(session(nobody), None, built_in_truth)
    assert not report["passed"]
    assert [failure for failure in report["failures"] if "astronaut" in failure]
    assert [failure for failure in report["failures"] if "in the scene" in failure]


def test_scrambled_joints_fail():
    def scrambled(clip: str, index: int) -> People:
        people = well_seen(clip, index)
        return dataclasses.replace(people, keypoints_xy=people.keypoints_xy[:, ::-1].copy())

    report = make_report(session(scrambled), None, built_in_truth)
    assert any("OKS" in failure for failure in report["failures"])


def test_answers_to_other_pictures_fail():
    """The people of a moment earlier: as if stamps were mixed up."""

    def stale(clip: str, index: int) -> People:
        return well_seen(clip, index if clip != "scene" else (index + scene.FRAMES // 2) % scene.FRAMES)

    assert not make_report(session(stale), None, built_in_truth)["passed"]


def test_nothing_answered_fails_for_any_input():
    silent = Session(session().published, [], None)
    for truth in (built_in_truth, None):
        report = make_report(silent, "mine.jpg", truth)
        assert "the node answered no picture" in report["failures"]
        assert report["latency_ms"]["p50"] is None


def test_the_users_pictures_pass_without_anybody_in_them():
    frame = Published("mine", 0, PERIOD_NS)
    report = make_report(Session([frame], [answer(frame, People.empty((30, 40)))], None), "mine.jpg", None)
    assert report["passed"]
    assert report["persons_total"] == 0
    assert "truth" not in report["clips"]["mine"]
    assert "credits" not in report


def test_messages_that_contradict_each_other_are_told():
    frame = Published("astronaut", 0, PERIOD_NS)
    people = well_seen("astronaut", 0)

    def damaged(**changes) -> Answer:
        return dataclasses.replace(answer(frame, people), **changes)

    other = answer(Published("astronaut", 1, 2 * PERIOD_NS), people)
    for bad, said in (
        (damaged(masks=None), "without masks"),
        (damaged(masks=other.masks), "not of the same image"),
        (damaged(markers=MarkerArray()), "markers of 0 people"),
        (damaged(image_hw=(5, 5)), "for a picture of"),
    ):
        with pytest.raises(AnswerError, match=said):
            bad.people()
        report = make_report(Session([frame], [bad], None), None, built_in_truth)
        assert said in report["failures"][0]
    sound, faults = check_answers(Session([frame], [other], None))
    assert not sound
    assert "no picture with this stamp" in faults[0]


def test_pictures_are_written_and_only_they_are_removed(tmp_path):
    run = session()
    sound, _ = check_answers(run)
    names = write_pictures(sound, {"scene"}, tmp_path)
    assert {"overview.png", "demo.mp4", "astronaut.png", "cameraman.png", "scene_1.png"} <= set(names)
    assert all((tmp_path / name).stat().st_size for name in names)
    capture = cv2.VideoCapture(str(tmp_path / "demo.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == len(sound)
    report = {**make_report(run, None, built_in_truth), "files": names}
    assert "passed" in summary(report, tmp_path)
    (tmp_path / REPORT).write_text(json.dumps(report))
    (tmp_path / "mine.png").write_text("the user's own")
    _remove_old(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_spread():
    assert spread(3, 6) == [0, 1, 2]
    assert spread(11, 3) == [0, 5, 10]
