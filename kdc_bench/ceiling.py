"""Suite `ceiling`: what this machine can do at best, to hold the other figures against."""

from __future__ import annotations

import numpy as np

from kdc_bench.machine import set_opencv_threads
from kdc_bench.result import BenchSettings, Row, SuiteResult
from kdc_bench.timing import Stopwatch, interleaved

_SIDE = 768  # of the matrices: 7 MB in all, within most last-level caches
_COPY_BYTES = 64 * 2**20  # beyond them


def measure(settings: BenchSettings) -> SuiteResult:
    """Multiply-adds of a matrix product, bytes of a copy: the ceilings of computing and of memory."""
    set_opencv_threads(settings.threads)
    rng = np.random.default_rng(0)
    a, b = (rng.random((_SIDE, _SIDE), np.float32) for _ in range(2))
    product = np.empty_like(a)
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.zeros_like(source)

    def multiply() -> dict[str, float]:
        watch = Stopwatch(settings.clock)
        with watch("run"):
            np.matmul(a, b, out=product)
        return watch.stage_ms

    def copy() -> dict[str, float]:
        watch = Stopwatch(settings.clock)
        with watch("run"):
            np.copyto(target, source)
        return watch.stage_ms

    times = interleaved({"product": multiply, "copy": copy}, settings.rounds)
    stages = {name: t.summaries() for name, t in times.items()}
    gmac_per_s = _SIDE**3 / 1e6 / stages["product"]["run"].least
    gb_per_s = 2 * _COPY_BYTES / 1e6 / stages["copy"]["run"].least
    return SuiteResult(
        title="What this machine can do at best",
        rows=[
            Row({"work": "matrix product, float32"}, stages["product"], {"gmac_per_s": gmac_per_s}),
            Row({"work": "copy beyond the caches"}, stages["copy"], {"gb_per_s": gb_per_s}),
        ],
        notes=[
            "The product runs on as many threads as numpy's library takes (OMP_NUM_THREADS=1 for one).",
            "Rates are those of the shortest run; the copy counts what is read and what is written.",
        ],
    )
