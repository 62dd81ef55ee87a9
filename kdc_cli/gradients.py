"""`kdc gradients`: which loss terms move the network, and how much of that is noise."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from kdc_cli.arguments import add_overrides, positive, refuse_to_replace
from kdc_cli.errors import CommandError

_DESCRIPTION = """\
Measure the gradient of each loss term over batches of a run's own training pictures, in each part of the
network: its noise from batch to batch, and its share of the noise of all terms. Adam divides every step by
signal and noise together, so a term with most of the noise slows what the others could learn: its weight is
too high, or its batches too small. Compare settings at equal cost with --set. Needs PyTorch:
pip install -e '.[train]'"""

_EPILOG = """\
example:
  kdc gradients --checkpoint runs/first/last.pt
  kdc gradients --checkpoint runs/first/last.pt --set input_size=320 --set batch_size=16
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "gradients", help="which loss terms move the network, and their noise", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FILE.pt", help="last.pt of a run")
    parser.add_argument(
        "--batches", type=positive, default=32, metavar="N", help="batches to measure (default: %(default)s)"
    )
    add_overrides(parser, "checkpoint's configuration")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures as well")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda ... (default: a GPU where there is one)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure. Raises FileNotFoundError, CheckpointError, ConfigError, AnnotationError, CommandError."""
    from kdc_cli.train import overridden
    from kdc_model import distributed
    from kdc_model.checkpoint import network_from_checkpoint
    from kdc_model.gradient_noise import measure, table, training_batches
    from kdc_model.train import freeze_stages

    if args.batches < 2:
        raise CommandError("the noise of a gradient takes two batches at least: --batches 2")
    refuse_to_replace(filter(None, [args.out]), [args.checkpoint])
    network, trained, _ = network_from_checkpoint(args.checkpoint)
    config = overridden(trained, args.overrides)
    if config.network() != trained.network():
        raise CommandError("--set cannot change the checkpoint's network, only how its pictures and losses are made")
    freeze_stages(network, config)
    network.to(distributed.local_device(args.device))
    report = measure(network, training_batches(config, args.batches), config)
    print(table(report))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(dataclasses.asdict(report), indent=1))
