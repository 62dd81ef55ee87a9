"""`kdc export`: a training checkpoint in, an ONNX file out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kdc_cli.arguments import positive

_DESCRIPTION = """\
Turn a checkpoint of `kdc train` into an ONNX file, which needs no PyTorch to run. The file carries everything
the runtime must know (input size, keypoints, normalisation), and is only written once ONNX Runtime computes
with it what PyTorch does. Needs PyTorch: pip install -e '.[train]'"""

_EPILOG = """\
example:
  kdc export --checkpoint runs/first/last.pt --out model.onnx
  kdc predict photo.jpg --out result --model model.onnx
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export", help="turn a checkpoint into an ONNX file", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FILE.pt", help="last.pt of a run")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.onnx", help="the file to write")
    parser.add_argument(
        "--long-side",
        type=positive,
        metavar="PX",
        help="the size, in pixels on the longer side, at which the model is meant to see pictures "
        "(default: the configuration's)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Export. Raises FileNotFoundError, CheckpointError, ParityError."""
    if not args.checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint at {args.checkpoint}")
    from kdc_model.export import export_onnx

    spec = export_onnx(args.checkpoint, args.out, long_side=args.long_side)
    size_mb = args.out.stat().st_size / 1e6
    print(f"wrote {args.out}: {size_mb:.1f} MB, as PyTorch computes; pictures at {max(spec.input_hw)} px")
    return 0
