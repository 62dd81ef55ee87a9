"""What the camera plays: pictures, folders and videos, and what is said when they cannot be played."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc_ros.demo import playlist
from kdc_ros.demo.journal import Published, note, read_journal
from kdc_ros.demo.playlist import PlaylistError, built_in, from_input


def write_picture(path: Path, hw: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*hw, 3), 90, np.uint8))
    return path


def test_built_in():
    clips = {clip.name: clip for clip in built_in()}
    assert list(clips) == ["astronaut", "grace_hopper", "cameraman", "scene"]
    assert clips["cameraman"].encoding == "mono8"
    assert next(iter(clips["cameraman"].frames())).ndim == 2
    assert len(list(clips["astronaut"].frames())) == playlist.PICTURE_FRAMES
    assert clips["scene"].moving
    assert next(iter(clips["scene"].frames())).shape == (480, 848, 3)


def test_a_picture_is_shown_for_a_while(tmp_path):
    (clip,) = from_input(str(write_picture(tmp_path / "with space.png")), 10)
    frames = list(clip.frames())
    assert len(frames) == playlist.PICTURE_FRAMES
    assert frames[0].shape == (40, 60, 3)
    assert (clip.name, clip.encoding, clip.moving) == ("with space", "bgr8", False)


def test_a_folder_and_several_pictures(tmp_path):
    first, second = write_picture(tmp_path / "a/x.png"), write_picture(tmp_path / "b/x.jpg")
    (tmp_path / "a/notes.txt").write_text("no picture")
    assert [clip.name for clip in from_input(str(tmp_path / "a"), 10)] == ["x"]
    for text in (f"{first} {second}", f"{first},{second}"):
        assert [clip.name for clip in from_input(text, 10)] == ["x_1", "x_2"]
    third, fourth = write_picture(tmp_path / "c/x_1.png"), write_picture(tmp_path / "c/overview.png")
    names = [clip.name for clip in from_input(f"{first},{second},{third},{fourth}", 10)]
    assert names == ["x_2", "x_3", "x_1", "overview_1"]


def test_a_scan_is_shrunk_to_a_cameras_size(tmp_path):
    (clip,) = from_input(str(write_picture(tmp_path / "big.png", (3000, 1500))), 10)
    assert next(iter(clip.frames())).shape == (playlist.LONGEST_SIDE_PX, playlist.LONGEST_SIDE_PX // 2, 3)


def test_a_video_is_played_no_longer_than_asked(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(15):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    (clip,) = from_input(str(path), 1.0)
    assert clip.fps == pytest.approx(10)
    assert clip.moving
    assert len(list(clip.frames())) == 10
    assert len(list(from_input(str(path), 100)[0].frames())) == 15


def test_what_cannot_be_played(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("not a picture")
    (tmp_path / "empty").mkdir()
    video = tmp_path / "broken.mp4"
    video.write_text("not a video")
    for source, said in (
        (tmp_path / "nowhere.png", "does not exist"),
        (broken, "cannot be read"),
        (tmp_path / "empty", "no pictures"),
        (video, "cannot be opened"),
        ("", "no input"),
    ):
        with pytest.raises(PlaylistError, match=said):
            from_input(str(source), 10)


def test_the_journal_is_read_while_it_is_written(tmp_path):
    journal = tmp_path / "journal"
    assert read_journal(journal) == []
    with journal.open("w") as file:
        note(file, Published("a", 0, 5))
        file.write('{"clip": "a", "ind')
    assert read_journal(journal) == [Published("a", 0, 5)]
