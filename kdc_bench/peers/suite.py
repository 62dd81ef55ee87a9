"""Suite `peers`: pose and masks by ours and by others, side by side, on the same runtime, threads and input size."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from kdc_bench.crowds import made_truth, outputs_of
from kdc_bench.machine import package_versions, set_opencv_threads
from kdc_bench.peers import yolo
from kdc_bench.peers.export import RTMO_PEOPLE, graph_of
from kdc_bench.result import BenchError, BenchSettings, Row, SuiteResult
from kdc_bench.stages import CrowdBackend
from kdc_bench.timing import WORKERS_REST_S, StageTimes, Stopwatch, interleaved
from kdc_core.backends.base import load_backend
from kdc_core.geometry import Letterbox
from kdc_core.pipeline import PipelineOptions, decode_instances, decode_poses, people_of

PEOPLE = 5  # in the made picture
_PACKAGES = ("ultralytics", "mmpose", "torch", "onnxruntime")


def measure(settings: BenchSettings) -> SuiteResult:
    """All networks at all sizes. Raises BenchError where the YOLO graphs cannot be had."""
    set_opencv_threads(settings.threads)
    rows: list[Row] = []
    notes = [
        f"Model {settings.model.name}. All on ONNX Runtime {ort.__version__}, CPU, threads "
        f"{settings.threads or 'by the runtime'}, batch 1, interleaved; the picture has the input's size.",
        "With several threads each graph starts after a rest, when the workers of the one before have gone to sleep.",
        f"The picture holds {PEOPLE} made people. The graphs run on it; what is decoded are made outputs with these "
        f"people ({yolo.DUPLICATES} raw boxes each for YOLO, our candidates with clutter), since the peers' weights "
        "are random (a graph's time does not depend on them).",
        "yolo11n pair: yolo11n-pose and yolo11n-seg, preprocessing once, suppression at "
        f"{yolo.CONFIDENCE} / {yolo.IOU}, masks inside the boxes; matching the poses with the masks is left out.",
        f"Times are {'CPU time of the one thread' if settings.cpu_time else 'wall time'}. "
        "ratio: median total over the pair's; decoding_percent: poses and masks of the total.",
    ]
    for size_hw in settings.sizes_hw:
        rows += _size_rows(settings, size_hw, notes)
    return SuiteResult("Pose and masks, side by side", rows, notes, package_versions(_PACKAGES))


def _size_rows(settings: BenchSettings, size_hw: tuple[int, int], notes: list[str]) -> list[Row]:
    runs = {"kdc": _ours(settings, size_hw), "yolo11n pair": _yolo_pair(settings, size_hw)}
    try:
        runs["rtmo-s (pose only)"] = _rtmo(settings, size_hw)
    except BenchError as error:
        note = f"rtmo-s left out: {error}."
        if note not in notes:
            notes.append(note)
    else:
        note = f"rtmo-s: its graph with the joints of {RTMO_PEOPLE} people inside; its suppression is left out."
        if note not in notes:
            notes.append(note)
    times = interleaved(runs, settings.rounds, _rest_s(settings))
    pair_ms = times["yolo11n pair"].summaries()["total"].p50
    return [_row(f"{size_hw[1]} x {size_hw[0]}", name, times[name], pair_ms) for name in runs]


def _row(size: str, name: str, times: StageTimes, pair_ms: float) -> Row:
    stages = times.summaries()
    host = sum(stages[stage].p50 for stage in ("decode", "masks") if stage in stages)
    total = stages["total"].p50
    figures = {"ratio": total / pair_ms, "decoding_percent": 100 * host / total, "least_ms": stages["total"].least}
    return Row({"input": size, "network": name}, stages, figures)


def _picture(size_hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def _ours(settings: BenchSettings, size_hw: tuple[int, int]) -> Callable[[], dict[str, float]]:
    backend = CrowdBackend(load_backend(settings.model, "onnxruntime", settings.threads, device="cpu"))
    backend.answer = outputs_of(made_truth(PEOPLE, size_hw))
    image, letterbox, options = _picture(size_hw), Letterbox.fit(size_hw, size_hw), PipelineOptions()

    def run() -> dict[str, float]:
        watch = Stopwatch(settings.clock)
        with watch("preprocess"):
            network_image = letterbox.apply(image)
        with watch("inference"):
            outputs = backend.run(network_image)
        with watch("decode"):
            poses = decode_poses(outputs, options)
        with watch("masks"):
            people_of(poses, decode_instances(outputs, poses, letterbox, options), letterbox, options)
        return watch.stage_ms

    return run


def _yolo_pair(settings: BenchSettings, size_hw: tuple[int, int]) -> Callable[[], dict[str, float]]:
    pose, seg = (_session(graph_of(f"yolo11n-{t}", size_hw, settings.graphs), settings) for t in ("pose", "seg"))
    raw = yolo.raw_outputs(made_truth(PEOPLE, size_hw))
    image, letterbox = _picture(size_hw), Letterbox.fit(size_hw, size_hw)

    def run() -> dict[str, float]:
        watch = Stopwatch(settings.clock)
        with watch("preprocess"):
            blob = yolo.preprocess(image, letterbox)
        with watch("inference"):
            pose.run(None, {"images": blob})
        time.sleep(_rest_s(settings))  # in the pair's favour: the second need not share with the first's workers
        with watch("inference"):
            seg.run(None, {"images": blob})
        with watch("decode"):
            yolo.decode_poses(raw.pose, letterbox)
        with watch("masks"):
            yolo.decode_masks(raw.seg, raw.prototypes, letterbox)
        return watch.stage_ms

    return run


def _rtmo(settings: BenchSettings, size_hw: tuple[int, int]) -> Callable[[], dict[str, float]]:
    session = _session(graph_of("rtmo-s", size_hw, settings.graphs), settings)
    image, letterbox = _picture(size_hw), Letterbox.fit(size_hw, size_hw)

    def run() -> dict[str, float]:
        watch = Stopwatch(settings.clock)
        with watch("preprocess"):
            blob = yolo.preprocess(image, letterbox)
        with watch("inference"):
            session.run(None, {"images": blob})
        return watch.stage_ms

    return run


def _rest_s(settings: BenchSettings) -> float:
    """One thread has no workers to wait for."""
    return 0.0 if settings.threads == 1 else WORKERS_REST_S


def _session(graph: Path, settings: BenchSettings) -> ort.InferenceSession:
    """As our own backend makes its session."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
