"""The camera's journal: which frame it published when, a line of JSON each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Published:
    """A line of the journal: frame `index` of a clip, published with this stamp."""

    clip: str
    index: int
    stamp_ns: int


def note(journal: TextIO, frame: Published) -> None:
    """Write a line, at once readable by others."""
    journal.write(json.dumps(asdict(frame)) + "\n")
    journal.flush()


def read_journal(path: Path) -> list[Published]:
    """The frames published so far. A last line that is still being written is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [Published(**json.loads(line)) for line in lines]
