"""Pictures from bytes, without ROS. Every raw encoding is tried in tests/ros, through the messages."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdc_core.image_encodings import ImageConversionError, decode_compressed, decode_image

IMAGE = np.zeros((16, 24, 3), np.uint8)
IMAGE[:8] = (200, 100, 20)
IMAGE[8:, :12] = (10, 60, 250)


def compressed(suffix: str, picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(suffix, picture)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)])
def test_raw_pictures_from_any_buffer(kind):
    rows = np.pad(IMAGE[..., ::-1].reshape(16, -1), ((0, 0), (0, 5)), constant_values=171)
    decoded = decode_image(kind(rows.tobytes()), "bgr8", 16, 24, 24 * 3 + 5, False)
    assert np.array_equal(decoded, IMAGE)
    with pytest.raises(ImageConversionError, match="needs 1232 bytes, the message has 1231"):
        decode_image(kind(rows.tobytes()[:-1]), "bgr8", 16, 24, 24 * 3 + 5, False)


def test_compressed_colours_and_greys():
    bgr = np.ascontiguousarray(IMAGE[..., ::-1])
    assert np.array_equal(decode_compressed(compressed(".png", bgr), "rgb8; png compressed bgr8"), IMAGE)
    lossy = decode_compressed(compressed(".jpg", bgr), "bgr8; jpeg compressed bgr8")
    assert np.abs(lossy.astype(int) - IMAGE).mean() < 15  # its edges are blurred; a swapped channel would be far off
    grey = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24) * 100
    decoded = decode_compressed(compressed(".png", grey), "mono16; png compressed")
    assert decoded.dtype == np.uint8 and np.array_equal(decoded, np.repeat((grey // 256)[..., None], 3, 2))


def test_a_compressed_mosaic_gets_its_colours_back():
    mosaic = np.zeros((16, 16), np.uint8)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = 220, 40  # red and blue of RGGB
    mosaic[0::2, 1::2] = mosaic[1::2, 0::2] = 90
    decoded = decode_compressed(compressed(".png", mosaic), "bayer_rggb8; png compressed")
    assert np.array_equal(decoded[8, 8], (220, 90, 40))


@pytest.mark.parametrize(
    ("data", "image_format", "cause"),
    [
        (b"", "jpeg", "no data"),
        (b"rubbish", "png", "7 bytes of 'png' are not a picture"),
        (compressed(".jpg", IMAGE)[:-40], "jpeg", "ends early"),
        (compressed(".png", IMAGE), "16UC1; compressedDepth png", "is depth"),
        (compressed(".png", IMAGE), "32FC1; png compressed", "is depth"),
        (compressed(".png", np.full((16, 24), 2000, np.uint16)), "16UC1; png compressed ", "is depth"),
    ],
)
def test_broken_compressed_pictures(data, image_format, cause):
    with pytest.raises(ImageConversionError, match=cause):
        decode_compressed(data, image_format)
