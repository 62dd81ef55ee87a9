"""The structure of a JPEG file, without decoding it: its size, and whether it is all there."""

from __future__ import annotations

from collections.abc import Iterator

START = b"\xff\xd8"
_END = b"\xff\xd9"
# Start of frame: every kind (baseline, progressive, ...) but the markers of that range with another meaning.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def size_hw(content: memoryview) -> tuple[int, int] | None:
    """(height, width) in pixels, or None where the file ends before it is told."""
    for marker, at in _segments(content):
        if marker in _START_OF_FRAME and at + 9 <= len(content):
            return int.from_bytes(content[at + 5 : at + 7], "big"), int.from_bytes(content[at + 7 : at + 9], "big")
    return None


def is_whole(content: bytes) -> bool:
    """Whether the picture's data are followed by the end of the image.

    Decoders fill the missing part of a JPEG with grey, or with its last row, and say nothing.
    """
    # A thumbnail in the header ends with the same two bytes; in the picture's own data they cannot occur.
    scan = next((at for marker, at in _segments(memoryview(content)) if marker == _START_OF_SCAN), None)
    return scan is not None and content.rfind(_END, scan) >= 0


def _segments(content: memoryview) -> Iterator[tuple[int, int]]:
    """The marker and the place of each segment of the header, up to the first scan."""
    at = len(START)
    while at + 4 <= len(content):
        marker = content[at + 1]
        if content[at] != 0xFF or marker in (0x00, 0xFF):  # stray bytes, which decoders skip; padding
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker == _END_OF_IMAGE:
            return
        else:
            yield marker, at
            if marker == _START_OF_SCAN:
                return
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
