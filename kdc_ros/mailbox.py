"""A mailbox that holds the newest item only: what stands between the camera's rate and the network's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One slot between writers and one reader. A new item replaces an unread one, which is counted.

    discarded: called for each unread item that `clear` or `close` removes.
    """

    def __init__(self, discarded: Callable[[], None] = lambda: None) -> None:
        self._discarded = discarded
        self._changed = threading.Condition()
        self._item: T | None = None
        self._full = False
        self._closed = False
        self._dropped = 0

    def put(self, item: T) -> bool:
        """Leave an item. Returns True when it replaced one that nobody had read. Ignored after `close`."""
        with self._changed:
            if self._closed:
                return False
            replaced = self._full
            self._dropped += replaced
            self._item, self._full = item, True
            self._changed.notify()
            return replaced

    def take(self, timeout_s: float | None = None) -> T | None:
        """Wait for an item and remove it. Returns None when the time is over or the mailbox was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._full or self._closed, timeout_s)
            if self._closed or not self._full:
                return None
            item, self._item, self._full = self._item, None, False
            return item

    def clear(self) -> None:
        """Drop what is in it."""
        with self._changed:
            self._discard()

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait for the close; returns whether it came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, timeout_s)

    def close(self) -> None:
        """Drop what is in it and wake the reader; nothing goes in any more."""
        with self._changed:
            self._closed = True
            self._discard()
            self._changed.notify_all()

    def _discard(self) -> None:
        if self._full:
            self._discarded()
        self._item, self._full = None, False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def dropped(self) -> int:
        """How many items were replaced before anybody read them."""
        return self._dropped
