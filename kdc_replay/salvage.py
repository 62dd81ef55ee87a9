"""Damaged storage files: what is readable, and what is not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, Footer, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk

# What ROS 2 encodes messages as.
CDR = "cdr"
# So many rows in a row may be unreadable before the search beyond the damage is given up.
_MOST_LOST_ROWS = 20_000
_HIGHEST_ID = 2**40


class SalvagedMcap:
    """An MCAP file record by record from its beginning: needs neither footer, summary nor index.

    A chunk whose content is damaged is left out, and reading goes on behind it.
    """

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self._path = path

    def topics(self) -> list[tuple[str, str]]:
        """(topic, message type) of each."""
        found: dict[tuple[str, str], None] = {}
        schemas: dict[int, str] = {}
        for record in self._records():
            if isinstance(record, Schema):
                schemas[record.id] = record.name
            elif isinstance(record, Channel) and record.message_encoding == CDR:
                found[record.topic, schemas.get(record.schema_id, "")] = None
        return list(found)

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """(log time in ns, serialized message) of a topic, in the file's order."""
        wanted: set[int] = set()
        for record in self._records():
            if isinstance(record, Channel) and record.topic == topic and record.message_encoding == CDR:
                wanted.add(record.id)
            elif isinstance(record, Message) and record.channel_id in wanted:
                yield record.log_time, record.data

    def _records(self) -> Iterator[McapRecord]:
        damaged_chunks = 0
        self.problem = None
        with self._path.open("rb") as file:
            records = StreamReader(file, emit_chunks=True).records
            while True:
                try:
                    record = next(records, None)
                except Exception as error:  # noqa: BLE001 - damaged bytes make a parser fail in any way
                    self.problem = "the file is damaged or ends early" + _cause(error)
                    break
                if record is None or isinstance(record, Footer):
                    break
                if not isinstance(record, Chunk):
                    yield record
                    continue
                try:
                    content = breakup_chunk(record, validate_crc=True)
                except Exception:  # noqa: BLE001 - as above
                    damaged_chunks += 1
                    continue
                yield from content
        if damaged_chunks:
            chunks = f"{damaged_chunks} damaged {'chunk' if damaged_chunks == 1 else 'chunks'} left out"
            self.problem = chunks if self.problem is None else f"{self.problem}; {chunks}"


class SalvagedSqlite:
    """An SQLite file row by row along the ids: needs no index, and passes over what lies on damaged pages."""

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self._path = path

    def topics(self) -> list[tuple[str, str]]:
        """(topic, message type) of each."""
        try:
            with _Database(self._path) as database:
                return [(str(name), str(kind)) for name, kind in database.rows("SELECT name, type FROM topics")]
        except sqlite3.Error:
            return []

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """(log time in ns, serialized message) of a topic, in the file's order."""
        position, failed, lost = 0, 0, 0
        try:
            with _Database(self._path) as database:
                ids = {row[0] for row in database.rows("SELECT id FROM topics WHERE name = ?", topic)}
                last = self._last_id(database)
                while failed < _MOST_LOST_ROWS:
                    try:
                        row = self._next_row(database, position, exactly=failed > 0)
                    except sqlite3.DatabaseError:
                        row = None
                    else:
                        if row is None and failed == 0:
                            break
                    if row is None or not _is_message(row, position):
                        failed += 1
                        position += 1
                        if position == last:
                            lost += failed
                            break
                        continue
                    lost += failed
                    failed = 0
                    position = row[0]
                    if row[1] in ids:
                        yield row[2], row[3]
        except sqlite3.Error as error:
            self.problem = f"the file is damaged ({error})"
            return
        self.problem = "the file is damaged or ends early"
        if lost:
            self.problem += f"; {lost} {'row of a message is' if lost == 1 else 'rows of messages are'} unreadable"

    @staticmethod
    def _next_row(database: _Database, after: int, exactly: bool) -> tuple[Any, ...] | None:
        # Beyond damage a search for the next row would meet the damage again; a single row may lie elsewhere.
        where = "id = ? + 1" if exactly else "id > ? ORDER BY id LIMIT 1"
        rows = database.rows(f"SELECT id, topic_id, timestamp, data FROM messages WHERE {where}", after)
        return rows[0] if rows else None

    @staticmethod
    def _last_id(database: _Database) -> int | None:
        try:
            rows = database.rows("SELECT max(id) FROM messages")
        except sqlite3.DatabaseError:
            return None
        return None if rows[0][0] is None else int(rows[0][0])


def _is_message(row: tuple[Any, ...], after: int) -> bool:
    """Whether a row holds what a recorder writes. A damaged tree of rows may even lead back to where it came from."""
    row_id, _, log_ns, data = row
    return isinstance(data, bytes) and isinstance(log_ns, int) and after < row_id < _HIGHEST_ID


class _Database:
    """A read-only connection that also opens a file shorter than its header says."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
        self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
        self._connection.execute("PRAGMA writable_schema=ON")

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()

    def __enter__(self) -> _Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _cause(error: Exception) -> str:
    """What the MCAP reader says beyond that the file ended."""
    told = isinstance(error, McapError) and str(error)
    return f" ({' '.join(str(error).split())})" if told else ""
