"""Runs a process that must not get stuck: it says what it is at, and is ended when it says nothing for too long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_STEP_S = 0.5
_TRACEBACK_TIMEOUT_S = 10.0


class Progress:
    """What a process is at, in a file that another one reads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, folder: Path) -> Progress:
        """That of the process that works in a folder."""
        return cls(folder / "progress")

    def at(self, doing: str) -> None:
        """Something new is begun, or waited for."""
        self._path.write_text(doing)

    def read(self) -> tuple[str, float]:
        """What it is at, and for how many seconds."""
        return self._path.read_text(), time.time() - self._path.stat().st_mtime


def run_watched(command: list[str], progress: Progress, patience_s: float) -> int:
    """The exit code of a command, 1 when it was at one thing for too long. All that it has started is ended.

    Its threads' stacks are printed then if it has enabled `faulthandler`, even where native code holds Python's lock.
    """
    progress.at("the start")
    child = subprocess.Popen(command, start_new_session=True)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_STEP_S)
            doing, seconds = progress.read()
            if seconds > patience_s:
                print(f"error: stuck for {seconds:.0f} s, waiting for: {doing}", file=sys.stderr, flush=True)
                child.send_signal(signal.SIGABRT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_TRACEBACK_TIMEOUT_S)
                return 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
