"""Engine files on disk: a side file says what each one is; nothing half-written, stale or damaged is ever loaded."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdc_core.backends.tensorrt.keys import EngineKey
from kdc_core.spec import ModelSpec, ModelSpecError

logger = logging.getLogger(__name__)

SIDE_FORMAT = 1


def default_engine_dir() -> Path:
    """$XDG_CACHE_HOME/kdc/engines, by default ~/.cache/kdc/engines. Raises OSError for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "kdc" / "engines"
    except RuntimeError as error:  # as in a container that runs under any number for its user
        raise FileNotFoundError("the user has no home directory") from error


@dataclass(frozen=True)
class StoredEngine:
    """A checked engine: its file, its bytes, the model's spec, and all that its side file says."""

    path: Path
    data: bytes
    spec: ModelSpec
    side: dict[str, Any]

    @property
    def accuracy_passed(self) -> bool:
        """Whether an accuracy check was made when it was built, and held."""
        return bool((self.side.get("accuracy") or {}).get("passed"))


class EngineRejected(Exception):
    """Why a file in the cache is not used."""


class EngineCache:
    """A folder of engines. Each has a side file (.json) and a lock file (.lock) of the same name."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_engine_dir()

    def path(self, model: Path, key: EngineKey) -> Path:
        """Where the engine of a model and key lies, or would lie."""
        return self.folder / key.file_name(model)

    def find(self, model: Path, key: EngineKey) -> StoredEngine | None:
        """The engine of a key, or None; why a file that is there is not used is logged."""
        path = self.path(model, key)
        if not path.exists():
            return None
        try:
            return _read(path, key)
        except EngineRejected as reason:
            logger.warning("engine %s is not used: %s", path, reason)
            return None

    def log_relatives(self, model: Path, key: EngineKey) -> None:
        """Say in what the cached engines of this model and precision differ from the one that is missing."""
        for side in sorted(self.folder.glob(f"{glob.escape(model.stem)}-{key.precision}-*.json")):
            with contextlib.suppress(OSError, EngineRejected):
                if differences := key.differences(_read_side(side)["key"]):
                    logger.info("engine %s is for another case: %s", side.stem, "; ".join(differences))

    def store(self, model: Path, key: EngineKey, data: bytes, spec: ModelSpec, notes: dict[str, Any]) -> Path:
        """Write an engine and its side file, each whole or not at all. The caller holds the lock."""
        path = self.path(model, key)
        side = {
            "format": SIDE_FORMAT,
            "key": key.to_dict(),
            "engine_sha256": hashlib.sha256(data).hexdigest(),
            "engine_bytes": len(data),
            "spec": json.loads(spec.to_json()),
            **notes,
        }
        _write_atomically(path, data)
        _write_atomically(_side_of(path), (json.dumps(side, indent=2) + "\n").encode())
        return path

    @contextlib.contextmanager
    def lock(self, model: Path, key: EngineKey) -> Iterator[None]:
        """Only one process at a time builds an engine; another waits here. Released when a process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path(model, key).with_suffix(".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another process is building %s: waiting for it", self.path(model, key).name)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _side_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _read(path: Path, key: EngineKey) -> StoredEngine:
    """Read and check an engine. Raises EngineRejected."""
    try:
        side = _read_side(_side_of(path))
        data = path.read_bytes()
    except OSError as error:
        raise EngineRejected(f"it cannot be read ({error})") from error
    if differences := key.differences(side["key"]):
        raise EngineRejected(f"it is stale: {'; '.join(differences)}")
    if hashlib.sha256(data).hexdigest() != side.get("engine_sha256"):
        raise EngineRejected("it is damaged: its checksum is not that of its side file")
    try:
        spec = ModelSpec.from_json(json.dumps(side.get("spec")))
    except ModelSpecError as error:
        raise EngineRejected(f"the spec in its side file cannot be used ({error})") from error
    return StoredEngine(path, data, spec, side)


def _read_side(path: Path) -> dict[str, Any]:
    """A side file's content, with its key. Raises EngineRejected, OSError."""
    try:
        side = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise EngineRejected(f"its side file is damaged ({error})") from error
    if not isinstance(side, dict) or side.get("format") != SIDE_FORMAT or not isinstance(side.get("key"), dict):
        raise EngineRejected("its side file has another format")
    if not isinstance(side.get("accuracy"), (dict, type(None))):
        raise EngineRejected("its side file's accuracy is no record")
    return side


def _write_atomically(path: Path, data: bytes) -> None:
    """Write beside the file, flush to the disk, then rename: a reader sees the old file or the whole new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
