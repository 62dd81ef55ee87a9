"""Picture files: what is broken is refused, not completed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdc_core import jpeg
from kdc_core.image_encodings import ImageConversionError, decode_compressed
from kdc_core.images import UnreadableImageError, read_rgb

NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
KINDS = {
    "baseline": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
}


def encoded(picture: np.ndarray, *flags: int) -> bytes:
    made, data = cv2.imencode(".jpg", picture, flags)
    assert made
    return data.tobytes()


def with_thumbnail(whole: bytes) -> bytes:
    """The same picture with another, complete one in its header, as cameras write it."""
    exif = b"Exif\0\0" + encoded(NOISE[:8, :8])
    return whole[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + whole[2:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("thumbnail", [False, True])
def test_a_jpeg_cut_off_anywhere_is_not_whole(kind, thumbnail):
    whole = encoded(NOISE, *KINDS[kind])
    if thumbnail:
        whole = with_thumbnail(whole)
    assert jpeg.is_whole(whole) and jpeg.is_whole(whole + b"\0\0")
    assert not any(jpeg.is_whole(whole[:length]) for length in range(2, len(whole)))


@pytest.mark.parametrize("stray", [b"\0", b"\0\0\0\0\0\0\0", b"\xff", b"\x12\xff\x00"])
def test_stray_bytes_between_segments_are_skipped_as_decoders_do(stray):
    whole = encoded(NOISE)
    padded = whole[:20] + stray + whole[20:]  # behind the 18 bytes of JFIF's header
    assert jpeg.is_whole(padded) and jpeg.size_hw(memoryview(padded)) == NOISE.shape[:2]
    assert np.array_equal(decode_compressed(padded, "jpeg"), decode_compressed(whole, "jpeg"))
    assert not jpeg.is_whole(padded[:-30])


def test_files_and_messages_that_end_early_are_refused(tmp_path):
    whole = with_thumbnail(encoded(NOISE))
    path = tmp_path / "photo.jpg"
    path.write_bytes(whole)
    assert np.array_equal(read_rgb(path), decode_compressed(whole, "jpeg"))
    for share in (0.5, 0.9):
        part = whole[: int(share * len(whole))]
        path.write_bytes(part)
        with pytest.raises(UnreadableImageError, match=r"photo\.jpg ends early"):
            read_rgb(path)
        with pytest.raises(ImageConversionError, match="ends early"):
            decode_compressed(part, "jpeg")


def test_a_photo_is_turned_as_its_tag_says_or_left_as_stored(tmp_path):
    # The shortest EXIF there is: big-endian TIFF with one entry, orientation (0x0112) 6: turn it clockwise.
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    whole = encoded(NOISE)
    path = tmp_path / "photo.jpg"
    path.write_bytes(whole[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + whole[2:])
    stored = read_rgb(path, upright=False)
    assert stored.shape == NOISE.shape
    assert np.array_equal(read_rgb(path), np.rot90(stored, -1))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm", ".webp"])
def test_other_formats(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="not a picture"):
        read_rgb(path)
    assert cv2.imwrite(str(path), NOISE[..., ::-1])
    assert read_rgb(path).shape == NOISE.shape
    if suffix != ".webp":  # the others lose nothing
        assert np.array_equal(read_rgb(path), NOISE)
