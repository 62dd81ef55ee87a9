"""ONNX Runtime: the plain CPU, or CUDA where its provider is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from kdc_core.backends.base import InferenceError, ModelLoadError, NetworkOutputs, checked_outputs
from kdc_core.spec import METADATA_KEY, ModelSpec, ModelSpecError

INPUT_NAME = "image"


class OnnxRuntimeBackend:
    """A model file in an ONNX Runtime session."""

    def __init__(self, model: Path, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [p for p in wanted if p in ort.get_available_providers()]
        try:
            session = ort.InferenceSession(str(model), options, providers=providers)
        # ONNX Runtime's own exceptions have no common base but Exception.
        except Exception as error:
            raise ModelLoadError(f"{model} is not a usable ONNX model ({error}); export it again") from error
        metadata = session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise ModelLoadError(f"{model} carries no KDC model spec: was it exported by `kdc export`?")
        try:
            self.spec = ModelSpec.from_json(metadata[METADATA_KEY])
        except ModelSpecError as error:
            raise ModelLoadError(f"{model}: {error}") from error
        names = [o.name for o in session.get_outputs()]
        if [i.name for i in session.get_inputs()] != [INPUT_NAME] or set(self.spec.output_names) - set(names):
            raise ModelLoadError(f"{model} has other inputs or outputs than its spec says; export it again")
        self._session: ort.InferenceSession | None = session
        self.name = f"onnxruntime {ort.__version__} ({session.get_providers()[0]})"

    def run(self, image: np.ndarray) -> NetworkOutputs:
        """Run on a letterboxed image, uint8 RGB (H', W', 3). Raises InferenceError."""
        if self._session is None:
            raise InferenceError("the model has been closed")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InferenceError(f"the network takes uint8 (H, W, 3), got {image.dtype} {image.shape}")
        names = list(self.spec.output_names)
        try:
            outputs = self._session.run(names, {INPUT_NAME: np.ascontiguousarray(image)})
        except Exception as error:  # as above
            raise InferenceError(f"ONNX Runtime failed on an input of {image.shape}: {error}") from error
        return checked_outputs(dict(zip(names, outputs)), self.spec, image.shape[:2])

    def close(self) -> None:
        """Free the session."""
        self._session = None
