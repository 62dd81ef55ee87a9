"""The command line itself: help, arguments, and errors as one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdc_cli.errors import CommandError
from kdc_cli.main import COMMANDS, main

NAMES = [module.__name__.rpartition(".")[2].replace("_", "-") for module in COMMANDS]


def one_line_of(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """The only line on stderr, which names the command."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"kdc {command}: "), lines
    return lines[0]


def test_help_imports_nothing_heavy(repository: Path) -> None:
    code = (
        "import sys\n"
        "from kdc_cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'cv2', 'onnxruntime', 'torch', 'tqdm', 'yaml') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in NAMES)


@pytest.mark.parametrize("command", NAMES)
def test_help_of_each_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main([command, "--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert f"example:\n  kdc {command} " in text
    assert max(map(len, text.splitlines())) <= 110


def test_runs_as_a_module(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kdc_cli", "--version"],
        capture_output=True,
        text=True,
        cwd=repository,
        timeout=30,
        check=True,
    )
    from kdc_core import __version__

    assert done.stdout == f"kdc {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nothing"],
        ["predict"],
        ["predict", "a.jpg"],
        ["predict", "a.jpg", "--out", "o", "--score-threshold", "1.5"],
        ["predict", "a.jpg", "--out", "o", "--score-threshold", "nan"],
        ["predict", "a.jpg", "--out", "o", "--threads", "-1"],
        ["predict", "a.jpg", "--out", "o", "--threads", "100000"],
        ["predict", "a.jpg", "--out", "o", "--long-side", "0"],
        ["scenes", "--out", "o", "--count", "0"],
        ["scenes", "--out", "o", "--size", "240"],
        ["train", "--out", "o"],
        ["evaluate", "--images", "d", "--annotations", "a.json"],
        ["evaluate", "--images", "d", "--annotations", "a.json", "--out", "o.json", "--limit", "0"],
        ["export", "--checkpoint", "last.pt"],
    ],
)
def test_wrong_arguments_exit_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(argv)
    assert leave.value.code == 2
    assert "usage: kdc" in capsys.readouterr().err


def test_missing_model_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "absent.onnx"
    arguments = ["predict", str(tmp_path), "--out", str(tmp_path / "out"), "--model", str(model)]
    assert main(arguments) == 1
    assert str(model) in one_line_of(capsys, "predict")
    from kdc_core.backends.base import ModelLoadError

    with pytest.raises(ModelLoadError):
        main([*arguments, "--debug"])


def test_model_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "text.onnx"
    model.write_text("not a network")
    assert main(["predict", str(tmp_path), "--out", str(tmp_path / "out"), "--model", str(model)]) == 1
    assert str(model) in one_line_of(capsys, "predict")


def test_faults_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(COMMANDS[NAMES.index("export")], "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["export", "--checkpoint", "a", "--out", "b"])


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS[NAMES.index("export")], "run", interrupt)
    assert main(["export", "--checkpoint", "a", "--out", "b"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "export"])
def test_without_torch_says_how_to_get_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("{}")
    option = "--config" if command == "train" else "--checkpoint"
    for name in [m for m in sys.modules if m.partition(".")[0] == "kdc_model"]:
        monkeypatch.delitem(sys.modules, name)
    # None in sys.modules is what the import system takes for "not installed".
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main([command, option, str(file), "--out", str(tmp_path / "out.onnx")]) == 1
    line = one_line_of(capsys, command)
    assert "torch" in line and "pip install -e '.[train]'" in line


def test_missing_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "last.pt"
    assert main(["export", "--checkpoint", str(absent), "--out", str(tmp_path / "m.onnx")]) == 1
    assert str(absent) in one_line_of(capsys, "export")


def test_missing_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent.yaml"
    assert main(["train", "--config", str(absent), "--out", str(tmp_path / "run")]) == 1
    assert str(absent) in one_line_of(capsys, "train")


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "--annotations", "a.json", "--images", ".", "--out", "sub/../a.json"],
        ["poses", "--annotations", "a.json", "--images", ".", "--second", "s", "--out", "a.json"],
        ["masks", "--taught", "a.json", "--annotations", "b.json", "--images", ".", "--out", "a.json"],
        ["masks", "--taught", "t", "--annotations", "a.json", "--images", ".", "--out", "a.json"],
        ["masks", "--taught", "t", "--annotations", "b", "c", "--images", ".", ".", "--out", "a.json", "./a.json"],
        ["masks", "--taught", "t", "--annotations", "b", "--images", ".", "--also", "a.json", "--out", "a.json"],
        ["export", "--checkpoint", "a.json", "--out", "a.json"],
        ["gradients", "--checkpoint", "a.json", "--out", "a.json"],
    ],
)
def test_a_result_does_not_replace_what_it_is_made_from(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.json").write_text("precious")
    assert main(argv) == 1
    assert "--out must be another file" in one_line_of(capsys, argv[0])
    assert (tmp_path / "a.json").read_text() == "precious"


def test_an_export_is_an_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "last.pt").write_bytes(b"")
    assert main(["export", "--checkpoint", str(tmp_path / "last.pt"), "--out", str(tmp_path / "last")]) == 1
    assert "must end in .onnx" in one_line_of(capsys, "export")


def test_squashed_photos_are_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "a.jpg"):
        (images / name).write_bytes(b"photo")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    command = ["boxes", "--squashed", "--images", str(images), "--labels", str(tmp_path), "--out"]
    assert main([*command, str(tmp_path)]) == 1
    assert "would write over the photos" in one_line_of(capsys, "boxes")
    assert main([*command, str(tmp_path / "made")]) == 1
    assert "2 photos named a" in one_line_of(capsys, "boxes")
    assert (images / "a.jpg").read_bytes() == b"photo"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    file = tmp_path / "config.yaml"
    file.write_text("train_annotations: [a.json]\ntrain_images: [images]\nchannels: 48\n")
    return file


def test_wrong_configuration(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--config", str(config_file), "--out", str(config_file.parent / "run")]
    assert main([*arguments, "--set", "chanels=64"]) == 1
    assert "chanels" in one_line_of(capsys, "train")
    assert main([*arguments, "--set", "epochs=many"]) == 1
    assert "epochs" in one_line_of(capsys, "train")
    assert main([*arguments, "--set", "epochs"]) == 1
    assert "KEY=VALUE" in one_line_of(capsys, "train")


def test_overrides_replace_values(config_file: Path) -> None:
    from kdc_cli.train import load_config

    plain = load_config(config_file, [])
    assert plain.channels == 48 and plain.train_images == (str(config_file.parent / "images"),)
    changed = load_config(
        config_file, ["channels=32", "learning_rate=1e-3", "scale_range=[0.5, 2]", "train_images=[other]"]
    )
    assert (changed.channels, changed.learning_rate, changed.scale_range) == (32, 0.001, (0.5, 2.0))
    # A path given on the command line belongs to the current folder, one in the file to the file's.
    assert changed.train_images == ("other",)
    assert changed.train_annotations == plain.train_annotations
    with pytest.raises(CommandError, match="not YAML") as caught:
        load_config(config_file, ["channels=[1"])
    assert "\n" not in str(caught.value)
