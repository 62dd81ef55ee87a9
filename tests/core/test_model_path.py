"""Where the default model is looked for."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from kdc_core import model_path
from kdc_core.backends.base import ModelLoadError
from kdc_core.model_path import MODEL_NAME, default_model_path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A checkout, Python's prefix and a ROS prefix, all without a model yet."""
    checkout, prefix = tmp_path / "checkout", tmp_path / "prefix"
    found = {
        "checkout": checkout / "weights" / MODEL_NAME,
        "python": tmp_path / "python" / "share/kdc/weights" / MODEL_NAME,
        "ros": prefix / "share/kdc/weights" / MODEL_NAME,
    }
    monkeypatch.setattr(model_path, "sys", SimpleNamespace(prefix=str(tmp_path / "python")))
    monkeypatch.setattr(model_path, "__file__", str(checkout / "kdc_core" / "model_path.py"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'other'}:{prefix}")
    monkeypatch.delenv("KDC_MODEL", raising=False)
    return found


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_checkout_before_ros_prefix(places: dict[str, Path]) -> None:
    put(places["ros"])
    assert default_model_path() == places["ros"]
    put(places["python"])  # as `pip install` has it
    assert default_model_path() == places["python"]
    put(places["checkout"])
    assert default_model_path() == places["checkout"]


def test_variable_before_all(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places["checkout"])
    own = put(tmp_path / "own.onnx")
    monkeypatch.setenv("KDC_MODEL", str(own))
    assert default_model_path() == own
    own.unlink()
    with pytest.raises(ModelLoadError, match=r"KDC_MODEL names .*own\.onnx"):
        default_model_path()


def test_a_name_that_is_too_long_is_no_file(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDC_MODEL", str(tmp_path / ("n" * 300)))
    with pytest.raises(ModelLoadError, match="KDC_MODEL names"):
        default_model_path()
    monkeypatch.delenv("KDC_MODEL")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/{'n' * 300}:{places['ros'].parents[3]}")
    put(places["ros"])
    assert default_model_path() == places["ros"]


def test_nowhere_says_where_it_looked(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError) as error:
        default_model_path()
    for place in places.values():
        assert str(place.parent) in str(error.value)
    monkeypatch.delenv("AMENT_PREFIX_PATH")
    with pytest.raises(ModelLoadError, match="kdc export"):
        default_model_path()
