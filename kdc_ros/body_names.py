"""Names of people in TF and in REP-155's topics: a letter first, then the track id."""

from __future__ import annotations

import importlib.util
import re

_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def body_id(track_id: int, prefix: str) -> str:
    """The name of a tracked person, such as "p12": its topics are below /humans/bodies/p12."""
    return f"{prefix}{track_id}"


def body_frame(track_id: int, prefix: str) -> str:
    """The name of a tracked person's TF frame, such as "body_p12"."""
    return f"body_{body_id(track_id, prefix)}"


def prefix_fault(prefix: str) -> str:
    """Why a prefix cannot begin a name; empty when it can."""
    if _PREFIX.fullmatch(prefix):
        return ""
    return f"must be a letter, then letters, digits and underscores, got '{prefix}'"


def frames_fault(wanted: bool) -> str:
    """Why TF frames cannot be sent; empty when they can or need not."""
    if wanted and importlib.util.find_spec("tf2_msgs") is None:
        return "needs the package tf2_msgs, which is not installed"
    return ""
