"""kdc's ROS messages without ROS: their definitions, and objects that rosbags can serialize."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

PACKAGE = "kdc"
_OWN = f"{PACKAGE}/msg/"


class InterfaceError(RuntimeError):
    """The message definitions are not there; the message says where they were looked for."""


def definition_folder() -> Path:
    """The folder of kdc's .msg files: of this checkout, of the installed ROS package, or of this Python's prefix.

    Raises InterfaceError.
    """
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    folders = [Path(__file__).resolve().parents[1] / "msg"]
    folders += [Path(prefix) / "share" / PACKAGE / "msg" for prefix in prefixes]
    for folder in folders:
        if (folder / "PoseArray.msg").is_file():
            return folder
    raise InterfaceError(f"kdc's message definitions are in none of {', '.join(map(str, folders))}")


class Messages:
    """Makes messages by their type's name, and serializes them.

    A field that is not given is what is not known: NaN for the numbers with a fraction of kdc's own messages (a place
    nobody knows must not look like one), and 0, "" or an empty list for everything else.
    """

    def __init__(self) -> None:
        self.store: Typestore = get_typestore(Stores.ROS2_HUMBLE)
        for path in sorted(definition_folder().glob("*.msg")):
            self.store.register(get_types_from_msg(path.read_text(encoding="utf-8"), _OWN + path.stem))

    def make(self, kind: str, **fields: Any) -> Any:
        """A message of type `kind` ("kdc/msg/PoseArray"). Raises TypeError for a field that the type does not have."""
        return self._make(kind, math.nan if kind.startswith(_OWN) else 0.0, fields)

    def serialize(self, message: Any, kind: str) -> bytes:
        """The message as CDR."""
        return bytes(self.store.serialize_cdr(message, kind))

    def _make(self, kind: str, unknown: float, fields: dict[str, Any]) -> Any:
        _, definitions = self.store.fielddefs[kind]
        if strange := set(fields) - {name for name, _ in definitions}:
            raise TypeError(f"{kind} has no field {', '.join(sorted(strange))}")
        values = {
            name: fields[name] if name in fields else self._default(description, unknown)
            for name, description in definitions
        }
        return self.store.types[kind](**values)

    def _default(self, description: Any, unknown: float) -> Any:
        node, detail = description
        if node == Nodetype.NAME:
            return self._make(detail, unknown, {})
        if node == Nodetype.BASE:
            return _base_default(detail[0], unknown)
        element, length = detail
        count = length if node == Nodetype.ARRAY else 0
        if element[0] == Nodetype.BASE and element[1][0] != "string":
            name = element[1][0]
            return np.full(count, _base_default(name, unknown), np.uint8 if name in ("octet", "byte", "char") else name)
        return [self._default(element, unknown) for _ in range(count)]


def _base_default(name: str, unknown: float) -> Any:
    if name == "string":
        return ""
    if name == "bool":
        return False
    return unknown if name.startswith("float") else 0
