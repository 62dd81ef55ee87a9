"""Which files a recording consists of: a bag folder with or without metadata.yaml, or a single storage file."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import yaml

METADATA_NAME = "metadata.yaml"
STORAGE_SUFFIXES = (".mcap", ".db3")
# rosbag2 writes .zstd, the zstd tool .zst.
_COMPRESSED_SUFFIXES = (".zstd", ".zst")
# Of a file's content: so many pieces, from its first byte to its last, tell recordings of the same size apart.
_PIECES, _PIECE_BYTES = 16, 1 << 18


class BagError(Exception):
    """A recording that cannot be read at all; the message says why."""


@dataclass
class BagFiles:
    """A recording's storage files in their order, uncompressed.

    name:          the recording's name: its folder's, or its file's without suffix.
    files:         path of each, ready to be opened.
    names:         what to call each in messages (a path below a temporary folder says nothing).
    topic_counts:  messages of each topic as the metadata has it; empty without metadata.
    size_bytes:    size of each file as it was recorded, compressed or not.
    fingerprints:  of the content of each file as it was recorded (see `fingerprint`).
    notes:         what is odd about the recording, one line each.
    """

    name: str
    files: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    topic_counts: dict[str, int] = field(default_factory=dict)
    size_bytes: list[int] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _temporary: TemporaryDirectory | None = None

    def close(self) -> None:
        """Delete what was uncompressed."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _add(self, path: Path) -> None:
        if path.suffix not in _COMPRESSED_SUFFIXES:
            ready = path
        else:
            if self._temporary is None:
                self._temporary = TemporaryDirectory(prefix="kdc_bag_")
            ready = Path(self._temporary.name) / path.stem
            if (problem := _uncompress(path, ready)) is not None:
                self.notes.append(f"{path.name}: {problem}; what came before is read")
        self.files.append(ready)
        self.names.append(path.name)
        self.size_bytes.append(path.stat().st_size)
        self.fingerprints.append(fingerprint(path))
        log = path.with_name(path.name + "-wal")
        if log.is_file() and log.stat().st_size:
            self.notes.append(f"{log.name} holds messages that were never merged into {path.name}; they are not read")


def open_files(path: Path) -> BagFiles:
    """The storage files of a recording. Raises BagError where there is none."""
    if not path.exists():
        raise BagError(f"{path}: no such bag")
    if path.is_file():
        return _single_file(path)
    metadata = path / METADATA_NAME
    if not metadata.is_file():
        return _folder_without_metadata(path, f"the bag has no {METADATA_NAME} (was the recorder killed?)")
    try:
        content = yaml.safe_load(metadata.read_text(encoding="utf-8"))
        return _folder(path, content["rosbag2_bagfile_information"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        line = " ".join(str(error).split())
        return _folder_without_metadata(path, f"{METADATA_NAME} cannot be understood ({type(error).__name__}: {line})")


def _single_file(path: Path) -> BagFiles:
    bag = BagFiles(without_suffixes(path.name))
    if not _is_storage(path):
        if path.suffix == ".bag":
            raise BagError(f"{path} is a bag of ROS 1; rosbags-convert makes a ROS 2 bag of it")
        raise BagError(f"{path} is not a ROS 2 bag: a bag is a folder, or a file ending in .mcap or .db3")
    bag._add(path)
    return bag


def _folder(path: Path, metadata: dict[str, Any]) -> BagFiles:
    bag = BagFiles(path.resolve().name)
    for topic in metadata["topics_with_message_count"]:
        name = str(topic["topic_metadata"]["name"])
        bag.topic_counts[name] = bag.topic_counts.get(name, 0) + int(topic["message_count"])
    # Older recorders wrote paths that begin with the folder.
    listed = [path / PurePath(str(name)).name for name in metadata["relative_file_paths"]]
    for file in listed:
        # Of a compressed recording that was stopped early, the last file may not be compressed yet.
        found = next((f for f in (file, file.with_suffix("")) if f.is_file() and _is_storage(f)), None)
        if found is not None:
            bag._add(found)
        else:
            bag.notes.append(f"{file.name} is named in {METADATA_NAME}, but it is not there")
    if not bag.files:
        raise BagError(f"{path}: none of the files that {METADATA_NAME} names is there")
    return bag


def _folder_without_metadata(path: Path, problem: str) -> BagFiles:
    files = sorted((f for f in path.iterdir() if f.is_file() and _is_storage(f)), key=_split_order)
    if not files:
        raise BagError(f"{path} is not a bag: there is no {METADATA_NAME} and no .mcap or .db3 file in it")
    bag = BagFiles(path.resolve().name, notes=[f"{problem}; its files are taken in the order of their numbers"])
    for file in files:
        plain = _uncompressed_name(file.name)
        # A recorder that was killed while compressing leaves both.
        if plain != file.name and file.with_name(plain) in files:
            bag.notes.append(f"{file.name} is not read: {plain} is there, too")
        else:
            bag._add(file)
    return bag


def fingerprint(path: Path) -> str:
    """SHA-256 of pieces spread over a file (of all of it up to 4 MiB), in hexadecimal: a large bag takes no longer."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE_BYTES:
            digest.update(file.read())
        else:
            for piece in range(_PIECES):
                file.seek((size - _PIECE_BYTES) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def _is_storage(path: Path) -> bool:
    return PurePath(_uncompressed_name(path.name)).suffix in STORAGE_SUFFIXES


def _uncompressed_name(name: str) -> str:
    pure = PurePath(name)
    return pure.stem if pure.suffix in _COMPRESSED_SUFFIXES else name


def without_suffixes(name: str) -> str:
    """A storage file's name without .mcap, .db3.zstd and the like."""
    return PurePath(_uncompressed_name(name)).stem


def _split_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Numbers in names compare as numbers: part_10 comes after part_9."""
    parts = re.split(r"(\d+)", _uncompressed_name(path.name))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts], path.name


def _uncompress(source: Path, target: Path) -> str | None:
    """Uncompress a file as far as it goes; what is wrong with it, or None."""
    from rosbags.rosbag2.reader import zstd

    with source.open("rb") as compressed, target.open("wb") as plain:
        try:
            with zstd.open(compressed, "rb") as content:
                # Small pieces: whatever precedes damage is kept.
                shutil.copyfileobj(content, plain, 1 << 16)
        except (zstd.ZstdError, EOFError) as error:
            return f"the zstd compression is damaged or ends early ({error})"
    return None

