"""The size of a JPEG or PNG read from its first bytes, before anything is decoded.

A few bytes can decode to gigabytes, so the size is checked first; and formats that no camera sends are not handed
to their decoders at all.
"""

from __future__ import annotations

from typing import Any

from kdc_core import jpeg
from kdc_core.image_encodings import ImageConversionError

_PNG = b"\x89PNG\r\n\x1a\n"


def compressed_hw(data: Any) -> tuple[int, int]:
    """(height, width) in pixels of a compressed picture, a buffer of bytes.

    Raises ImageConversionError when it is neither JPEG nor PNG, or ends before its size is told.
    """
    content = memoryview(data).cast("B")
    if bytes(content[: len(_PNG)]) == _PNG:
        return _png_hw(content)
    if bytes(content[: len(jpeg.START)]) == jpeg.START:
        size_hw = jpeg.size_hw(content)
        if size_hw is None:
            raise ImageConversionError(f"the JPEG of {len(content)} bytes does not tell its size")
        return size_hw
    raise ImageConversionError(f"a compressed image must be JPEG or PNG; these {len(content)} bytes are neither")


def _png_hw(content: memoryview) -> tuple[int, int]:
    # Eight bytes of signature, then the chunk IHDR: length, name, width, height.
    if len(content) < 24 or bytes(content[12:16]) != b"IHDR":
        raise ImageConversionError(f"the PNG of {len(content)} bytes has no header")
    return int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")
