"""Which TensorRT is installed: the full one, as on a Jetson or a desktop, else TensorRT for RTX."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

from kdc_core.backends.base import BackendUnavailable

logger = logging.getLogger(__name__)

FLAVOURS = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 0)  # strongly typed networks: what is asked for is what is computed


@dataclass(frozen=True)
class TensorRT:
    """A TensorRT: its Python module, which of FLAVOURS it is, and its version."""

    module: Any
    flavour: str
    version: str

    @property
    def builds_for_other_gpus(self) -> bool:
        """Whether an engine can be built for a compute capability that is not this machine's."""
        return hasattr(self.module, "ComputeCapability")

    def logger(self) -> Any:
        """An `ILogger` that hands TensorRT's messages to Python's logging."""
        return _make_logger(self.module)


def is_installed(flavours: tuple[str, ...] = FLAVOURS) -> bool:
    """Whether any TensorRT is there, without loading it."""
    return any(importlib.util.find_spec(flavour) is not None for flavour in flavours)


def load_tensorrt(flavours: tuple[str, ...] = FLAVOURS) -> TensorRT:
    """The first TensorRT that imports. Raises BackendUnavailable, naming what was tried."""
    problems = []
    for flavour in flavours:
        try:
            module = importlib.import_module(flavour)
        except (ImportError, OSError) as error:  # OSError: a shared library that is not there
            problems.append(f"{flavour}: {error}")
            continue
        version = str(getattr(module, "__version__", ""))
        if not version:  # a folder of that name in the current one
            problems.append(f"{flavour}: {getattr(module, '__path__', module)} is no TensorRT")
            continue
        if flavour == "tensorrt" and _numbers(version) < OLDEST:
            problems.append(f"tensorrt {version} is older than {'.'.join(map(str, OLDEST))}")
            continue
        return TensorRT(module, flavour, version)
    raise BackendUnavailable(
        f"no usable TensorRT ({'; '.join(problems)}). On a Jetson it comes with JetPack (python3-libnvinfer; a virtual "
        "environment needs --system-site-packages); elsewhere: pip install tensorrt, or tensorrt_rtx"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _make_logger(trt: Any) -> Any:
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        # Its warnings are advice on performance and on the machine, dozens for each build.
        severity.WARNING: logging.DEBUG,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.NOTSET,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if levels.get(level) == logging.ERROR:
                self.errors.append(" ".join(message.split()))
            elif levels.get(level):
                logger.debug("TensorRT: %s", message)

    return Logger()
