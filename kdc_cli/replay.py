"""`kdc replay`: recorded bags through the pipeline and the tracker, without ROS."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc_cli.arguments import fraction, positive
from kdc_cli.replay_jobs import jobs_of

if TYPE_CHECKING:
    from kdc_replay.batch import Row
    from kdc_replay.runner import ReplayJob

# Longer than any recording; still a number of nanoseconds.
_LONGEST_S = 1e10

_DESCRIPTION = """\
Evaluate ROS 2 bags without ROS: MCAP or SQLite, compressed or not, one file or several, Image or
CompressedImage. Every frame is looked at once, and the same bag always gives the same bytes, whatever the
machine is doing besides.
The folder of a run receives
  run.json          what was run on what, and how it went
  frames.jsonl      the people of every frame: track id, state, score, box, keypoints, mask
  predictions.json  the same as COCO's result files have it, with track ids
  results/          a bag of kdc's messages with the input's headers: play or open it beside the original
  annotated.mp4     the frames with the people drawn over them
  report.html       one page that says how it went, with the frames worth a look
  metrics.json      scores, where there are annotations
An interrupted run goes on where it stopped when the same command is given again."""

_EPILOG = """\
example:
  kdc replay recording/ --out run
  kdc replay walk.mcap --topic /camera/image_raw --annotations walk.json --start 10 --duration 30 --out run
  kdc replay monday/ tuesday/ wednesday/ --jobs 4 --out week     a folder for each, and a summary

Annotations are COCO's person keypoints and masks; an image names its frame by "stamp_ns" (the header's
stamp) or by "frame_index" (from 0), an annotation its person by "track_id". For several bags, --annotations
is a folder of files called like the bags. More in docs/replay.md.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay",
        help="evaluate recorded bags: people, tracks, scores, a report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="a bag's folder, or its .mcap or .db3 file")
    parser.add_argument("--topic", help="the images' topic (default: the only one there is)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the run, or of the runs of several bags (default: replay_BAG, or replay)",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE.json",
        help="what is to be seen, to score against; for several bags a folder with BAG.json for each that has one",
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew where a run is there already")
    _add_selection(parser)
    _add_pipeline(parser)
    parser.add_argument("--no-results", action="store_true", help="write no bag of results")
    parser.add_argument("--no-video", action="store_true", help="write no annotated video")
    parser.add_argument("--no-report", action="store_true", help="write no report")
    _add_node(parser)
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="so many bags at a time, a process for each"
    )
    parser.add_argument(
        "--dask",
        type=_scheduler,
        metavar="ADDRESS",
        help="evaluate on the workers of this Dask scheduler (tcp://host:8786), which see the same files",
    )
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which frames")
    group.add_argument(
        "--start",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="leave out the first seconds (of the topic, by the times of recording)",
    )
    group.add_argument("--duration", type=_seconds, metavar="S", help="only so many seconds")
    group.add_argument("--every", type=positive, default=1, metavar="N", help="only each N-th of these frames")


