"""The size of a JPEG or PNG read from its first bytes, before anything is decoded.

A few bytes can decode to gigabytes, so the size is checked first; and formats that no camera sends are not handed
to their decoders at all.
"""

from __future__ import annotations

from typing import Any

from kdc_core.image_encodings import ImageConversionError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# Start of frame: every kind (baseline, progressive, ...) but the markers of that range with another meaning.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def compressed_hw(data: Any) -> tuple[int, int]:
    """(height, width) in pixels of a compressed picture, a buffer of bytes.

    Raises ImageConversionError when it is neither JPEG nor PNG, or ends before its size is told.
    """
    content = memoryview(data).cast("B")
    if bytes(content[: len(_PNG)]) == _PNG:
        return _png_hw(content)
    if bytes(content[: len(_JPEG)]) == _JPEG:
        return _jpeg_hw(content)
    raise ImageConversionError(f"a compressed image must be JPEG or PNG; these {len(content)} bytes are neither")


def _png_hw(content: memoryview) -> tuple[int, int]:
    # Eight bytes of signature, then the chunk IHDR: length, name, width, height.
    if len(content) < 24 or bytes(content[12:16]) != b"IHDR":
        raise ImageConversionError(f"the PNG of {len(content)} bytes has no header")
    return int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")


def _jpeg_hw(content: memoryview) -> tuple[int, int]:
    at = len(_JPEG)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        if marker in _START_OF_FRAME and at + 9 <= len(content):
            return int.from_bytes(content[at + 5 : at + 7], "big"), int.from_bytes(content[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    raise ImageConversionError(f"the JPEG of {len(content)} bytes does not tell its size")
