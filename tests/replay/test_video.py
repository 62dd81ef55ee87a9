"""The annotated film, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

import av

from kdc_core.draw import colour_of
from kdc_core.types import People
from kdc_replay.video import NS_PER_S, AnnotatedVideo, video_pictures

START_NS = 1_700_000_000 * NS_PER_S
NOBODY = np.zeros(0, np.int32)


def film(path: Path, pictures: list[np.ndarray], times_s: list[float]) -> Path:
    with AnnotatedVideo(path) as video:
        for picture, time_s in zip(pictures, times_s):
            video.write(picture, People.empty(), NOBODY, START_NS + round(time_s * NS_PER_S))
    return path


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def grey(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_frames_are_shown_at_their_stamps(tmp_path: Path) -> None:
    """Changing rates, a dropped frame and a pause; steps back and leaps of the clock are not sat through."""
    times = [0.0, 0.1, 0.2, 0.4, 0.433, 3.0, 2.0, 500.0]
    path = film(tmp_path / "a.mp4", [grey(20 * i) for i in range(8)], times)
    shown = times_of(path)
    assert shown[:6] == pytest.approx(times[:6], abs=1e-4)
    assert shown[6] - shown[5] == pytest.approx(2.567, abs=1e-3)  # as long as the step before
    assert shown[7] - shown[6] == pytest.approx(2.567, abs=1e-3)
    pictures = video_pictures(path, [0, 5, 99])
    assert sorted(pictures) == [0, 5] and abs(float(pictures[5].mean()) - 100) < 3
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(12)]
    times = [i / 25 for i in range(12)]
    first, second = (film(tmp_path / name, pictures, times) for name in ("a.mp4", "b.mp4"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("first", "size"), [((47, 63), (48, 64)), ((1, 1), (16, 16)), ((1000, 4000), (480, 1920)), ((481, 640), (482, 640))]
)
def test_odd_and_extreme_sizes(tmp_path: Path, first: tuple[int, int], size: tuple[int, int]) -> None:
    path = film(tmp_path / "a.mp4", [grey(200, *first)] * 2, [0, 0.1])
    picture = video_pictures(path, [1])[1]
    assert picture.shape[:2] == size
    assert abs(float(np.median(picture)) - 200) < 4


def test_a_change_of_size_keeps_proportions(tmp_path: Path) -> None:
    """A tall picture within a wide film: bars at its sides, itself in the middle."""
    path = film(tmp_path / "a.mp4", [grey(50, 64, 128), grey(200, 128, 64)], [0, 0.1])
    second = video_pictures(path, [1])[1].mean(2)
    assert second.shape == (64, 128)
    assert second[:, :44].max() < 30 and second[:, 84:].max() < 30
    assert abs(float(second[8:56, 52:76].mean()) - 200) < 4


def test_people_have_their_id_s_colour(tmp_path: Path) -> None:
    labels = np.zeros((96, 128), np.uint16)
    labels[20:80, 40:90] = 1
    person = People(
        np.zeros((1, 17, 2), np.float32),
        np.zeros((1, 17), np.float32),
        np.array([0.9], np.float32),
        np.array([[40, 20, 89, 79]], np.float32),
        labels,
    )
    with AnnotatedVideo(tmp_path / "a.mp4") as video:
        video.write(grey(0, 96, 128), person, np.array([7], np.int32), START_NS)
    inside = video_pictures(tmp_path / "a.mp4", [0])[0][45:70, 50:80].reshape(-1, 3).mean(0)
    tint = 0.42 * np.array(colour_of(7))
    assert np.abs(inside - tint).max() < 12


def test_no_frames_no_film(tmp_path: Path) -> None:
    assert not film(tmp_path / "a.mp4", [], []).exists()
    with pytest.raises(OSError):
        film(tmp_path / "nowhere" / "a.mp4", [grey(0)], [0])


def test_a_film_that_was_cut_off(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 255, (96, 128, 3), np.uint8) for i in range(20)]
    path = film(tmp_path / "a.mp4", pictures, [i / 10 for i in range(20)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    found = video_pictures(path, range(20))
    assert 1 <= len(found) < 20 and sorted(found) == list(range(len(found)))
    path.write_bytes(whole[:50])
    assert video_pictures(path, [0]) == {}
