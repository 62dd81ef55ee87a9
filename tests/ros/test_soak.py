"""A soak that gets stuck is ended, and says where."""

from __future__ import annotations

import os
import sys
import textwrap

from kdc_ros.soak.watched import Progress, run_watched
from tests.ros.processes import wait_until


def test_what_gets_stuck_is_ended_with_all_that_it_has_started(tmp_path, capfd):
    code = """
        import faulthandler, subprocess, sys
        from pathlib import Path
        from kdc_ros.soak.watched import Progress
        faulthandler.enable()
        folder = Path(sys.argv[1])
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder / "pid").write_text(str(child.pid))
        Progress.of(folder).at("the answer to frame 7")
        def take_for_ever():
            while True:
                pass
        take_for_ever()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert run_watched(command, Progress.of(tmp_path), patience_s=3.0) == 1
    told = capfd.readouterr().err
    assert "waiting for: the answer to frame 7" in told
    assert "in take_for_ever" in told
    assert wait_until(lambda: gone(int((tmp_path / "pid").read_text())), 10)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_the_exit_code_of_what_ends_by_itself(tmp_path):
    assert run_watched([sys.executable, "-c", "raise SystemExit(3)"], Progress.of(tmp_path), patience_s=60.0) == 3
