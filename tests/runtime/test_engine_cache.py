"""Engines in the cache, with real builds of a small model: hits, stale and damaged files, locks, checks."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from kdc_core.backends.base import BackendUnavailable, sha256_of
from kdc_core.backends.tensorrt.builder import EngineBuildError
from kdc_core.backends.tensorrt.cache import EngineCache, default_engine_dir
from kdc_core.backends.tensorrt.cuda import Gpu
from kdc_core.backends.tensorrt.keys import EngineKey, ShapeProfile
from kdc_core.backends.tensorrt.manager import AccuracyRefused, Candidate, EngineManager
from tests.runtime.tiny_model import SPEC, picture, write_tiny_model

GPU = Gpu("Some GPU", "SM89")


class Builds:
    """A manager that counts what it builds."""

    def __init__(self, trt, folder: Path, model: Path) -> None:
        self.model = model
        self.manager = EngineManager(trt, EngineCache(folder))
        self.starts = 0

    def key(self, precision: str = "fp32") -> EngineKey:
        return self.manager.key(self.model, precision, ShapeProfile.of(SPEC), GPU)

    def ensure(self, precision: str = "fp32", **options):
        def progress(phase: str, share: float) -> None:
            self.starts += share == 0.0

        return self.manager.ensure(self.model, SPEC, self.key(precision), progress=progress, **options)

    @property
    def path(self) -> Path:
        return self.manager.cache.path(self.model, self.key())


@pytest.fixture
def builds(trt, tmp_path: Path, tiny: Path, caplog: pytest.LogCaptureFixture) -> Builds:
    caplog.set_level(logging.INFO, logger="kdc_core")
    return Builds(trt, tmp_path / "engines", tiny)


def test_built_once_then_taken_from_the_cache(builds: Builds) -> None:
    first = builds.ensure()
    again = builds.ensure()
    assert builds.starts == 1
    assert again.data == first.data and again.spec == SPEC
    side = json.loads(first.path.with_suffix(".json").read_text())
    assert side["engine_sha256"] == sha256_of(first.path) and side["engine_bytes"] == len(first.data)
    assert side["key"]["model_sha256"] == sha256_of(builds.model)
    assert (side["key"]["capability"], side["key"]["precision"], side["tf32"]) == ("SM89", "fp32", False)
    assert side["layers"]["CONVOLUTION"] == {"FLOAT": 2}
    assert builds.ensure(rebuild=True).path == first.path and builds.starts == 2
    assert not list(first.path.parent.glob("*.partial"))


def test_every_part_of_the_key_names_another_file(builds: Builds, tmp_path: Path) -> None:
    key = builds.key()
    others = [
        dataclasses.replace(key, model_sha256="f" * 64),
        dataclasses.replace(key, flavour="tensorrt"),
        dataclasses.replace(key, version="1.0"),
        dataclasses.replace(key, gpu="Another"),
        dataclasses.replace(key, capability="SM120"),
        dataclasses.replace(key, precision="fp16"),
        dataclasses.replace(key, profile=ShapeProfile.of(SPEC, long_side=128)),
    ]
    assert len({k.file_name(builds.model) for k in (key, *others)}) == 8
    other = write_tiny_model(tmp_path / "tiny.onnx", seed=9)
    assert builds.manager.key(other, "fp32", ShapeProfile.of(SPEC), GPU) != key


def test_stale_engine_is_built_again(builds: Builds, caplog: pytest.LogCaptureFixture) -> None:
    """An engine of another TensorRT under this one's name, as after copying a cache folder."""
    side_path = builds.ensure().path.with_suffix(".json")
    side = json.loads(side_path.read_text())
    side["key"]["version"] = "0.9"
    side_path.write_text(json.dumps(side))
    assert builds.ensure().side["key"]["version"] == builds.manager.trt.version
    assert builds.starts == 2
    assert "is stale: version 0.9 instead of" in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no side file", "broken side file", "foreign side file"])