def _add_pipeline(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how")
    group.add_argument(
        "--model",
        type=Path,
        metavar="FILE.onnx",
        help="the network (default: the environment variable KDC_MODEL, else the one that comes with kdc)",
    )
    group.add_argument(
        "--backend",
        default="onnxruntime",
        metavar="NAME",
        help="inference runtime (default: %(default)s; another one, or a GPU, may round differently)",
    )
    group.add_argument(
        "--long-side",
        type=positive,
        metavar="PX",
        help="scale pictures to so many pixels on their longer side (default: the model's own)",
    )
    group.add_argument(
        "--person-threshold", type=fraction, metavar="0..1", help="leave out people with a lower score (default: 0.15)"
    )
    group.add_argument(
        "--keypoint-threshold", type=fraction, metavar="0..1", help="keypoints below count as not found (default: 0)"
    )
    group.add_argument("--max-people", type=positive, metavar="N", help="at most so many in a frame (default: 100)")
    group.add_argument("--no-masks", action="store_true", help="make no masks: poses only")


def _add_node(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the live node (needs ROS 2)")
    group.add_argument(
        "--node",
        action="store_true",
        help="then play the same frames to the real node over DDS, and compare its answers",
    )
    group.add_argument(
        "--rate",
        type=_rate,
        metavar="X",
        help="so many times as fast as recorded, or 'max': as fast as the node answers (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate. Returns 1 where a bag failed. Raises BagError, RunFolderError, ModelLoadError and others."""
    from kdc_cli.errors import CommandError

    if args.duration == 0:
        raise CommandError("--duration must be above 0")
    if args.rate is not None and not args.node:
        raise CommandError("--rate is the rate at which --node plays: give both")
    if len(args.bags) == 1 and args.dask is None:
        job = jobs_of(args)[0]
        code = _run_one(job)
        if args.node and code == 0:
            _through_node(job, args.rate or 1.0)
        return code
    if args.node:
        raise CommandError("--node plays one bag at a time")
    return _run_batch(args)


def _run_one(job: ReplayJob) -> int:
    from kdc_replay.batch import FAILED, result_row
    from kdc_replay.runner import replay

    info = replay(job, progress=True)
    row = result_row(job, info)
    print(f"{job.bag.name}: {row['frames']} frames of {info['topic']}, {row['people']} people, {row['tracks']} tracks")
    _print_scores(row, "annotations" in info)
    _print_problems(row)
    print(f"run: {job.folder}")
    return 1 if row["status"] == FAILED else 0


def _through_node(job: ReplayJob, rate: float) -> None:
    from kdc_cli.errors import CommandError
    from kdc_replay.outputs import write_report_of

    try:
        importlib.import_module("rclpy")
        importlib.import_module("kdc.msg")
    except ImportError as error:
        raise CommandError(
            f"--node needs ROS 2 and the built package ({error}): run `make setup` in the repository's folder and give "
            "the command after scripts/in_env.sh, or source the workspace that kdc was built in"
        ) from error
    from kdc_ros.replay_node import replay_through_node

    node = replay_through_node(job, None if rate == float("inf") else rate, progress=True)
    if job.outputs.report:
        write_report_of(job.folder, job.bag)
    latency, same = node["latency_ms"], node["comparison"]
    print(f"node: {node['frames_answered']} of {node['frames_published']} frames answered")
    if node["frames_answered"]:
        print(f"latency: median {latency['p50']:.0f} ms, 95 % {latency['p95']:.0f} ms, longest {latency['max']:.0f} ms")
        print(
            f"as offline: the same people in {same['frames_same_people']} of {same['frames']} frames, "
            f"{same['id_mismatches']} ids that differ beyond renaming"
        )
    for note in node["notes"]:
        print(f"kdc replay: {note}", file=sys.stderr)


def _run_batch(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from kdc_replay.batch import FAILED, run_here, run_on_dask, summary_table, write_summary

    jobs = jobs_of(args)
    out = jobs[0].folder.parent
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(jobs), unit="bag", disable=None) as bar:

        def done(row: Row) -> None:
            bar.update()
            if row["error"]:
                bar.write(f"kdc replay: {row['bag']}: {row['error']}", file=sys.stderr)

        if args.dask is not None:
            rows = run_on_dask(jobs, args.dask, done)
        else:
            rows = run_here(jobs, args.jobs, done)
    write_summary(out, rows)
    print(summary_table(rows))
    for row in rows:
        _print_problems(row)
    print(f"summary: {out / 'summary.csv'}")
    return 1 if any(row["status"] == FAILED for row in rows) else 0


def _print_scores(row: Row, scored: bool) -> None:
    named = {
        "keypoint AP": row["keypoint_ap"],
        "mask AP": row["mask_ap"],
        "HOTA": row["hota"],
        "IDF1": row["idf1"],
        "MOTA": row["mota"],
    }
    scores = [f"{name} {value:.3f}" for name, value in named.items() if value is not None]
    if scored:
        scores += [f"{name} not annotated" for name in ("keypoint AP", "mask AP") if named[name] is None]
    if row["id_switches"] is not None:
        scores.append(f"{row['id_switches']} id switches")
    if scores:
        print(", ".join(scores))


def _print_problems(row: Row) -> None:
    for note in row["notes"]:
        print(f"kdc replay: {row['bag']}: {note}", file=sys.stderr)


def _rate(text: str) -> float:
    """Times as fast as recorded; infinity for 'max'."""
    if text == "max":
        return float("inf")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, or max, got '{text}'")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 to {_LONGEST_S:.0e}, got '{text}'")
    return value


def _scheduler(text: str) -> str:
    """A scheduler's address; Dask's own error about one without a port comes as a traceback, a minute later."""
    found = re.fullmatch(r"([a-z]+://)?[^/\s]+:(\d{1,5})", text, re.ASCII)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise argparse.ArgumentTypeError(f"must be the scheduler's host and port, like tcp://host:8786, got '{text}'")
    return text
