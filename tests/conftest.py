"""Fixtures that tests of every part share."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Photographs with annotations beside the checkout; the test is skipped where there are none."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no annotated photographs at {path}")
    return path


@pytest.fixture(scope="session")
def shipped_model() -> Path:
    """The network that comes with the package; the test is skipped until it is there."""
    path = REPOSITORY / "weights" / "kdc_mobile.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there yet")
    return path
