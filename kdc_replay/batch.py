"""Many bags in one call: on this machine's processes, or on the workers of a Dask cluster.

Every bag is a job of its own with one thread, so the results do not depend on how many run at a time or where.
"""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from kdc_replay.run_folder import METRICS_NAME, write_json
from kdc_replay.runner import ReplayJob, replay

SUMMARY_NAME = "summary"
COLUMNS = (
    "bag", "folder", "status", "frames", "dropped", "people", "tracks",
    "keypoint_ap", "mask_ap", "hota", "idf1", "mota", "id_switches", "error",
)  # fmt: skip
FINISHED, FAILED = "finished", "failed"

Row = dict[str, Any]
_log = logging.getLogger(__name__)


def run_job(job: ReplayJob, progress: bool = False) -> Row:
    """Evaluate one bag. Never raises: what went wrong is in the row's `error`."""
    try:
        info = replay(job, progress)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one bag, the others go on
        _log.debug("%s failed", job.bag, exc_info=True)
        return failed(job, error)
    return result_row(job, info)


def result_row(job: ReplayJob, info: dict[str, Any]) -> Row:
    """The row of a finished run, from its run.json; failed where not one frame could be evaluated.

    notes: run.json's, and the reasons for which frames were dropped.
    """
    return {
        **_empty(job),
        "status": FINISHED if info["frames"] else FAILED,
        "error": None if info["frames"] else "not one frame could be evaluated",
        "frames": info["frames"],
        "dropped": sum(info["dropped"].values()),
        "people": info["people"],
        "tracks": info["tracks"],
        "notes": [*info["notes"], *(f"{n} frames dropped: {reason}" for reason, n in info["dropped"].items())],
        **_scores(job.folder),
    }


def failed(job: ReplayJob, error: BaseException) -> Row:
    """The row of a bag that could not be evaluated."""
    text = " ".join(str(error).split()) or "no further explanation"
    # Errors written for the user speak for themselves; of a fault of the program the kind is half the message.
    ours = type(error).__module__.startswith(("kdc_", "builtins")) and not isinstance(error, (KeyError, TypeError))
    return {**_empty(job), "status": FAILED, "error": text if ours else f"{type(error).__name__}: {text}"}


def _empty(job: ReplayJob) -> Row:
    row: Row = dict.fromkeys(COLUMNS)
    return {**row, "bag": job.bag.name, "folder": job.folder.name, "notes": []}


def _scores(folder: Path) -> Row:
    path = folder / METRICS_NAME
    if not path.is_file():
        return {}
    metrics = json.loads(path.read_text(encoding="utf-8"))
    tracking = metrics["tracking"] or {}
    scores = {
        "keypoint_ap": _annotated(metrics["keypoints"]["AP"]),
        "mask_ap": _annotated(metrics["segm"]["AP"]),
        **{name: tracking.get(name) for name in ("hota", "idf1", "mota", "id_switches")},
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in scores.items()}


def _annotated(score: float) -> float | None:
    """COCO's -1 says that nothing is annotated."""
    return None if score == -1 else score


def run_here(jobs: Sequence[ReplayJob], processes: int, done: Callable[[Row], None]) -> list[Row]:
    """Evaluate bags on this machine, so many at a time. Rows in the order of the jobs; `done` hears of each at once.

    One at a time, they are evaluated in this very process.
    """
    rows: dict[int, Row] = {}
    if processes == 1:
        for number, job in enumerate(jobs):
            rows[number] = run_job(job)
            done(rows[number])
        return list(rows.values())
    try:
        _run_pool(dict(enumerate(jobs)), min(processes, len(jobs)), rows, done)
    except BrokenProcessPool:
        # A process died, and took the pool with it. One bag after the other shows which one it was.
        while left := {number: job for number, job in enumerate(jobs) if number not in rows}:
            try:
                _run_pool(left, 1, rows, done)
            except BrokenProcessPool:
                culprit = min(number for number in left if number not in rows)
                died = RuntimeError("the process that evaluated it died (out of memory?)")
                rows[culprit] = failed(jobs[culprit], died)
                done(rows[culprit])
    return [rows[number] for number in range(len(jobs))]


def _run_pool(jobs: dict[int, ReplayJob], processes: int, rows: dict[int, Row], done: Callable[[Row], None]) -> None:
    # Forking a process that has used OpenCV or ONNX Runtime can hang it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as pool:
        futures = {pool.submit(run_job, job): number for number, job in jobs.items()}
        try:
            _collect(futures, rows, done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _collect(futures: dict[Future[Row], int], rows: dict[int, Row], done: Callable[[Row], None]) -> None:
    broken: BrokenProcessPool | None = None
    for future in as_completed(futures):
        try:
            row = future.result()
        except BrokenProcessPool as error:
            broken = error  # others may have been finished before
            continue
        rows[futures[future]] = row
        done(row)
    if broken is not None:
        raise broken


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def run_on_dask(jobs: Sequence[ReplayJob], address: str, done: Callable[[Row], None]) -> list[Row]:
    """Evaluate bags on the workers of a Dask cluster, as `run_here` does.

    The workers need kdc, and must see bags, model and results under the same paths. Raises OSError where no scheduler
    answers at the address.
    """
    from distributed import Client
    from distributed import as_completed as dask_as_completed

    rows: dict[int, Row] = {}
    with Client(address, set_as_default=False) as client:
        futures = {
            client.submit(run_job, job, key=f"kdc-replay-{number}-{job.folder}", pure=False): number
            for number, job in enumerate(jobs)
        }
        for future in dask_as_completed(list(futures), loop=client.loop):
            number = futures[future]
            error = future.exception()
            # Only a worker that died raises here.
            rows[number] = future.result() if error is None else failed(jobs[number], error)
            done(rows[number])
    return [rows[number] for number in range(len(jobs))]


def write_summary(folder: Path, rows: Sequence[Row]) -> None:
    """summary.json and summary.csv: a row for each bag."""
    write_json(folder / f"{SUMMARY_NAME}.json", list(rows))
    with (folder / f"{SUMMARY_NAME}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary_table(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal; columns that nobody filled are left out, errors follow below."""
    columns = [c for c in COLUMNS if c not in ("folder", "error") and any(row[c] is not None for row in rows)]
    cells = [columns, *([_cell(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells]
    lines += [f"{row['bag']}: {row['error']}" for row in rows if row["error"]]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
