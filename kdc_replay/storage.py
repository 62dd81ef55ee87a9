"""One storage file of a recording, message by message; of a damaged one whatever can still be read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mcap.reader import make_reader
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.reader import zstd

from kdc_replay.salvage import CDR, SalvagedMcap, SalvagedSqlite

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


class MixedMcap:
    """A sound MCAP file that rosbags refuses, since a recorder wrote json, protobuf and the like beside ROS 2's cdr.

    Raises whatever the MCAP reader does, ValueError without a summary.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            self._reader = make_reader(self._file, validate_crcs=True)
            summary = self._reader.get_summary()
            if summary is None or not summary.channels:
                raise ValueError("the file has no summary")
        except BaseException:
            self._file.close()
            raise
        self._summary = summary

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def encodings(self) -> list[str]:
        """What its channels' messages are encoded as."""
        return sorted({channel.message_encoding for channel in self._summary.channels.values()})

    def topics(self) -> list[TopicInfo]:
        """The topics of cdr messages."""
        schemas, statistics = self._summary.schemas, self._summary.statistics
        return [
            TopicInfo(
                channel.topic,
                schemas[channel.schema_id].name if channel.schema_id in schemas else "",
                None if statistics is None else statistics.channel_message_counts.get(number, 0),
            )
            for number, channel in self._summary.channels.items()
            if channel.message_encoding == CDR
        ]

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """(log time in ns, serialized message) of a topic in the order of log times."""
        for _, channel, message in self._reader.iter_messages([topic]):
            if channel.message_encoding == CDR:
                yield message.log_time, _plain(message.data)


class StorageFile:
    """A .mcap or .db3 file. Not for several threads.

    damage: why the file cannot be read, or not whole; None as long as nothing was found.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.damage: str | None = None
        self._reader: Reader | MixedMcap | None = None
        try:
            reader = Reader(path)
            reader.open()
            self._reader = reader
        except Exception as error:  # noqa: BLE001 - damaged bytes make a parser fail in any way
            self.damage = _line(error)
            if path.suffix == ".mcap":
                self._open_mixed()

    def _open_mixed(self) -> None:
        try:
            reader = MixedMcap(self.path)
        except Exception as error:  # noqa: BLE001 - as above
            _log.debug("%s is no sound MCAP file: %s", self.name, error)
            return
        self._reader = reader
        others = ", ".join(reader.encodings)
        self.damage = None if reader.topics() else f"its channels are encoded as {others}; only ROS 2's {CDR} is read"

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def topics(self) -> list[TopicInfo]:
        """The topics that can be recognised."""
        if isinstance(self._reader, MixedMcap):
            return self._reader.topics()
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
    def _intact(reader: Reader | MixedMcap, topic: str) -> Iterator[tuple[int, bytes]]:
        if isinstance(reader, MixedMcap):
            yield from reader.messages(topic)
            return
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
