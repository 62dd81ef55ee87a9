"""The engine for a model: from the cache where a fitting one lies there, else built, checked and stored."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdc_core.backends.base import BackendUnavailable, Progress, sha256_of
from kdc_core.backends.tensorrt.builder import BuiltEngine, EngineBuildError, build_engine
from kdc_core.backends.tensorrt.cache import EngineCache, StoredEngine
from kdc_core.backends.tensorrt.cuda import Gpu
from kdc_core.backends.tensorrt.keys import ANY_GPU, EngineKey, ShapeProfile
from kdc_core.backends.tensorrt.library import TensorRT
from kdc_core.spec import ModelSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An engine that is built but not stored yet, as the accuracy check gets it.

    twin: the ONNX file it was built from, in the engine's precision, for ONNX Runtime.
    """

    data: bytes
    key: EngineKey
    spec: ModelSpec
    twin: Path


# Measures a candidate: its record goes into the side file, None where nothing can be measured. "passed" False in it
# keeps the engine from being stored.
AccuracyCheck = Callable[[Candidate], dict[str, Any] | None]


class AccuracyRefused(EngineBuildError):
    """The engine loses more accuracy than is allowed; it was not stored. `record` holds the measurement."""

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        super().__init__(message)
        self.record = record


@dataclass(frozen=True)
class EngineManager:
    """Makes engines with one TensorRT, in one cache."""

    trt: TensorRT
    cache: EngineCache

    def key(self, model: Path, precision: str, profile: ShapeProfile, gpu: Gpu) -> EngineKey:
        """The key of a model's engine on a GPU; only the capability counts where the engine is finished there."""
        name = ANY_GPU if self.trt.builds_for_other_gpus else gpu.name
        digest = sha256_of(model)
        return EngineKey(digest, self.trt.flavour, self.trt.version, name, gpu.capability, precision, profile)

    def ensure(
        self,
        model: Path,
        spec: ModelSpec,
        key: EngineKey,
        *,
        calibration: Iterable[np.ndarray] | None = None,
        check: AccuracyCheck | None = None,
        progress: Progress | None = None,
        rebuild: bool = False,
    ) -> StoredEngine:
        """The engine of a key: from the cache, or built now (two processes never build it at once).

        calibration: letterboxed pictures, needed for int8.   check: see AccuracyCheck; int8 needs one.
        rebuild:     build even if the cache has it. One below fp32 without a passed check is built anew where
                     `check` is given: a node that was told its precision leaves such engines behind.
        Raises EngineBuildError, AccuracyRefused, BackendUnavailable.
        """

        def usable() -> StoredEngine | None:
            found = None if rebuild else self.cache.find(model, key)
            measured = found is not None and (found.accuracy_passed or key.precision == "fp32")
            return found if check is None or measured else None

        if found := usable():
            return found
        with self.cache.lock(model, key):
            # Whoever held the lock before may have built it.
            if found := usable():
                return found
            self.cache.log_relatives(model, key)
            self._build(model, spec, key, calibration, check, progress)
            stored = self.cache.find(model, key)
        if stored is None:
            raise EngineBuildError(f"the engine just written to {self.cache.folder} cannot be read back")
        return stored

    def _build(
        self,
        model: Path,
        spec: ModelSpec,
        key: EngineKey,
        calibration: Iterable[np.ndarray] | None,
        check: AccuracyCheck | None,
        progress: Progress | None,
    ) -> None:
        if key.precision == "int8" and (calibration is None or check is None):
            raise BackendUnavailable(
                "an int8 engine needs pictures to calibrate and to measure it on: build it once with "
                f"`kdc build-engine --model {model} --precision int8 --images DIR`"
            )
        logger.info(
            "building an engine of %s: %s %s, %s, %s; this takes seconds to minutes, and happens once",
            model.name, self.trt.flavour, self.trt.version, key.capability, key.precision,
        )  # fmt: skip
        with typed_twin(model, key.precision, calibration) as (twin, calibrated_on):
            content = twin.read_bytes()
            # The twin was made of the file as it is now; the key, before what may have been a long wait.
            if sha256_of(model) != key.model_sha256:
                raise EngineBuildError(f"{model} was replaced while its engine was about to be built: load it again")
            built = build_engine(self.trt, content, spec, key, _logged(progress))
            record = check(Candidate(built.data, key, spec, twin)) if check else None
        if record is not None and not record.get("passed"):
            raise AccuracyRefused(
                f"the {key.precision} engine of {model.name} differs by more than is allowed and was not stored: "
                + "; ".join(record.get("failures", [])),
                record,
            )
        path = self.cache.store(model, key, built.data, spec, _notes(built, record, calibrated_on))
        logger.info("engine built in %.0f s: %s (%.1f MB)", built.build_s, path, len(built.data) / 1e6)


@contextlib.contextmanager
def typed_twin(
    model: Path, precision: str, calibration: Iterable[np.ndarray] | None = None
) -> Iterator[tuple[Path, int]]:
    """The model file in a precision (itself for fp32), and the number of pictures it was calibrated on.

    Raises BackendUnavailable where the package `onnx` is missing, EngineBuildError where the model cannot be converted.
    """
    if precision == "fp32":
        yield model, 0
        return
    with tempfile.TemporaryDirectory(prefix="kdc_twin_") as folder:
        twin = Path(folder) / f"{model.stem}-{precision}.onnx"
        count = 0
        try:
            if precision == "fp16":
                from kdc_core.precision.half import half_file

                half_file(model, twin)
            else:
                from kdc_core.precision.int8 import int8_file

                count = int8_file(model, twin, calibration or ())
        except ModuleNotFoundError as error:
            raise BackendUnavailable(
                f"a model is converted to {precision} by the Python package {error.name}, which is not installed here: "
                f"pip install {error.name}"
            ) from error
        except ValueError as error:  # too few pictures, weights out of range
            raise EngineBuildError(f"{model.name} cannot be converted to {precision}: {error}") from error
        yield twin, count


def _logged(progress: Progress | None) -> Progress:
    """Progress that also goes to the log, every tenth of the way."""
    told = [0.0]

    def tell(phase: str, share: float) -> None:
        if share >= told[0] + 0.1:
            told[0] = share
            logger.info("building the engine: %.0f %% (%s)", 100 * share, phase)
        if progress is not None:
            progress(f"building the engine: {phase}", share)

    return tell


def _notes(built: BuiltEngine, record: dict[str, Any] | None, calibrated_on: int) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "built_at": now.isoformat(timespec="seconds"),
        "build_s": round(built.build_s, 1),
        "layers": built.layers,
        "tf32": False,
        "calibration_pictures": calibrated_on,
        "accuracy": record,
    }


def best_cached(manager: EngineManager, model: Path, key: EngineKey) -> StoredEngine | None:
    """The fastest cached engine below fp32 whose accuracy check held, if any; `key` names all but the precision."""
    for precision in ("int8", "fp16"):
        stored = manager.cache.find(model, dataclasses.replace(key, precision=precision))
        if stored is not None and stored.accuracy_passed:
            return stored
    return None
