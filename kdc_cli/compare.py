"""`kdc compare`: what changed between two runs of `kdc replay`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Compare two runs of the same recording: another model, other thresholds, another version. Prints which
options differ, how every figure changed and which frames got worse or better, and writes to OUT
  compare.html  one page with all that, plots, and both pictures of the frames that changed most
  compare.json  the same for programs
Scored runs are compared by their scores; runs without annotations by how far they are apart from each other."""

_EPILOG = """\
example:
  kdc compare before after --out changes

where the runs were made by
  kdc replay walk/ --annotations walk.json --out before
  kdc replay walk/ --annotations walk.json --model new.onnx --out after
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "compare",
        help="what changed between two runs of `kdc replay`",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="folder of the first run")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="folder of the second run, of the same recording")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the page; made if missing (default: compare_A_B)"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Compare. Raises RunError, CompareError, OSError."""
    from kdc_replay.compare import compare_runs
    from kdc_replay.compare_page import format_comparison, write_comparison
    from kdc_replay.run_reader import load_run

    first, second = load_run(args.run_a), load_run(args.run_b)
    comparison = compare_runs(first, second)
    print(format_comparison(comparison))
    folder = args.out or Path(f"compare_{first.name}_{second.name}")
    print(f"page: {write_comparison(folder, comparison, first, second)}")
