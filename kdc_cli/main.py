"""The command `kdc`: arguments, help, errors.

A new subcommand is a module with `add_parser(subparsers)` and `run(args) -> int | None`, listed in COMMANDS.
Its heavy imports (numpy, OpenCV, ONNX Runtime, torch) belong into `run`, so that `kdc --help` is quick
everywhere.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from kdc_cli import (
    ablate,
    bench,
    boxes,
    build_engine,
    compare,
    evaluate,
    export,
    gradients,
    masks,
    parity,
    poses,
    predict,
    record_demo,
    replay,
    scenes,
    train,
)
from kdc_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, message_of

COMMANDS = (
    predict, replay, compare, record_demo, train, evaluate, ablate, gradients, scenes, boxes, masks, poses, export,
    parity, build_engine, bench,
)  # fmt: skip

_DESCRIPTION = """\
See people in pictures: 17 keypoints and an instance mask for everybody, from one network."""

_EPILOG = """\
start here:
  kdc predict photo.jpg --out result      find the people in a picture and draw them
  kdc COMMAND --help                      what a command does, with an example
"""


class _Version(argparse.Action):
    """`--version`, which only then imports the package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from kdc_core import __version__

        print(f"kdc {__version__}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="kdc",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for module in COMMANDS:
        command = module.add_parser(subparsers)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for a failure that was explained, 130 when interrupted."""
    args = make_parser().parse_args(argv)
    # Our own progress, but only the warnings of the libraries.
    logging.basicConfig(format="%(message)s")
    for package in ("kdc_core", "kdc_model"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        message = None if args.debug else message_of(error, args.command)
        if message is None:
            raise
        print(f"kdc {args.command}: {message}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
