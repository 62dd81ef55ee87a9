"""The set-up scripts, as far as they go without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def check_mode(repository: Path, venv: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("ROS_DISTRO", "AMENT_PREFIX_PATH")}
    command = [str(repository / "scripts" / "ros_mode.sh"), "--check", str(venv)]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=60, check=False)


def made(folder: Path, place: Path, line: str = 'VIRTUAL_ENV="{}"') -> Path:
    """An environment that says that it was made at a place."""
    (folder / "bin").mkdir(parents=True)
    (folder / "ros_mode").write_text("wheels\n")
    (folder / "bin" / "activate").write_text(f"# activate\n    {line.format(place)}\n")
    return folder


def test_before_there_is_an_environment(repository: Path, tmp_path: Path) -> None:
    done = check_mode(repository, tmp_path / ".venv")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / ".venv").mkdir()  # broken off
    assert check_mode(repository, tmp_path / ".venv").returncode == 0


@pytest.mark.parametrize("line", ['VIRTUAL_ENV="{}"', "export VIRTUAL_ENV='{}'", "export VIRTUAL_ENV={}"])
def test_an_environment_that_was_moved(repository: Path, tmp_path: Path, line: str) -> None:
    here = tmp_path / "a folder" / ".venv"
    assert check_mode(repository, made(here, here, line)).returncode == 0
    moved = check_mode(repository, made(tmp_path / "other", here, line))
    assert moved.returncode == 1 and "the folder has moved" in moved.stderr


def test_an_environment_for_another_ros(repository: Path, tmp_path: Path) -> None:
    venv = made(tmp_path / ".venv", tmp_path / ".venv")
    done = check_mode(repository, venv, ROS_DISTRO="jazzy")
    assert done.returncode == 1 and "'wheels', this shell offers 'distro:jazzy'" in done.stderr
    assert check_mode(repository, venv, AMENT_PREFIX_PATH="/opt/elsewhere").returncode == 1
    # Our own environment is no distribution, also by another name of its folder.
    link = tmp_path / "link"
    link.symlink_to(repository)
    ours = f"{link / '.venv'}:{repository / 'install' / 'kdc'}"
    assert check_mode(repository, venv, AMENT_PREFIX_PATH=ours).returncode == 0


def test_a_package_that_was_copied_in_part_is_missing(repository: Path, tmp_path: Path) -> None:
    """pip writes a package's record last."""
    script = repository / "scripts" / "missing_requirements.py"
    code = (
        "import runpy, sys\n"
        f"sys.prefix = {str(tmp_path)!r}\n"
        f"sys.path.insert(0, {str(tmp_path / 'lib')!r})\n"
        f"sys.argv = ['missing', {str(tmp_path / 'needs.txt')!r}]\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    (tmp_path / "needs.txt").write_text("whole-thing==1.0\nhalf-thing==1.0\nno-thing==1.0\nnumpy\n")
    for name in ("whole_thing", "half_thing"):
        (tmp_path / "lib" / name).mkdir(parents=True)
        (tmp_path / "lib" / name / "__init__.py").touch()
    record = tmp_path / "lib" / "whole_thing-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: whole-thing\nVersion: 1.0\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["half-thing", "no-thing"]
