"""`kdc parity`: do two runtimes, or two precisions, see the same people?"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc_cli.arguments import positive
from kdc_cli.errors import CommandError
from kdc_cli.gate import Gate, add_gate_arguments, limits_of, network_inputs, pictures_in, table

if TYPE_CHECKING:
    from kdc_core.backends.base import Backend

_DESCRIPTION = """\
Compare the people that runtimes and precisions find in the same pictures: poses (OKS), masks (IoU),
people missed and people added, and COCO's AP where the pictures are annotated. Everything is compared with
the first backend named. The exit code is 1 where a difference is larger than allowed.

A backend is onnxruntime, tensorrt or torch, with a precision after a colon where it is not fp32
(tensorrt:fp16). onnxruntime:fp16 and onnxruntime:int8 are the model converted as for TensorRT, computed by
ONNX Runtime: what that precision does to people, without a GPU."""

_EPILOG = """\
example:
  kdc parity --model model.onnx --backends onnxruntime,tensorrt:fp16,torch --images photos/
"""

# Calibration pictures of int8 are every second one; the comparison uses the others.
_CALIBRATION_STEP = 2


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "parity", help="compare runtimes and precisions by people", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--model", required=True, type=Path, metavar="FILE.onnx", help="the network")
    parser.add_argument(
        "--backends", required=True, metavar="A,B,...", help="what to compare, the reference first: NAME[:PRECISION]"
    )
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="the folder of the pictures")
    parser.add_argument("--precision", metavar="P", help="precision of the backends that name none, but the first")
    parser.add_argument("--long-side", type=positive, metavar="PX", help="as for `kdc predict`")
    parser.add_argument("--engine-dir", type=Path, metavar="DIR", help="folder of TensorRT's engines")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write the comparison there too")
    add_gate_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Compare. Raises CommandError, ModelLoadError, InferenceError, AnnotationError, FileNotFoundError."""
    sides = _sides(args.backends, args.precision)
    pictures = pictures_in(args.images)[: args.limit]
    calibration: list[Path] = []
    if ("onnxruntime", "int8") in sides:
        calibration, pictures = pictures[::_CALIBRATION_STEP], pictures[1::_CALIBRATION_STEP]
    gate = Gate(pictures, args.annotations, args.long_side)
    with contextlib.ExitStack() as stack:
        loaded = [_load(args, name, precision, calibration, stack) for name, precision in sides]
        names = [f"{name}:{precision}" for name, precision in sides]
        results = gate.compare(loaded[0], dict(zip(names[1:], loaded[1:])))
    print(f"against {loaded[0].name}, {len(pictures)} pictures")
    print(table(results))
    limits = {f"{name}:{precision}": limits_of(args, precision) for name, precision in sides}
    if args.json:
        record = {name: parity.record(limits[name], reference=names[0]) for name, parity in results.items()}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    failures = [f"{name}: {text}" for name, parity in results.items() for text in parity.failures(limits[name])]
    for failure in failures:
        print(failure)
    return 1 if failures else 0


def _sides(text: str, default_precision: str | None) -> list[tuple[str, str]]:
    """(backend, precision) of each side, the reference first. Raises CommandError."""
    from kdc_core.backends.base import BACKENDS, PRECISIONS

    sides = []
    for index, entry in enumerate(part.strip() for part in text.split(",")):
        name, _, precision = entry.partition(":")
        precision = precision or (default_precision if index and default_precision else "fp32")
        if name not in BACKENDS or name == "auto":
            raise CommandError(f"unknown backend '{name}': choose among {', '.join(BACKENDS[1:])}")
        if precision not in PRECISIONS:
            raise CommandError(f"unknown precision '{precision}': choose among {', '.join(PRECISIONS)}")
        sides.append((name, precision))
    if len(sides) < 2:
        raise CommandError("name at least two backends, as in --backends onnxruntime,tensorrt:fp16")
    if len(set(sides)) < len(sides):
        raise CommandError("every backend and precision only once: the comparison of one with itself says nothing")
    return sides


def _load(
    args: argparse.Namespace, name: str, precision: str, calibration: list[Path], stack: contextlib.ExitStack
) -> Backend:
    """One side, closed with the stack."""
    from kdc_core.backends.base import load_backend
    from kdc_core.backends.onnx_runtime import read_spec
    from kdc_core.backends.tensorrt.manager import typed_twin

    if name == "onnxruntime" and precision != "fp32":
        inputs = network_inputs(calibration, read_spec(args.model), args.long_side)
        model, _ = stack.enter_context(typed_twin(args.model, precision, inputs))
        backend = load_backend(model, name)
    else:
        asked = "auto" if name == "onnxruntime" else precision
        backend = load_backend(
            args.model, name, precision=asked, long_side=args.long_side, engine_dir=args.engine_dir
        )
    stack.callback(backend.close)
    return backend
