"""`kdc export`: a training checkpoint in, an ONNX file out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kdc_cli.arguments import positive, refuse_to_replace, size_hw
from kdc_cli.errors import CommandError

_DESCRIPTION = """\
Turn a checkpoint of `kdc train` into an ONNX file, which needs no PyTorch to run. The file carries everything
the runtime must know (input size, keypoints, normalisation), and is only written once ONNX Runtime computes
with it what PyTorch does; with --images it must also see the same people in them. The model takes pictures of
any shape unless --fixed-size names one input size. Needs PyTorch: pip install -e '.[train]'"""

_EPILOG = """\
example:
  kdc export --checkpoint runs/first/last.pt --out model.onnx
  kdc predict photo.jpg --out result --model model.onnx
  kdc export --checkpoint last.pt --out camera.onnx --fixed-size 416x544 --torch --images photos/
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export", help="turn a checkpoint into an ONNX file", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument(
        "--checkpoint", required=True, nargs="+", type=Path, metavar="FILE.pt",
        help="last.pt of a run; of several, the mean of their weights",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.onnx", help="the file to write")
    parser.add_argument(
        "--long-side",
        type=positive,
        metavar="PX",
        help="the size, in pixels on the longer side, at which the model is meant to see pictures "
        "(default: the configuration's)",
    )
    parser.add_argument(
        "--fixed-size", type=size_hw, metavar="HxW", help="make a model for this input size alone (multiples of 32)"
    )
    parser.add_argument(
        "--torch", action="store_true", help="write FILE.pt2 as well, torch's exported program for the backend 'torch'"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="pictures of people, on which the file is compared with PyTorch too"
    )
    parser.add_argument(
        "--limit", type=positive, default=20, metavar="N", help="the first N of these pictures (default: %(default)s)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Export. Raises FileNotFoundError, CheckpointError, ModelSpecError, ParityError, CommandError."""
    for checkpoint in args.checkpoint:
        if not checkpoint.is_file():
            raise FileNotFoundError(f"no checkpoint at {checkpoint}")
    refuse_to_replace([args.out], args.checkpoint)
    if args.out.suffix != ".onnx":
        raise CommandError(f"--out must end in .onnx, got {args.out}")
    if args.fixed_size and args.long_side:
        raise CommandError("--fixed-size says the size already: leave --long-side out")
    from kdc_cli.gate import pictures_in
    from kdc_core.images import read_rgb
    from kdc_model.export import export_onnx

    pictures = [read_rgb(p) for p in pictures_in(args.images)[: args.limit]] if args.images else None
    spec = export_onnx(
        args.checkpoint,
        args.out,
        long_side=args.long_side,
        fixed_hw=args.fixed_size,
        torch_program=args.torch,
        pictures=pictures,
    )
    size_mb = args.out.stat().st_size / 1e6
    height, width = spec.input_hw
    sizes = f"{max(spec.input_hw)} px" if spec.dynamic_input else f"{height} x {width} px (height x width) alone"
    print(f"wrote {args.out}: {size_mb:.1f} MB, as PyTorch computes; pictures at {sizes}")
    return 0
