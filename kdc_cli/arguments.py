"""Arguments that several commands share, and the pipeline that they describe."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdc_core.pipeline import Pipeline, PipelineOptions

# More make nothing faster, and so many that the machine stands still are easily typed.
_MOST_THREADS = 256


def fraction(text: str) -> float:
    """A number within 0..1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got '{text}'")
    return value


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got '{text}'")
    return int(text)


def thread_count(text: str) -> int:
    """A whole number of threads."""
    if (count := positive(text)) > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be {_MOST_THREADS} at most, got {count}")
    return count


def refuse_to_replace(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises CommandError where a result would take the place of what it is made from, or of another result."""
    from kdc_cli.errors import CommandError

    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in taken:
            raise CommandError(f"--out must be another file than {path}")
        taken.add(path.resolve())


def size_hw(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH, as (height, width)."""
    height, _, width = text.lower().partition("x")
    if not (height.isascii() and width.isascii() and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"a size is written HEIGHTxWIDTH, like 416x544, got '{text}'")
    return int(height), int(width)


def load_pipeline(args: argparse.Namespace, options: PipelineOptions) -> Pipeline:
    """The pipeline of the arguments of `add_model_arguments`. Raises ModelLoadError, CommandError."""
    from kdc_cli.errors import CommandError
    from kdc_core.model_path import default_model_path
    from kdc_core.pipeline import Pipeline

    try:
        return Pipeline.load(
            args.model or default_model_path(),
            backend=args.backend,
            precision=args.precision,
            options=options,
            threads=args.threads,
            long_side=args.long_side,
            flip=getattr(args, "flip", False),
        )
    except ValueError as error:  # a long side that this model cannot have
        raise CommandError(str(error)) from error


def add_flip_argument(parser: argparse.ArgumentParser) -> None:
    """`--flip`."""
    parser.add_argument(
        "--flip",
        action="store_true",
        help="look at each picture's mirror image too: surer, and twice as slow",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--long-side`, `--threads`, `--backend` and `--precision`."""
    add_network_arguments(parser)
    parser.add_argument(
        "--backend",
        choices=("auto", "onnxruntime", "tensorrt", "torch"),
        default="auto",
        help="inference runtime (default: %(default)s, the first that works here)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "fp16", "int8"),
        default="auto",
        help="number format of the runtime (default: %(default)s, the file's, or the fastest checked TensorRT engine)",
    )


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--long-side` and `--threads`."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE.onnx",
        help="the network (default: the environment variable KDC_MODEL, else the one that comes with kdc)",
    )
    parser.add_argument(
        "--long-side",
        type=positive,
        metavar="PX",
        help="scale pictures to so many pixels on their longer side (default: the model's own; less is "
        "faster, more finds smaller people)",
    )
    parser.add_argument(
        "--threads",
        type=thread_count,
        default=0,
        metavar="N",
        help="CPU threads to use (default: the runtime's choice)",
    )


def add_overrides(parser: argparse.ArgumentParser, configuration: str) -> None:
    """Declare --set KEY=VALUE (`args.overrides`), which replaces values of a training configuration."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help=f"replace a value of the {configuration}, written as in YAML; may be repeated",
    )
