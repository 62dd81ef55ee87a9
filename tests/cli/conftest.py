"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.stub import StubPipeline


@pytest.fixture
def stub_pipeline(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict]]:
    """Every `Pipeline.load` gives a StubPipeline; the calls are recorded as (model, keyword arguments)."""
    from kdc_core.pipeline import Pipeline

    calls: list[tuple[str, dict]] = []

    def load(model: Path | str, **options) -> StubPipeline:
        calls.append((str(model), options))
        return StubPipeline()

    monkeypatch.setattr(Pipeline, "load", load)
    monkeypatch.delenv("KDC_MODEL", raising=False)
    return calls
