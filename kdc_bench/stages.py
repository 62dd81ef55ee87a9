"""Suite `pipeline`: the whole way from a picture to people, stage by stage."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from kdc_bench.crowds import make_crowd
from kdc_bench.machine import peak_memory_mb, set_opencv_threads
from kdc_bench.pictures import free_photographs, photographs_of
from kdc_bench.result import BenchError, BenchSettings, Row, SuiteResult
from kdc_bench.timing import StageTimes, Stopwatch, interleaved
from kdc_core.backends.base import Backend, NetworkOutputs, load_backend
from kdc_core.pipeline import Pipeline
from kdc_core.rle import encode_labels

# People in a photograph: (at least, at most) by name.
_CLASSES = {"nobody": (0, 0), "1": (1, 1), "2 to 5": (2, 5), "6 to 20": (6, 20), "above 20": (21, 10**6)}


class CrowdBackend:
    """The real network, which looks at the picture, with a made crowd's outputs as its answer."""

    def __init__(self, backend: Backend) -> None:
        self.name = f"{backend.name}, made outputs"
        # The crowd's fields have one resolution and one form of embedding, whatever the model's.
        self.spec = backend.spec
        self.answer: NetworkOutputs | None = None
        self._backend = backend

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run the network; answer with the made crowd if there is one."""
        outputs = self._backend.run(image)
        return self.answer or outputs

    def close(self) -> None:
        """Free the network."""
        self._backend.close()


def measure(settings: BenchSettings) -> SuiteResult:
    """Photographs by the number of people found in them, and made crowds."""
    set_opencv_threads(settings.threads)
    backend = CrowdBackend(load_backend(settings.model, threads=settings.threads))
    try:
        pipeline = Pipeline(backend, long_side=settings.long_side, clock=settings.clock)
    except ValueError as error:  # a long side that this model cannot have
        raise BenchError(str(error)) from error
    photographs = free_photographs() if settings.images is None else photographs_of(settings.images)
    rows = _photograph_rows(pipeline, photographs, settings)
    rows += _crowd_rows(pipeline, backend, settings)
    height, width = pipeline.spec.letterbox(settings.source_hw).input_hw
    pipeline.close()
    origin = "the free photographs of scikit-image and matplotlib" if settings.images is None else "a folder's"
    return SuiteResult(
        title="The pipeline, stage by stage",
        rows=rows,
        notes=[
            f"Model {settings.model.name}, {backend.name.removesuffix(', made outputs')}, "
            f"longer side {max(pipeline.spec.input_hw)} px, threads {settings.threads or 'by the runtime'}.",
            f"Photographs: {len(photographs)} ({origin}), classed by the people found in them.",
            f"Made crowds: the network runs on a picture of {settings.source_hw[1]} x {settings.source_hw[0]} (input "
            f"{width} x {height}), the host decodes a made crowd with clutter in place of its answer.",
            f"Times: {'CPU time of the one thread' if settings.cpu_time else 'wall time'}. fps: 1000 / median total.",
            "rle: everybody's run lengths, as the messages carry them. peak_memory_mb: of this process so far.",
        ],
    )


def _timed(pipeline: Pipeline, image: np.ndarray, clock: Callable[[], float]) -> tuple[dict[str, float], int]:
    """Stage times of one picture, and how many people came out."""
    result = pipeline(image)
    watch = Stopwatch(clock)
    with watch("rle"):
        if result.people.mask_labels is not None:
            encode_labels(result.people.mask_labels, len(result.people))
    return {**result.stage_ms, **watch.stage_ms}, len(result.people)


def _photograph_rows(pipeline: Pipeline, photographs: dict[str, np.ndarray], settings: BenchSettings) -> list[Row]:
    times: dict[str, StageTimes] = {}
    # Each picture several times where there are few, once where there are many.
    repeats = max(1, -(-settings.rounds // max(len(photographs), 1)))
    for image in photographs.values():
        _timed(pipeline, image, settings.clock)  # a size seen for the first time costs the runtime more
        for _ in range(repeats):
            stage_ms, people = _timed(pipeline, image, settings.clock)
            name = next(name for name, (low, high) in _CLASSES.items() if low <= people <= high)
            times.setdefault(name, StageTimes()).add(stage_ms)
    return [
        Row({"pictures": "photographs", "people": name}, times[name].summaries(), _figures(times[name]))
        for name in _CLASSES
        if name in times
    ]


def _crowd_rows(pipeline: Pipeline, backend: CrowdBackend, settings: BenchSettings) -> list[Row]:
    noise = np.random.default_rng(0).integers(0, 256, (*settings.source_hw, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 8)
    network_hw = pipeline.spec.letterbox(settings.source_hw).input_hw
    runs: dict[str, Callable[[], dict[str, float]]] = {}
    for people in settings.people:
        outputs = make_crowd(people, network_hw).outputs

        def run(outputs: NetworkOutputs = outputs) -> dict[str, float]:
            backend.answer = outputs
            return _timed(pipeline, image, settings.clock)[0]

        runs[str(people)] = run
    times = interleaved(runs, settings.rounds)
    backend.answer = None
    return [Row({"pictures": "made crowds", "people": p}, t.summaries(), _figures(t)) for p, t in times.items()]


def _figures(times: StageTimes) -> dict[str, float]:
    summaries = times.summaries()
    host = sum(summaries[stage].p50 for stage in ("decode", "masks"))
    return {
        "fps": 1e3 / summaries["total"].p50,
        "decoding_percent": 100 * host / summaries["total"].p50,
        "peak_memory_mb": peak_memory_mb(),
    }
