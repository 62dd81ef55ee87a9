"""ONNX file -> serialised engine."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from kdc_core.backends.base import INPUT_NAME, BackendUnavailable, Progress
from kdc_core.backends.tensorrt.keys import EngineKey
from kdc_core.backends.tensorrt.library import TensorRT
from kdc_core.spec import ModelSpec


class EngineBuildError(BackendUnavailable):
    """TensorRT could not make an engine of the model: says what it said."""


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine; layers: how many of each kind compute in which type, {"CONVOLUTION": {"HALF": 48}}."""

    data: bytes
    layers: dict[str, dict[str, int]]
    build_s: float


def build_engine(
    trt: TensorRT, onnx_bytes: bytes, spec: ModelSpec, key: EngineKey, progress: Progress | None = None
) -> BuiltEngine:
    """Build an engine of an ONNX graph that has the key's precision already.

    The network is strongly typed: TensorRT computes in the types of the graph and nowhere in others, and TF32 is
    off, so that fp32 means fp32. Takes seconds to minutes; progress is told in the calling thread.
    Raises EngineBuildError.
    """
    began = time.monotonic()
    module, messages = trt.module, trt.logger()
    builder = module.Builder(messages)
    if builder is None:
        raise EngineBuildError(f"{trt.flavour} {trt.version} did not start: {_last(messages)}")
    flag = module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = module.OnnxParser(network, messages)
    if not parser.parse(onnx_bytes):
        faults = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineBuildError(f"{trt.flavour} {trt.version} cannot parse the model: {faults or _last(messages)}")
    _check_network(module, network, spec)
    config = builder.create_builder_config()
    config.clear_flag(module.BuilderFlag.TF32)
    _set_target(trt, config, key)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, *((*hw, 3) for hw in _sizes(key)))
    if config.add_optimization_profile(profile) < 0:
        raise EngineBuildError(f"TensorRT refuses the sizes {_sizes(key)}: {_last(messages)}")
    if progress is not None:
        config.progress_monitor = _make_monitor(module, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(f"{trt.flavour} {trt.version} could not build the engine: {_last(messages)}")
    return BuiltEngine(bytes(memoryview(plan)), _layers(network), time.monotonic() - began)


def _sizes(key: EngineKey) -> tuple[tuple[int, int], ...]:
    return (key.profile.least_hw, key.profile.best_hw, key.profile.largest_hw)


def _check_network(module: Any, network: Any, spec: ModelSpec) -> None:
    """The parsed network has the inputs and outputs of the spec. Raises EngineBuildError."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = {network.get_output(i).name: network.get_output(i).dtype for i in range(network.num_outputs)}
    if [(i.name, i.dtype) for i in inputs] != [(INPUT_NAME, module.DataType.UINT8)]:
        raise EngineBuildError("the model's input is not a uint8 'image'; export it again with `kdc export`")
    wrong = [name for name in spec.output_names if outputs.get(name) != module.DataType.FLOAT]
    if wrong:
        raise EngineBuildError(f"the model lacks the float32 outputs {wrong}; export it again with `kdc export`")


def _set_target(trt: TensorRT, config: Any, key: EngineKey) -> None:
    """Name the compute capability, where this TensorRT can build for one that is not at hand."""
    if not trt.builds_for_other_gpus:
        return
    known = trt.module.ComputeCapability.__members__
    if key.capability not in known:
        names = ", ".join(name for name in known if name.startswith("SM"))
        raise EngineBuildError(f"{trt.flavour} {trt.version} builds for {names}, not for {key.capability}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[key.capability], 0)


def _layers(network: Any) -> dict[str, dict[str, int]]:
    """Kinds of layers by the type of their result; in a strongly typed network these are what is computed."""
    counts: dict[str, Counter[str]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            counts.setdefault(layer.type.name, Counter())[layer.get_output(0).dtype.name] += 1
    return {kind: dict(types) for kind, types in sorted(counts.items())}


def _last(messages: Any) -> str:
    return messages.errors[-1] if messages.errors else "it gave no reason"


def _make_monitor(module: Any, progress: Progress) -> Any:
    """TensorRT's nested phases as one share of the work, which only rises."""

    class Monitor(module.IProgressMonitor):
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._phases: list[list[Any]] = []  # name, steps, steps done; outermost first
            self._told = -1.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._phases.append([phase, max(1, steps), 0])
            self._tell()

        def phase_finish(self, phase: str) -> None:
            self._phases = [p for p in self._phases if p[0] != phase]

        def step_complete(self, phase: str, step: int) -> bool:
            for entry in self._phases:
                if entry[0] == phase:
                    entry[2] = step + 1
            self._tell()
            return True

        def _tell(self) -> None:
            share, width = 0.0, 1.0
            for _, steps, done in self._phases:
                width /= steps
                share += width * min(done, steps)
            share = min(share, 1.0)
            if share >= self._told + 0.01:
                self._told = share
                progress(self._phases[-1][0] if self._phases else "", share)

    return Monitor()
