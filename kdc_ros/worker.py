"""The inference thread: it alone loads, runs and closes the pipeline.

GPU contexts belong to the thread that made them, and a slow network must not hold up the executor that
receives images. Knows nothing of ROS: what to load and what to do with a frame are handed in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from kdc_ros.mailbox import Mailbox


class Closable(Protocol):
    """What a worker owns: anything that wants to be closed in the thread that made it."""

    def close(self) -> None:
        """Release the resources."""


Resource = TypeVar("Resource", bound=Closable)
Frame = TypeVar("Frame")


class InferenceWorker(Generic[Resource, Frame]):
    """A thread that loads a resource, then processes the newest frame of a mailbox until stopped.

    load:    called once in the thread; whatever it raises ends the thread and is kept in `error`.
    process: called in the thread for each frame taken. It deals with a frame's faults itself; an exception
             that leaves it ends the thread and is kept in `error`.
    """

    def __init__(
        self,
        mailbox: Mailbox[Frame],
        load: Callable[[], Resource],
        process: Callable[[Resource, Frame], None],
    ) -> None:
        self._mailbox = mailbox
        self._load = load
        self._process = process
        self._loaded = threading.Event()
        self.error: Exception | None = None
        # A daemon: a native call cannot be interrupted, and must not keep the process alive past a shutdown.
        self._thread = threading.Thread(target=self._run, name="kdc_inference", daemon=True)

    def start(self) -> None:
        """Start the thread; loading begins."""
        self._thread.start()

    def wait_loaded(self, timeout_s: float) -> bool:
        """Wait until loading has ended, well or badly (see `error`). Returns False when the time is over."""
        return self._loaded.wait(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait for it. Returns False when it is still in a native call by then."""
        self._mailbox.close()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        resource: Resource | None = None
        try:
            resource = self._load()
            self._loaded.set()
            while not self._mailbox.closed:
                frame = self._mailbox.take()
                if frame is not None:
                    self._process(resource, frame)
        except Exception as error:  # noqa: BLE001 - kept for the owner, who logs it or raises it
            self.error = error
        finally:
            if resource is not None:
                resource.close()
            self._loaded.set()
