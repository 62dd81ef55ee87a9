"""One storage file of a recording, message by message; of a damaged one whatever can still be read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rosbags.rosbag2 import Reader
from rosbags.rosbag2.reader import zstd

from kdc_replay.salvage import SalvagedMcap, SalvagedSqlite

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_KEY_BYTES = 64  # a message's encapsulation and header: what tells two of the same log time apart

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TopicInfo:
    """A topic of a storage file. count: its messages, None where that is not known."""

    topic: str
    message_type: str
    count: int | None


class Salvaged(Protocol):
    """What still can be read of a damaged file. `problem` is known once `messages` has ended."""

    problem: str | None

    def topics(self) -> list[tuple[str, str]]:
        """(topic, message type) of each."""

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """(log time in ns, serialized message) of a topic, in the file's order."""


class StorageFile:
    """A .mcap or .db3 file. Not for several threads.

    damage: what is wrong with the file, None as long as nothing was found.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.damage: str | None = None
        self._reader: Reader | None = None
        try:
            self._reader = Reader(path)
            self._reader.open()
        except Exception as error:  # noqa: BLE001 - damaged bytes make a parser fail in any way
            self._reader = None
            self.damage = _line(error)

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def topics(self) -> list[TopicInfo]:
        """The topics that can be recognised."""
        if self._reader is not None:
            return [TopicInfo(c.topic, c.msgtype, c.msgcount) for c in self._reader.connections]
        return [TopicInfo(topic, kind, None) for topic, kind in self._salvaged().topics()]

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """(log time in ns, serialized message) of a topic in the order of log times.

        Where the file turns out to be damaged, `damage` says so and what else can be read of it follows in the order
        of the file.
        """
        read: Counter[tuple[int, bytes]] = Counter()
        if self._reader is not None:
            try:
                for log_ns, data in self._intact(self._reader, topic):
                    read[log_ns, data[:_KEY_BYTES]] += 1
                    yield log_ns, data
                return
            except Exception as error:  # noqa: BLE001 - as above
                self.damage = _line(error)
        salvaged = self._salvaged()
        for log_ns, data in salvaged.messages(topic):
            data = _plain(data)
            key = (log_ns, data[:_KEY_BYTES])
            if read[key]:
                read[key] -= 1
            else:
                yield log_ns, data
        if salvaged.problem is not None:
            self.damage = salvaged.problem

    @staticmethod
    def _intact(reader: Reader, topic: str) -> Iterator[tuple[int, bytes]]:
        connections = [c for c in reader.connections if c.topic == topic]
        if connections:
            for _, log_ns, data in reader.messages(connections):
                yield log_ns, _plain(data)

    def _salvaged(self) -> Salvaged:
        return SalvagedMcap(self.path) if self.path.suffix == ".mcap" else SalvagedSqlite(self.path)


def _plain(data: bytes) -> bytes:
    """A message without the compression that a recorder may have given it (CDR never begins like zstd)."""
    if not data.startswith(_ZSTD_MAGIC):
        return data
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        _log.debug("a compressed message is damaged: %s", error)
        return b""  # no message: whoever decodes it counts it as broken


def _line(error: Exception) -> str:
    return " ".join(f"{error or type(error).__name__}".split()).rstrip(".")
