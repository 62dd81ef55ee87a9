"""docs/ros.md says what there is: every parameter with its default, every topic, every message."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from kdc_ros.parameters import _DESCRIPTIONS, Settings


@pytest.fixture(scope="module")
def rows(repository):
    """The rows of the page's tables by their first cell."""
    text = (repository / "docs" / "ros.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in text.splitlines() if "|" in line]
    return {row[0].strip("`"): row for row in reversed(cells)}  # the node's tables come before the bridges'


def test_every_parameter_with_its_default(rows):
    for field in fields(Settings):
        assert field.name in rows, f"{field.name} is missing"
        _, default, live, _ = rows[field.name]
        shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default) or "empty"
        assert default == shown, field.name
        description = _DESCRIPTIONS[field.name]
        assert (live == "yes") == (not description.fixed_while and not description.read_only), field.name


def test_every_topic_and_service(rows, repository):
    named = " ".join(rows)
    for path in (repository / "kdc_ros").rglob("*.py"):
        for topic in re.findall(r'"(~/[a-z0-9_/]+)"', path.read_text()):
            if "bridges" not in path.parts:
                assert topic in named, f"{topic} of {path.name} is missing"


def test_every_message(rows, repository):
    named = " ".join(rows)
    for path in (repository / "msg").glob("*.msg"):
        assert f"kdc/{path.stem}" in named, f"{path.name} is missing"