def test_damaged_engine_is_built_again(builds: Builds, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    good = builds.ensure()
    side = good.path.with_suffix(".json")
    if damage == "flipped":
        middle = len(good.data) // 2
        good.path.write_bytes(good.data[:middle] + bytes([good.data[middle] ^ 1]) + good.data[middle + 1 :])
    elif damage == "cut":
        good.path.write_bytes(good.data[:-100])
    elif damage == "empty":
        good.path.write_bytes(b"")
    elif damage == "no side file":
        side.unlink()
    elif damage == "broken side file":
        side.write_text(side.read_text()[:40])
    else:
        side.write_text("[1, 2]")
    assert builds.manager.cache.find(builds.model, builds.key()) is None
    assert "is not used: " in caplog.text
    again = builds.ensure()
    assert builds.starts == 2
    assert again.side["engine_sha256"] == sha256_of(again.path)


@pytest.mark.parametrize("accuracy", ["x", [1], 5, True])
def test_an_accuracy_that_is_no_record_is_none(builds: Builds, accuracy: object) -> None:
    side = builds.ensure().path.with_suffix(".json")
    side.write_text(json.dumps({**json.loads(side.read_text()), "accuracy": accuracy}))
    assert builds.manager.cache.find(builds.model, builds.key()) is None


def test_a_model_that_is_replaced_meanwhile_is_not_stored_as_the_old_one(builds: Builds) -> None:
    key = builds.key()
    write_tiny_model(builds.model, seed=9)
    with pytest.raises(EngineBuildError, match="was replaced"):
        builds.manager.ensure(builds.model, SPEC, key)
    assert not builds.path.exists() and not list(builds.manager.cache.folder.glob("*.engine"))


def test_half_written_files_are_not_seen(builds: Builds) -> None:
    """What a process leaves behind that dies while it writes: a part under another name; or an engine without side."""
    builds.path.parent.mkdir(parents=True)
    (builds.path.parent / f".{builds.path.name}.abc.partial").write_bytes(b"half an eng")
    builds.path.write_bytes(b"whole, but its side file was never written")
    engine = builds.ensure()
    assert builds.starts == 1 and len(engine.data) > 1000


_BUILD = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(message)s")
from kdc_core.backends.tensorrt.library import load_tensorrt
from tests.runtime.test_engine_cache import Builds
print("ready", flush=True)
sys.stdin.readline()
print(Builds(load_tensorrt(("tensorrt_rtx",)), Path(sys.argv[1]), Path(sys.argv[2])).ensure().side["engine_sha256"])
"""


def test_two_processes_build_one_engine(builds: Builds, repository: Path) -> None:
    command = [sys.executable, "-c", _BUILD, str(builds.path.parent), str(builds.model)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, cwd=repository, text=True, **pipes) for _ in range(2)]
    with builds.manager.cache.lock(builds.model, builds.key()):
        # Both come to the lock while somebody else holds it, and wait.
        for process in processes:
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            assert "another process is building" in process.stderr.readline()
        assert not builds.path.exists()
    results = [process.communicate(timeout=120) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], results
    assert results[0][0] == results[1][0] == builds.ensure().side["engine_sha256"] + "\n"
    assert sum("building an engine of" in log for _, log in results) == 1
    assert builds.starts == 0


def test_lock_of_a_dead_process_is_free(builds: Builds, repository: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tests.runtime.test_engine_cache import Builds\n"
        "from kdc_core.backends.tensorrt.library import load_tensorrt\n"
        "b = Builds(load_tensorrt(('tensorrt_rtx',)), Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "with b.manager.cache.lock(b.model, b.key()): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(builds.path.parent), str(builds.model)], cwd=repository)
    assert done.returncode == 9
    assert builds.ensure().path == builds.path


def test_int8_needs_pictures_and_a_measured_accuracy(builds: Builds) -> None:
    with pytest.raises(BackendUnavailable, match="build-engine --model .* --precision int8 --images DIR"):
        builds.ensure("int8")
    pictures = [picture(seed=s) for s in range(8)]
    seen: list[Candidate] = []

    def check(candidate: Candidate) -> dict:
        seen.append(candidate)
        assert candidate.twin.is_file() and candidate.data
        return {"passed": True, "oks": 0.97, "measured_on": "made pictures"}

    engine = builds.ensure("int8", calibration=pictures, check=check)
    assert engine.accuracy_passed and engine.side["accuracy"]["oks"] == 0.97
    assert engine.side["calibration_pictures"] == 8 and len(seen) == 1
    assert engine.side["layers"]["QUANTIZE"]["INT8"] >= 1


def test_engine_that_fails_its_check_is_not_stored(builds: Builds) -> None:
    with pytest.raises(AccuracyRefused, match="was not stored: mean OKS 0.5 is below 0.9") as caught:
        builds.ensure("fp16", check=lambda _: {"passed": False, "failures": ["mean OKS 0.5 is below 0.9"]})
    assert caught.value.record["passed"] is False
    assert builds.manager.cache.find(builds.model, builds.key("fp16")) is None


def test_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_engine_dir() == tmp_path / "kdc" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_engine_dir() == Path.home() / ".cache" / "kdc" / "engines"


def test_an_engine_that_was_never_measured_is_measured_when_asked(builds: Builds) -> None:
    """A node that was told its precision leaves such engines behind; "auto" does not take them."""
    measured: list[Candidate] = []

    def check(candidate: Candidate) -> dict:
        measured.append(candidate)
        return {"passed": True, "failures": []}

    assert not builds.ensure("fp16").accuracy_passed
    assert not builds.ensure("fp16").accuracy_passed and builds.starts == 1
    assert builds.ensure("fp16", check=check).accuracy_passed and len(measured) == 1
    assert builds.ensure("fp16", check=check).accuracy_passed and len(measured) == 1
    assert builds.ensure("fp16").accuracy_passed and builds.starts == 2
