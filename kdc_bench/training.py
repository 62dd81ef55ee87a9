"""Suite `training`: a training step by window size, by how memory is kept and by precision."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from kdc_bench.result import BenchError, BenchSettings, Row, SuiteResult
from kdc_bench.timing import interleaved

SIDES = (320, 416, 512)
WINDOWS = 8
Variant = tuple[str, str]
# How freed memory is treated, and what the network computes in.
THROUGHOUT = "bfloat16 throughout"
VARIANTS = (("given back", "float32"), ("kept", "float32"), ("kept", THROUGHOUT), ("kept", "bfloat16"))


def measure(settings: BenchSettings) -> SuiteResult:
    """A process for each variant, in turn. Raises BenchError without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        raise BenchError("`training` needs PyTorch: pip install -e '.[train]'")
    cases = [(variant, side) for side in SIDES for variant in VARIANTS]
    said: dict[tuple[Variant, int], list[dict[str, float]]] = {case: [] for case in cases}
    with contextlib.ExitStack() as stack:
        trainers = {variant: stack.enter_context(_trainer(variant, settings)) for variant in VARIANTS}

        def step(variant: Variant, side: int) -> dict[str, float]:
            said[variant, side].append(ask(trainers[variant], side))
            return {"step": said[variant, side][-1]["step_ms"]}

        runs: dict[str, Callable[[], dict[str, float]]] = {
            f"{variant} {side}": partial(step, variant, side) for variant, side in cases
        }
        rounds = max(3, min(settings.rounds, 10))
        times = interleaved(runs, rounds)
    rows = []
    for variant, side in cases:
        counted = said[variant, side][-rounds:]  # not those of the warm-up
        step_times = times[f"{variant} {side}"].summaries()["step"]
        figures = {
            "windows_per_s": WINDOWS * 1e3 / step_times.p50,
            "page_faults": statistics.median(answer["faults"] for answer in counted),
            "system_share": statistics.median(answer["system"] for answer in counted),
        }
        memory, precision = variant
        case = {"memory": memory, "precision": precision, "window": f"{side} x {side}"}
        rows.append(Row(case, {"step": step_times}, figures))
    return SuiteResult(
        title="A training step on the CPU",
        rows=rows,
        notes=[
            f"The shipped network's shape, {WINDOWS} windows of made scenes a step, sizes in turns; no data loading.",
            "kept: as `kdc train` does on a CPU; given back: as the C library does by itself.",
            "bfloat16: as `kdc train` does where the CPU multiplies it by itself; elsewhere it is slow.",
            "bfloat16 throughout: also the gradients for which oneDNN has no bfloat16 code but a reference loop.",
            "page_faults: of one step, median; system_share: part of its CPU time that the kernel took.",
        ],
        versions={"torch": importlib.metadata.version("torch")},
    )


@contextlib.contextmanager
def _trainer(variant: Variant, settings: BenchSettings) -> Iterator[subprocess.Popen[str]]:
    """A process that takes a step for every window size it is told."""
    arguments = [*variant, str(settings.threads), str(int(settings.cpu_time))]
    process = subprocess.Popen(
        [sys.executable, "-m", "kdc_bench.training", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    try:
        yield process
    finally:
        try:
            process.communicate(timeout=30)  # where its lines end it clears up and ends
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def ask(process: subprocess.Popen[str], side: int) -> dict[str, float]:
    """One step's figures. Raises BenchError where the process fails."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # then it has nothing to say either
        process.stdin.write(f"{side}\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise BenchError("the training process failed: its last words are above")
    figures: dict[str, float] = json.loads(line)
    return figures


def _take_steps(memory: str, precision: str, threads: int, cpu_time: bool) -> None:
    """What the process does: for each line with a window size a step, and one line of JSON."""
    import torch

    from kdc_model.config import TrainConfig
    from kdc_model.data.dataset import Batch, PeopleDataset, collate
    from kdc_model.data.scenes import write_dataset
    from kdc_model.host_memory import keep_freed_memory
    from kdc_model.train import Trainer
    from kdc_model.trunks.convolution import Conv2d

    Conv2d.quick_backward = precision != THROUGHOUT
    if memory == "kept" and not keep_freed_memory():
        raise BenchError("the C library here is not glibc: there is nothing to compare")
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as in a run
    clock = time.thread_time if cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        annotations = write_dataset(Path(folder), WINDOWS, 240, 320, people=(1, 4))
        config = TrainConfig(
            train_annotations=(str(annotations),),
            train_images=(str(Path(folder) / "images"),),
            trunk="movenet_slim",
            output_stride=32,
            freeze_stages=2,
            freeze_norms=True,
            workers=0,
        )
        trainer = Trainer(config, Path(folder) / "run", device="cpu", bfloat16=precision != "float32")
        records, radius = trainer.dataset.records, config.disk_radius()
        batches: dict[int, Batch] = {}
        for line in sys.stdin:
            side = int(line)
            if side not in batches:
                dataset = PeopleDataset(records, side, config.stride, radius)
                batches[side] = collate([dataset[i] for i in range(WINDOWS)])
            before, start = resource.getrusage(resource.RUSAGE_SELF), clock()
            trainer.train_step(batches[side])
            step_ms, after = (clock() - start) * 1e3, resource.getrusage(resource.RUSAGE_SELF)
            system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
            figures = {
                "step_ms": step_ms,
                "faults": after.ru_minflt - before.ru_minflt,
                "system": system / max(system + user, 1e-9),
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    _take_steps(sys.argv[1], sys.argv[2], int(sys.argv[3]), bool(int(sys.argv[4])))
