"""ONNX Runtime: the plain CPU, or CUDA where its provider is installed and works."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnxruntime as ort

from kdc_core.backends.base import (
    INPUT_NAME,
    BackendUnavailable,
    InferenceError,
    LoadOptions,
    ModelLoadError,
    NetworkOutputs,
    checked_image,
    checked_outputs,
)
from kdc_core.spec import METADATA_KEY, ModelSpec, ModelSpecError

logger = logging.getLogger(__name__)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxRuntimeBackend:
    """A model file in an ONNX Runtime session. Raises ModelLoadError, BackendUnavailable."""

    def __init__(self, model: Path, options: LoadOptions | None = None) -> None:
        options = options or LoadOptions()
        _check(model, options)
        session = open_session(model, providers_for(options.device), options.threads)
        self.spec = spec_of(session, model)
        provider = session.get_providers()[0]
        if options.device != "cpu" and CUDA in ort.get_available_providers() and provider != CUDA:
            # ONNX Runtime goes on with the CPU without an error.
            reason = (
                "ONNX Runtime's CUDA provider did not start (a GPU, its driver, or CUDA and cuDNN in the provider's "
                f"versions are missing): take device 'cpu', or see onnxruntime.ai for what {ort.__version__} needs"
            )
            if options.device == "cuda":
                raise BackendUnavailable(reason)
            logger.warning("%s", reason)
        self._session: ort.InferenceSession | None = session
        self.name = f"onnxruntime {ort.__version__} ({provider.removesuffix('ExecutionProvider')})"

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        if self._session is None:
            raise InferenceError("the model has been closed")
        image = checked_image(image)
        names = list(self.spec.output_names)
        try:
            outputs = self._session.run(names, {INPUT_NAME: image})
        except Exception as error:  # ONNX Runtime's own exceptions have no common base but Exception.
            raise InferenceError(f"ONNX Runtime failed on an input of {image.shape}: {error}") from error
        return checked_outputs(dict(zip(names, outputs)), self.spec, image.shape[:2])

    def close(self) -> None:
        """Free the session."""
        self._session = None


def providers_for(device: str) -> list[str]:
    """Execution providers for a device ("auto", "cpu", "cuda"), preferred first. Raises BackendUnavailable."""
    has_cuda = CUDA in ort.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise BackendUnavailable(
            f"this ONNX Runtime ({ort.__version__}) has no CUDA provider: install onnxruntime-gpu instead"
        )
    return [CUDA, CPU] if has_cuda and device != "cpu" else [CPU]


def open_session(model: Path, providers: list[str], threads: int = 0) -> ort.InferenceSession:
    """A session of a model file. Raises ModelLoadError."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # as above
        raise ModelLoadError(f"{model} is not a usable ONNX model ({error}); export it again") from error


def read_spec(model: Path) -> ModelSpec:
    """The spec that a model file carries. Raises ModelLoadError."""
    return spec_of(open_session(model, [CPU], threads=1), model)


def spec_of(session: ort.InferenceSession, model: Path) -> ModelSpec:
    """The spec of an open model, checked against its inputs and outputs. Raises ModelLoadError."""
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"{model}: its metadata are damaged ({error}); export it again") from error
    if METADATA_KEY not in metadata:
        raise ModelLoadError(f"{model} carries no KDC model spec: was it exported by `kdc export`?")
    try:
        spec = ModelSpec.from_json(metadata[METADATA_KEY])
    except ModelSpecError as error:
        raise ModelLoadError(f"{model}: {error}") from error
    inputs = [(i.name, i.type) for i in session.get_inputs()]
    outputs = {o.name: o.type for o in session.get_outputs()}
    if [name for name, _ in inputs] != [INPUT_NAME] or set(spec.output_names) - set(outputs):
        raise ModelLoadError(f"{model} has other inputs or outputs than its spec says; export it again")
    wrong = [f"'{n}' is {k}" for n, k in inputs if k != "tensor(uint8)"]
    wrong += [f"'{n}' is {outputs[n]}" for n in spec.output_names if outputs[n] != "tensor(float)"]
    if wrong:
        raise ModelLoadError(f"{model} has values of another type than its spec says ({', '.join(wrong)})")
    return spec


def _check(model: Path, options: LoadOptions) -> None:
    if model.suffix == ".pt2":
        raise BackendUnavailable(f"ONNX Runtime reads .onnx files, {model.name} is torch's: take backend 'torch'")
    if options.precision in ("fp16", "int8"):
        raise BackendUnavailable(
            f"ONNX Runtime computes in the precision of the file: for {options.precision} take backend 'tensorrt'"
        )
