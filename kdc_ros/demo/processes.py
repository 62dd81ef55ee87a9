"""The demonstration's processes: the real node and the camera, each on its own, stopped whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory

# Domains up to 101 keep clear of the ports that Linux hands out to others.
_HIGHEST_DOMAIN = 101
_STOP_TIMEOUT_S = 6.0
_PROFILES = Path("config", "fastdds_large_images.xml")
_PROFILES_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


class ProcessError(RuntimeError):
    """A process could not be started."""


def isolate_ros() -> str:
    """Give this process and its children a ROS domain of their own, on this machine. Returns a namespace.

    The namespace is this process's alone, should two demonstrations fall into one domain.
    """
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % _HIGHEST_DOMAIN)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"  # later releases warn of this older name
    return f"/kdc_demo_{os.getpid()}"


def camera_environment() -> dict[str, str]:
    """The environment for sending images: as it comes, Fast DDS loses most of them (see the file).

    Settings of Fast DDS that the user has already made stay.
    """
    environment = dict(os.environ)
    if any(variable in environment for variable in _PROFILES_VARIABLES):
        return environment
    newer, older = _PROFILES_VARIABLES
    variable = older if environment.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else newer
    environment[variable] = str(Path(get_package_share_directory("kdc"), _PROFILES))
    return environment


def node_command(namespace: str, image_topic: str, model: Path | None) -> list[str]:
    """The installed node, or the one of this checkout where none is installed. Raises ProcessError."""
    try:
        executable = Path(get_package_prefix("kdc"), "lib", "kdc", "kdc_node")
    except PackageNotFoundError as error:
        raise ProcessError("the ROS package 'kdc' is not built or not sourced: run 'make setup'") from error
    command = [str(executable)] if executable.exists() else [sys.executable, "-m", "kdc_ros.node"]
    command += ["--ros-args", "-r", f"__ns:={namespace}", "-r", f"image:={image_topic}"]
    if model is not None:
        # Quoted for the YAML parser, which else takes a name made of digits for a number.
        quoted = str(model.resolve()).replace("'", "''")
        command += ["-p", f"model:='{quoted}'"]
    return command


def camera_command(
    namespace: str, journal: Path, source: str | None, seconds: float, timeout_s: float
) -> list[str]:
    """The fake camera."""
    command = [
        sys.executable,
        "-m",
        "kdc_ros.demo.camera",
        "--journal",
        str(journal),
        "--timeout",
        str(timeout_s),
    ]
    if source is not None:
        command += ["--input", source, "--seconds", str(seconds)]
    return [*command, "--ros-args", "-r", f"__ns:={namespace}"]


class Process:
    """A child process with its output in a log file; ended when the `with` block is left."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        try:
            with log.open("wb") as output:
                # A session of its own: Ctrl-C reaches this process alone, which then ends its children in
                # order.
                self._child = subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    env=environment,
                )
        except OSError as error:
            raise ProcessError(f"{command[0]} cannot be started: {error}") from error

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    def stop(self) -> int:
        """End it: politely, then by force with all that it started. Returns its exit code."""
        for polite in (signal.SIGINT, signal.SIGTERM):
            if self._child.poll() is None:
                self._child.send_signal(polite)
                try:
                    self._child.wait(_STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    continue
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
        return self._child.wait()

    def output(self, lines: int = 30) -> str:
        """The end of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
