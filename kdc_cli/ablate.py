"""`kdc ablate`: what each part of decoding and training is worth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Compare variants of decoding and of training, listed in one YAML file, on the same photos; training variants
with several seeds. OUT receives every run, ablation.json and ablation.md (means, ranges, changes from the
base). Interrupted, the same command goes on. Several processes or machines can share the work by seeds:
each runs --seeds of its own, and at the end the command without --seeds makes the table. Needs PyTorch:
pip install -e '.[train]'"""

_EPILOG = """\
example:
  kdc ablate --plan configs/ablations/decoding.yaml --out runs/ablation

a plan:
  config: mobile_photos.yaml            # the base, with val_annotations
  common: {epochs: 2}                   # changes of the configuration for everyone
  model: ../weights/kdc_mobile.onnx     # left out: the base is trained too
  seeds: [0, 1, 2]
  decoding:
    heatmap only: {keypoints: heatmap}
  training:
    R 8: {disk_radius_px: 8, disk_radius_range: [0, 0]}
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "ablate", help="compare variants of decoding and training", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--plan", required=True, type=Path, metavar="FILE.yaml", help="what to compare")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of all runs")
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="only these of the plan's seeds (default: all)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda ... (default: a GPU where there is one)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Compare. Raises ConfigError, CheckpointError, AnnotationError, FileNotFoundError, NonFiniteLoss."""
    if not args.plan.is_file():
        raise FileNotFoundError(f"no plan at {args.plan}")
    from kdc_model import distributed
    from kdc_model.ablation import AblationPlan, run_plan, table
    from kdc_model.host_memory import keep_freed_memory

    plan = AblationPlan.load(args.plan)
    if args.seeds:
        plan = plan.only(args.seeds)
    if distributed.local_device(args.device).type == "cpu":
        keep_freed_memory()
    print(table(run_plan(plan, args.out, args.device)))
    print(f"the table is {args.out / 'ablation.md'}")
