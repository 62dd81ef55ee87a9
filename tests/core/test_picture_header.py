"""Sizes read from the first bytes of compressed pictures, against OpenCV's decoder."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdc_core.image_encodings import ImageConversionError
from kdc_core.picture_header import compressed_hw

SIZES_HW = [(1, 1), (7, 300), (480, 640), (999, 2)]


def written(kind: str, hw: tuple[int, int], *flags: int) -> bytes:
    made, data = cv2.imencode(kind, np.full((*hw, 3), 90, np.uint8), flags)
    assert made
    return data.tobytes()


@pytest.mark.parametrize("hw", SIZES_HW)
@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (".png", ()),
        (".jpg", ()),
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        (".jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
        (".jpg", (cv2.IMWRITE_JPEG_OPTIMIZE, 1)),
    ],
)
def test_size(kind, flags, hw):
    assert compressed_hw(written(kind, hw, *flags)) == hw


def test_segments_before_the_size_are_skipped():
    plain = written(".jpg", (20, 30))
    comment = b"\xff\xfe" + (1000).to_bytes(2, "big") + b"\xff\xc0" * 499  # what looks like a marker is none
    padded = plain[:2] + comment + b"\xff\xff\xff" + plain[3:]
    assert compressed_hw(padded) == (20, 30)
    assert cv2.imdecode(np.frombuffer(padded, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (20, 30)


def test_a_picture_cut_off_anywhere_has_its_size_or_an_error():
    for kind in (".png", ".jpg"):
        whole = written(kind, (20, 30))
        for length in range(len(whole)):
            try:
                assert compressed_hw(whole[:length]) == (20, 30)
            except ImageConversionError as error:
                assert str(length) in str(error)  # says how much there was


@pytest.mark.parametrize("kind", [".bmp", ".tiff", ".webp"])
def test_other_formats_are_refused(kind):
    with pytest.raises(ImageConversionError, match="must be JPEG or PNG"):
        compressed_hw(written(kind, (20, 30)))
