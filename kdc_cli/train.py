"""`kdc train`: a configuration and pictures in, a checkpoint out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc_cli.arguments import add_overrides
from kdc_cli.errors import CommandError

if TYPE_CHECKING:
    from kdc_model.config import TrainConfig

_DESCRIPTION = """\
Train a network on COCO-format pictures. OUT receives last.pt (the checkpoint, renewed every few minutes),
log.csv (losses, images/s, the share of the time spent waiting for data), TensorBoard's events and curves.png;
with validation data also scores.csv and best.pt. Ctrl-C saves and leaves; --resume goes on from there. Needs
PyTorch: pip install -e '.[train]'"""

_EPILOG = """\
example:
  kdc train --config configs/mobile_photos.yaml --out runs/first
  kdc train --config configs/mobile_photos.yaml --out runs/first --resume
  kdc train --config configs/mobile_photos.yaml --out runs/wide --set channels=96 --set "scale_range=[0.5, 2]"

several GPUs or machines (batch_size is that of all processes together):
  torchrun --nproc_per_node=4 -m kdc_cli train --config configs/mobile_photos.yaml --out runs/first

then:
  kdc export --checkpoint runs/first/last.pt --out model.onnx
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train", help="train a network on COCO-format pictures", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE.yaml", help="the run's data, network and schedule"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the run's folder; made if missing"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last.pt in the run's folder")
    add_overrides(parser, "configuration")
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Train.

    Raises ConfigError, CheckpointError, AnnotationError, FileNotFoundError, FileExistsError, NonFiniteLoss.
    """
    config = load_config(args.config, args.overrides)
    from kdc_model import distributed
    from kdc_model.host_memory import keep_freed_memory
    from kdc_model.train import Trainer

    device = distributed.local_device(args.device)
    if device.type == "cpu":
        keep_freed_memory()
    with distributed.processes(device):
        if args.resume and distributed.rank() == 0 and not (args.out / "last.pt").exists():
            print(f"kdc train: nothing to resume in {args.out} (no last.pt): a new run starts", file=sys.stderr)
        checkpoint = Trainer(config, args.out, args.resume, args.device).run()
        if distributed.rank() > 0:
            return 0
    print(
        f"the checkpoint is {checkpoint}; use it with: kdc export --checkpoint {checkpoint} --out model.onnx"
    )
    return 0


def load_config(path: Path, overrides: list[str]) -> TrainConfig:
    """A configuration file with KEY=VALUE replacements (relative paths in these: from the current folder).

    Raises ConfigError, FileNotFoundError, CommandError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    from kdc_model.config import TrainConfig

    return overridden(TrainConfig.load(path), overrides)


def overridden(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    """The configuration with KEY=VALUE replacements. Raises ConfigError, CommandError."""
    from kdc_model.config import ConfigError, TrainConfig, parse_yaml

    if not overrides:
        return config
    data = config.to_dict()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise CommandError(f"--set takes KEY=VALUE, got '{override}'")
        try:
            data[key.strip()] = parse_yaml(text)
        except ConfigError as error:
            raise CommandError(f"--set {override}: the value is {error}") from error
    return TrainConfig.from_dict(data)
