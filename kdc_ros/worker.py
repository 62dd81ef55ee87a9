"""The inference thread: it alone loads, runs and closes the pipeline.

GPU contexts belong to the thread that made them, and a slow network must not hold up the executor that
receives images. Knows nothing of ROS: what to load and what to do with a frame are handed in.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from kdc_ros.mailbox import Mailbox


class Closable(Protocol):
    """What a worker owns: anything that wants to be closed in the thread that made it."""

    def close(self) -> None:
        """Release the resources."""


# A changed rate limit takes effect within this time.
_PACE_CHECK_S = 0.2

Resource = TypeVar("Resource", bound=Closable)
Frame = TypeVar("Frame")


class InferenceWorker(Generic[Resource, Frame]):
    """A thread that loads a resource, then processes the newest frame of a mailbox until stopped.

    load:    called once in the thread; whatever it raises ends the thread and is kept in `error`.
    process: called in the thread for each frame taken. It deals with a frame's faults itself; an exception
             that leaves it ends the thread and is kept in `error`.
    min_interval_s: asked between frames: seconds from the start of one frame to that of the next, at least.
    """

    def __init__(
        self,
        mailbox: Mailbox[Frame],
        load: Callable[[], Resource],
        process: Callable[[Resource, Frame], None],
        min_interval_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._mailbox = mailbox
        self._load = load
        self._process = process
        self._min_interval_s = min_interval_s
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

    @property
    def mailbox(self) -> Mailbox[Frame]:
        """Where frames are left for it."""
        return self._mailbox

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait for it. Returns False when it is still in a native call by then.

        May be called again to wait longer.
        """
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
            started_s = -math.inf
            while self._pace(started_s):
                frame = self._mailbox.take()
                if frame is not None:
                    started_s = time.monotonic()
                    self._process(resource, frame)
        except Exception as error:  # noqa: BLE001 - kept for the owner, who logs it or raises it
            self.error = error
        finally:
            if resource is not None:
                resource.close()
            self._loaded.set()

    def _pace(self, started_s: float) -> bool:
        """Wait until the next frame may start, the last one having started then. Returns False when closed."""
        while (wait_s := started_s + self._min_interval_s() - time.monotonic()) > 0:
            if self._mailbox.wait_closed(min(wait_s, _PACE_CHECK_S)):
                return False
        return not self._mailbox.closed
