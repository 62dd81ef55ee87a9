"""What goes wrong because of the user's files or machine: one clear line instead of a traceback."""

from __future__ import annotations

import sys

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

# (module, class) of the errors whose message is written for the user. Named rather than imported: the modules
# are heavy, and a class can only have been raised where its module is loaded already.
_KNOWN: tuple[tuple[str, str], ...] = (
    ("kdc_bench.result", "BenchError"),
    ("kdc_core.backends.base", "InferenceError"),
    ("kdc_core.backends.base", "ModelLoadError"),
    ("kdc_core.images", "UnreadableImageError"),
    ("kdc_core.spec", "ModelSpecError"),
    ("kdc_model.checkpoint", "CheckpointError"),
    ("kdc_model.config", "ConfigError"),
    ("kdc_model.data.coco", "AnnotationError"),
    ("kdc_model.export", "ParityError"),
    ("kdc_model.train", "NonFiniteLoss"),
    ("kdc_replay.annotations", "ReplayAnnotationError"),
    ("kdc_replay.bag_files", "BagError"),
    ("kdc_replay.compare", "CompareError"),
    ("kdc_replay.demo_scene.photos", "PhotoError"),
    ("kdc_replay.interfaces", "InterfaceError"),
    ("kdc_replay.journal", "JournalError"),
    ("kdc_replay.metrics", "ScoringError"),
    ("kdc_replay.run_folder", "RunFolderError"),
    ("kdc_replay.run_reader", "RunError"),
    ("kdc_ros.demo.processes", "ProcessError"),
    ("kdc_ros.replay_node", "NodeReplayError"),
)

# Which extra of ours brings a package: pip install -e '.[EXTRA]'. pycocotools comes with both.
_EXTRAS = {
    "replay": frozenset({"av", "jinja2", "matplotlib", "mcap", "rosbags", "tabulate"}),
    "dask": frozenset({"dask", "distributed"}),
    "train": frozenset({"onnx", "onnx_ir", "onnxscript", "pycocotools", "torch"}),
}


class CommandError(Exception):
    """A command that cannot do what was asked; the message says why and what to do."""


def message_of(error: Exception, command: str) -> str | None:
    """One line for an error that the user can do something about; None for a fault of the program."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = next((name for name, packages in _EXTRAS.items() if package in packages), None)
        if extra is None:
            return None
        return (
            f"`kdc {command}` needs the Python package {package}, which is not installed here. "
            f"In the repository's folder: pip install -e '.[{extra}]'"
        )
    if isinstance(error, OSError):
        # The file's name stands in the message of OSErrors that the system raises, and in those we raise.
        return str(error) if error.filename is None else f"{error.strerror}: {error.filename}"
    known = tuple(getattr(sys.modules[module], name, ()) for module, name in _KNOWN if module in sys.modules)
    if isinstance(error, (CommandError, *(k for k in known if isinstance(k, type)))):
        return str(error)
    return None
