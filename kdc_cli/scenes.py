"""`kdc scenes`: made pictures with exact annotations, for a quick start without any download."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kdc_cli.arguments import positive, size_hw
from kdc_cli.errors import CommandError

_DESCRIPTION = """\
Draw articulated figures that overlap and are cut off, with their exact keypoints and masks in COCO's format:
to try training, evaluation and export without a data set. No substitute for photos."""

_EPILOG = """\
example:
  kdc scenes --out runs/scenes/train --count 400
  kdc scenes --out runs/scenes/val --count 50 --seed 1
  kdc train --config configs/scenes.yaml --out runs/figures
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "scenes", help="make pictures with exact annotations to try training with",
        description=_DESCRIPTION, epilog=_EPILOG,
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets annotations.json and images/")
    parser.add_argument("--count", type=positive, default=200, metavar="N", help="pictures (default: %(default)s)")
    parser.add_argument(
        "--size", type=size_hw, default=(240, 320), metavar="HEIGHTxWIDTH", help="of each (default: 240x320)"
    )
    parser.add_argument("--people", type=positive, default=4, metavar="N", help="at most (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed, other scenes (default: %(default)s)"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Draw. Raises CommandError, OSError."""
    from kdc_model.data.scenes import write_dataset

    if (args.out / "annotations.json").exists():
        raise CommandError(f"{args.out / 'annotations.json'} exists already: choose another folder, or remove it")
    if min(args.size) < 32 or max(args.size) > 4096:
        raise CommandError("--size must be within 32x32 and 4096x4096")
    if args.seed < 0:
        raise CommandError("--seed must not be negative")
    height, width = args.size
    path = write_dataset(args.out, args.count, height, width, (0, args.people), args.seed)
    print(f"{args.count} pictures of {height} x {width} px (height x width): {path}")
