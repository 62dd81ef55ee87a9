"""Suite `decode`: what the host does after the network, for more and more people."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from kdc_bench.crowds import STRIDE, Crowd, make_crowd
from kdc_bench.machine import set_opencv_threads
from kdc_bench.result import BenchSettings, Row, SuiteResult
from kdc_bench.timing import Stopwatch, interleaved
from kdc_core.appearance import colour_histograms
from kdc_core.geometry import Letterbox
from kdc_core.pipeline import PipelineOptions, decode_instances, decode_poses, people_of
from kdc_core.rle import encode_labels


def measure(settings: BenchSettings) -> SuiteResult:
    """Poses, masks, run lengths and colours of made crowds, with and without a real network's clutter, on one thread.

    Measured is the thread's own CPU time, which other programs on the machine stretch far less than the wall time.
    """
    set_opencv_threads(1)
    crowds = {
        (people, clutter): make_crowd(people, settings.source_hw, clutter=clutter)
        for clutter in (False, True)
        for people in settings.people
    }
    found: dict[str, int] = {}
    runs = {str(key): _run(crowd, str(key), found) for key, crowd in crowds.items()}
    times = interleaved(runs, settings.rounds)
    rows = []
    for people, clutter in crowds:
        key = str((people, clutter))
        case = {"people": people, "clutter": "yes" if clutter else "no", "found": found[key]}
        stages = times[key].summaries()
        figures = {"poses_least": stages["poses"].least, "masks_rle_least": stages["masks"].least + stages["rle"].least}
        rows.append(Row(case, stages, figures))
    height, width = settings.source_hw
    return SuiteResult(
        title="Host decoding of made crowds, without the network",
        rows=rows,
        notes=[
            f"Picture and network input {width} x {height}, fields of {width // STRIDE} x {height // STRIDE} cells.",
            "poses: grouping, joining of fragments; masks: label map, boxes and people; rle: everybody's run lengths; "
            "colours: everybody's histogram, which only the tracker asks for (the picture is noise).",
            "The crowds are made (ideal fields of drawn figures). With clutter the remaining places of each keypoint "
            "type's top 32 (above 25 people: 5/4 of the people) hold weak candidates all over the picture.",
            "One thread; times are its CPU time: the wall time on a core that nobody else wants. least: the shortest "
            "of all rounds, which other programs on the machine have disturbed least.",
            "found: people that came out above the score threshold.",
        ],
    )


def _run(crowd: Crowd, key: str, found: dict[str, int]) -> Callable[[], dict[str, float]]:
    options = PipelineOptions()
    letterbox = Letterbox.fit(crowd.network_hw, crowd.network_hw)
    outputs = crowd.outputs
    picture = np.random.default_rng(0).integers(0, 256, (*crowd.network_hw, 3), dtype=np.uint8)

    def run() -> dict[str, float]:
        watch = Stopwatch(time.thread_time)
        with watch("poses"):
            poses = decode_poses(outputs, options)
        with watch("masks"):
            decoded = decode_instances(outputs, poses, letterbox, options)
            people = people_of(poses, decoded, letterbox, options)
        with watch("rle"):
            encode_labels(decoded.labels, len(people))
        with watch("colours"):
            colour_histograms(picture, decoded.labels, len(people))
        found[key] = len(people)
        return watch.stage_ms

    return run
