"""`kdc bench`: how fast this machine is, stage by stage, and beside other people's networks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kdc_cli.arguments import add_network_arguments, positive

_DESCRIPTION = """\
Measure, and write bench.json, bench.md and bench.png into OUT. Suites:
  ceiling   multiply-adds and memory bandwidth at best, to hold the rest against
  decode    what the host does after the network, for 0 to 50 people
  pipeline  preprocessing, network, decoding, masks and run lengths, on photographs and made crowds
  startup   a fresh process until its first answer, and its memory
  node      what ROS costs around the pipeline, start and memory of the node (needs ROS and the built package)
  peers     pose and masks beside YOLO11n-pose with YOLO11n-seg, and RTMO-s (see requirements/peers.txt)
  training  a training step on the CPU by window size (needs PyTorch)
Without a suite: decode, pipeline and startup."""

_EPILOG = """\
example:
  kdc bench --out out/bench
  taskset -c 0 kdc bench decode --threads 1 --out out/decode
  OMP_NUM_THREADS=1 kdc bench peers --threads 1 --cpu-time --out out/peers
  kdc bench pipeline --images photos/ --long-side 320 --out out/bench

Times are those of this machine while other programs ran on it: compare only what one run has measured.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure speed and memory",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    suites = "ceiling, decode, pipeline, startup, node, peers, training"
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=suites)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the report; made if missing")
    add_network_arguments(parser)
    parser.add_argument(
        "--rounds", type=positive, default=30, metavar="N", help="how often to time each thing (default: %(default)s)"
    )
    parser.add_argument("--people", type=_counts, metavar="N,N", help="made crowds (default: 0,1,5,20,50)")
    parser.add_argument(
        "--source", type=_size, default=(480, 640), metavar="WxH", help="size of made pictures (default: 640x480)"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs for `pipeline` (default: free ones)")
    parser.add_argument(
        "--sizes",
        type=lambda text: tuple(_size(part) for part in text.split(",")),
        metavar="WxH,WxH",
        help="network inputs for `peers` (320x320,416x416,640x640,640x480)",
    )
    parser.add_argument(
        "--graphs", type=Path, metavar="DIR", help="where `peers` keeps the exported graphs (default: OUT/graphs)"
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU time of the thread instead of wall time, for a machine that others use too; needs --threads 1",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure. Raises BenchError, ModelLoadError, OSError."""
    from kdc_bench.machine import describe_machine
    from kdc_bench.report import markdown, write_report
    from kdc_bench.result import PEOPLE, BenchError, BenchSettings, SuiteResult
    from kdc_bench.suites import DEFAULT_SUITES, SUITES, run_suite
    from kdc_core.model_path import default_model_path

    names = list(dict.fromkeys(args.suites or DEFAULT_SUITES))
    if unknown := [name for name in names if name not in SUITES]:
        raise BenchError(f"there is no suite '{unknown[0]}': choose from {', '.join(SUITES)}")
    settings = BenchSettings(
        model=(args.model or default_model_path()).resolve(),
        threads=args.threads,
        rounds=args.rounds,
        long_side=args.long_side,
        source_hw=args.source,
        people=args.people or PEOPLE,
        images=args.images,
        cpu_time=args.cpu_time,
        graphs=args.graphs or args.out / "graphs",
        **({"sizes_hw": args.sizes} if args.sizes else {}),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    results: dict[str, SuiteResult] = {}
    try:
        for name in names:
            results[name] = run_suite(name, settings)
    finally:
        if results:  # those measured before a fault, too
            written = write_report(args.out, machine, results)
            print(markdown(machine, results))
            print("written: " + ", ".join(str(path) for path in written))
    return 0


def _counts(text: str) -> tuple[int, ...]:
    """Whole numbers, with commas between."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) <= 500 for part in parts):
        raise argparse.ArgumentTypeError(f"must be whole numbers up to 500 with commas between, got '{text}'")
    return tuple(int(part) for part in parts)


def _size(text: str) -> tuple[int, int]:
    """WxH in pixels, multiples of 32 -> (height, width)."""
    width, _, height = text.partition("x")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 and int(part) % 32 == 0 for part in (width, height)):
        raise argparse.ArgumentTypeError(f"must be a size like 640x480 in multiples of 32, got '{text}'")
    return int(height), int(width)
