"""`kdc build-engine`: a TensorRT engine into the cache, ahead of the node's first start."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc_cli.arguments import positive, size_hw
from kdc_cli.errors import CommandError
from kdc_cli.gate import Gate, add_gate_arguments, limits_of, network_inputs, pictures_in, table

if TYPE_CHECKING:
    from kdc_core.backends.base import Backend
    from kdc_core.backends.tensorrt.cuda import Gpu
    from kdc_core.backends.tensorrt.library import TensorRT
    from kdc_core.backends.tensorrt.manager import AccuracyCheck, Candidate

_DESCRIPTION = """\
Build a TensorRT engine of a model and keep it where the node and `kdc` look for it. Without this, the node
builds an fp32 engine at its first start. With --images the engine's people are compared with the model's
own, and it is only kept if they agree (see `kdc parity`); int8 always needs pictures: every second one to
calibrate, the others to measure. Where the engine cannot run here, ONNX Runtime computes in its precision
instead, and the side file says so."""

_EPILOG = """\
example:
  kdc build-engine --model model.onnx --precision fp16 --images photos/
  kdc build-engine --model model.onnx --compute-capability SM89        (for another machine; TensorRT for RTX)

With backend tensorrt and precision auto, the fastest engine that passed its check is taken.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "build-engine", help="build a TensorRT engine ahead of time", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--model", required=True, type=Path, metavar="FILE.onnx", help="the network")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="default: %(default)s")
    parser.add_argument(
        "--compute-capability", metavar="SMxx", help="of the GPU that will run it (default: this machine's)"
    )
    parser.add_argument(
        "--size",
        type=size_hw,
        action="append",
        default=[],
        metavar="HxW",
        help="a size of the network's input to build for, may be repeated, the commonest first (default: whatever "
        "pictures of any shape need)",
    )
    parser.add_argument("--long-side", type=positive, metavar="PX", help="as the node's parameter long_side")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the engines (default: ~/.cache/kdc/engines)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures of people to check the engine on")
    parser.add_argument("--force", action="store_true", help="build even if the cache has the engine")
    add_gate_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Build. Raises CommandError, ModelLoadError and its kinds, FileNotFoundError, UnreadableImageError."""
    from kdc_core.backends.onnx_runtime import read_spec
    from kdc_core.backends.tensorrt.cache import EngineCache
    from kdc_core.backends.tensorrt.keys import ShapeProfile
    from kdc_core.backends.tensorrt.library import load_tensorrt
    from kdc_core.backends.tensorrt.manager import EngineManager

    if not args.model.is_file():
        raise FileNotFoundError(f"no model at {args.model}")
    if args.precision == "int8" and args.images is None:
        raise CommandError("--precision int8 needs --images: pictures to calibrate on and to measure the loss on")
    trt = load_tensorrt()
    manager = EngineManager(trt, EngineCache(args.out))
    spec = read_spec(args.model)
    pictures = pictures_in(args.images)[: args.limit] if args.images else []
    calibration: list[Path] = []
    if args.precision == "int8":
        calibration, pictures = pictures[::2], pictures[1::2]
        if not pictures:
            raise CommandError(f"{args.images}: int8 takes two pictures at least, to calibrate on and to check with")
    try:
        profile = ShapeProfile.of(spec, args.long_side, tuple(args.size))
        key = manager.key(args.model, args.precision, profile, _target(trt, args.compute_capability))
        with _ended_by_ctrl_c():
            stored = manager.ensure(
                args.model,
                spec,
                key,
                calibration=network_inputs(calibration, spec, args.long_side) if calibration else None,
                check=_check(args, trt, Gate(pictures, args.annotations, args.long_side)) if pictures else None,
                rebuild=args.force,
            )
    except ValueError as error:  # sizes, capability
        raise CommandError(str(error)) from error
    print(f"{stored.path}: {len(stored.data) / 1e6:.1f} MB, {_accuracy_line(stored.side.get('accuracy'))}")
    return 0


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Python hears of a signal when TensorRT returns, minutes later: meanwhile it ends the process. Engines are written
    whole or not at all, and the cache's lock goes with the process."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not of a job that is to hear nothing of it
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _target(trt: TensorRT, capability: str | None) -> Gpu:
    """The GPU to build for. Raises CommandError where it is neither here nor named."""
    from kdc_core.backends.base import BackendUnavailable
    from kdc_core.backends.tensorrt.cuda import CudaRuntime, Gpu

    try:
        here = CudaRuntime().gpu()
    except BackendUnavailable as error:
        if capability is None:
            raise CommandError(f"{error}. To build for another machine, name --compute-capability") from error
        here = Gpu("", "")
    if capability in (None, here.capability):
        return here
    if not trt.builds_for_other_gpus:
        raise CommandError(
            f"{trt.flavour} {trt.version} builds for the GPU of this machine only"
            f"{f' ({here.capability})' if here.capability else ''}: run this on the machine with {capability}"
        )
    assert capability is not None
    return Gpu("", capability)


def _check(args: argparse.Namespace, trt: TensorRT, gate: Gate) -> AccuracyCheck:
    """Measures an engine against the model in ONNX Runtime: the engine itself where it runs here, else its twin."""

    def check(candidate: Candidate) -> dict[str, Any] | None:
        from kdc_core.backends.onnx_runtime import OnnxRuntimeBackend

        precision = candidate.key.precision
        other, how = _runnable(trt, candidate)
        if other is None:
            print("not measured: the engine cannot run here, and in fp32 ONNX Runtime computes the very same file")
            return None
        reference = OnnxRuntimeBackend(args.model)
        try:
            parity = gate.compare(reference, {precision: other})[precision]
        finally:
            reference.close()
            other.close()
        print(f"{how}, against {reference.name}, {parity.images} pictures")
        print(table({precision: parity}))
        return parity.record(limits_of(args, precision), reference=reference.name, measured_on=how)

    return check


def _runnable(trt: TensorRT, candidate: Candidate) -> tuple[Backend | None, str]:
    """What can be measured here, and in words what it is; None where nothing can."""
    from kdc_core.backends.base import BackendUnavailable
    from kdc_core.backends.onnx_runtime import OnnxRuntimeBackend
    from kdc_core.backends.tensorrt.backend import Machine, TensorRTBackend
    from kdc_core.backends.tensorrt.cuda import CudaRuntime

    try:
        machine = Machine(trt, CudaRuntime())
        if machine.cuda.gpu().capability == candidate.key.capability:
            backend = TensorRTBackend(machine, candidate.data, candidate.spec, candidate.key)
            return backend, f"the engine on {machine.cuda.gpu().name}"
    except BackendUnavailable:
        pass  # no GPU: the twin stands in
    if candidate.key.precision == "fp32":
        return None, ""
    return OnnxRuntimeBackend(candidate.twin), "the engine's ONNX twin in ONNX Runtime (the engine cannot run here)"


def _accuracy_line(record: dict[str, Any] | None) -> str:
    if record is None:
        return "accuracy not measured"
    return f"accuracy held (OKS {record['oks']:.4f}, mask IoU {record['iou']:.4f}, {record['missed']} missed)"
