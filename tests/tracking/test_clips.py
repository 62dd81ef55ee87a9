"""The shipped network and the tracker on a real clip. There is no truth for it: held is what was seen by eye."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from kdc_core.tracking import Tracker, TrackerOptions, TrackState
from kdc_ros.tracking import SURE_SCORE

REPOSITORY = Path(__file__).resolve().parents[2]
CLIP = REPOSITORY.parent / "shared" / "data" / "video" / "street_960x540_5frames.mp4"
MODEL = REPOSITORY / "weights" / "kdc_mobile.onnx"


@pytest.mark.skipif(not CLIP.is_file(), reason=f"needs {CLIP}")
@pytest.mark.skipif(not MODEL.is_file(), reason=f"needs {MODEL}")
def test_people_in_the_street_keep_their_ids() -> None:
    """Five frames at 5 Hz, several people walking: those found in each frame are the same ones."""
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime")
    from kdc_core.pipeline import Pipeline

    pipeline = Pipeline.load(MODEL, threads=2)
    tracker = Tracker(TrackerOptions(high_score=SURE_SCORE))
    clip = cv2.VideoCapture(str(CLIP))
    rate_hz = clip.get(cv2.CAP_PROP_FPS)
    sightings: dict[int, int] = {}
    frames = 0
    while (read := clip.read())[0]:
        people = pipeline(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)).people
        tracked = tracker.update(people, frames / rate_hz)
        for number in tracked.ids[~tracked.duplicates].tolist():
            sightings[number] = sightings.get(number, 0) + 1
        frames += 1
    assert frames == 5
    assert sum(count >= 4 for count in sightings.values()) >= 3, sightings
    assert sum(track.state == TrackState.TRACKED for track in tracker.tracks) >= 3
