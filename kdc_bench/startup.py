"""Suite `startup`: from the start of a process to its first answer, and the memory it then holds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from kdc_bench.result import BenchError, BenchSettings, Row, SuiteResult
from kdc_bench.timing import StageTimes

TIMEOUT_S = 120.0


def measure(settings: BenchSettings) -> SuiteResult:
    """Fresh processes: imports, loading, first and second answer; memory after them."""
    times = StageTimes()
    figures: list[dict[str, float]] = []
    for _ in range(max(3, min(settings.rounds, 10))):
        stage_ms, said = _fresh_process(settings)
        times.add(stage_ms)
        figures.append(said)
    medians = {name: statistics.median(f[name] for f in figures) for name in figures[0]}
    return SuiteResult(
        title="Start-up of a fresh process, and its memory",
        rows=[Row({"process": "pipeline"}, times.summaries(), medians)],
        notes=[
            "python: the interpreter and numpy until the first line runs; import, load, first answer follow.",
            "Files come from the page cache; only the first process of all may have read them from the disk.",
            "cpu_ms: CPU time of the process until its first answer; on an idle machine it takes about that long.",
            "rss_mb counts shared pages in full, pss_mb by share; both after three answers, in MB (10^6 bytes).",
        ],
    )


def _fresh_process(settings: BenchSettings) -> tuple[dict[str, float], dict[str, float]]:
    """Start one, and read what it says about itself. Raises BenchError where it fails."""
    height, width = settings.source_hw
    arguments = [str(settings.model), str(settings.threads), str(settings.long_side or 0), str(height), str(width)]
    start = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "kdc_bench.startup", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=Path(__file__).resolve().parents[1],
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchError(f"the process that was to be measured failed: {last}")
    said = json.loads(done.stdout.splitlines()[-1])
    return {"python": (said["started"] - start) * 1e3, **said["stage_ms"]}, said["figures"]


def memory_mb(process: str = "self") -> dict[str, float]:
    """Resident memory of a process, and its share of it where pages are shared, in MB; empty where /proc is not."""
    rollup = Path("/proc") / process / "smaps_rollup"
    if not rollup.is_file():
        return {}
    sizes = {}
    for line in rollup.read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            sizes[f"{name.lower()}_mb"] = int(rest.split()[0]) * 1024 / 1e6
    return sizes


def cpu_ms(process: int) -> float:
    """CPU time that a process has used so far, of all its threads."""
    # Behind the name in brackets, which may hold blanks; utime and stime are fields 14 and 15 of the whole line.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")


def _answer_first(model: Path, threads: int, long_side: int, height: int, width: int) -> None:
    """What the fresh process does: import, load, answer; it prints one line of JSON."""
    laps = [time.time()]
    import numpy as np

    from kdc_core.pipeline import Pipeline

    laps.append(time.time())
    pipeline = Pipeline.load(model, threads=threads, long_side=long_side or None)
    laps.append(time.time())
    image = np.full((height, width, 3), 90, np.uint8)
    pipeline(image)
    laps.append(time.time())
    used_ms = time.process_time() * 1e3
    for _ in range(2):
        pipeline(image)
    stages = {name: (b - a) * 1e3 for name, a, b in zip(("import", "load", "first_answer"), laps, laps[1:])}
    print(json.dumps({"started": laps[0], "stage_ms": stages, "figures": {"cpu_ms": used_ms, **memory_mb()}}))


if __name__ == "__main__":
    _answer_first(Path(sys.argv[1]), *(int(a) for a in sys.argv[2:6]))
