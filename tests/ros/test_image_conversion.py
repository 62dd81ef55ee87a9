"""Image messages of every encoding, well-formed and not; cv_bridge and our stand-in alike."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kdc_ros import image_conversion
from kdc_ros.image_conversion import (
    SUPPORTED_ENCODINGS,
    ImageConversionError,
    convert_without_bridge,
    image_to_rgb,
    rgb_to_message,
)

HEIGHT, WIDTH = 24, 36
COLOURS = np.array(
    [[230, 20, 30], [25, 210, 40], [35, 45, 220], [200, 190, 20], [250, 250, 250], [8, 8, 8]], np.uint8
)


# On a robot, where cv_bridge is there, both ways to read a message must pass the same tests.
WAYS = {"stand-in": convert_without_bridge}
if image_conversion._cv_bridge() is not None:
    WAYS["cv_bridge"] = image_to_rgb


@pytest.fixture(params=WAYS)
def convert(request):
    """A way to read a message."""
    return WAYS[request.param]


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Upright stripes of different colours, 6 px wide, the lower half darker: no axis can be swapped."""
    stripes = COLOURS[(np.arange(width) // 6) % len(COLOURS)]
    image = np.repeat(stripes[None], height, axis=0).copy()
    image[height // 2 :] //= 2
    return image


def message_of(samples: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """A message from samples (rows, values in a row), each row followed by `padding` bytes of rubbish."""
    if samples.dtype == np.uint16:
        samples = samples.astype(">u2" if big_endian else "<u2")
    rows = np.ascontiguousarray(samples).reshape(len(samples), -1).view(np.uint8)
    if padding:
        rows = np.concatenate([rows, np.full((len(rows), padding), 171, np.uint8)], axis=1)
    height = len(rows) * 2 // 3 if encoding.startswith("nv") else len(rows)
    message = Image(
        height=height, width=WIDTH, encoding=encoding, step=rows.shape[1], is_bigendian=int(big_endian)
    )
    message.data.frombytes(rows.tobytes())
    return message


def encode(image: np.ndarray, encoding: str) -> np.ndarray:
    """The samples of a picture, uint8 RGB, in an encoding of 8 bits."""
    red, green, blue = np.moveaxis(image, -1, 0)
    if encoding.startswith("bayer"):
        # The encoding's letters are the 2 x 2 pattern, row by row.
        channel = {"r": red, "g": green, "b": blue}
        mosaic = np.empty(image.shape[:2], np.uint8)
        for i, letter in enumerate(encoding.split("_")[1][:4]):
            mosaic[i // 2 :: 2, i % 2 :: 2] = channel[letter][i // 2 :: 2, i % 2 :: 2]
        return mosaic
    opaque = np.full_like(red, 255)
    if encoding.rstrip("0123456789") in ("rgb", "bgr", "rgba", "bgra"):
        names = {"r": red, "g": green, "b": blue, "a": opaque}
        return np.stack([names[letter] for letter in encoding.rstrip("0123456789")], axis=-1)
    if encoding.startswith("mono"):
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # ITU-R BT.601, limited range, as cameras send it.
    rgb = image.astype(np.float64)
    luma = 16 + rgb @ (65.481, 128.553, 24.966) / 255
    u = 128 + rgb @ (-37.797, -74.203, 112.0) / 255
    v = 128 + rgb @ (112.0, -93.786, -18.214) / 255
    luma, u, v = (np.round(plane).astype(np.uint8) for plane in (luma, u, v))
    if encoding in ("uyvy", "yuv422"):
        return np.stack([u[:, ::2], luma[:, ::2], v[:, ::2], luma[:, 1::2]], axis=-1)
    if encoding in ("yuyv", "yuv422_yuy2"):
        return np.stack([luma[:, ::2], u[:, ::2], luma[:, 1::2], v[:, ::2]], axis=-1)
    chroma = (u, v) if encoding == "nv12" else (v, u)
    interleaved = np.stack([plane[::2, ::2] for plane in chroma], axis=-1).reshape(len(image) // 2, -1)
    return np.concatenate([luma, interleaved])


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", SUPPORTED_ENCODINGS)
def test_encodings(convert, encoding, padding):
    image = picture()
    samples = encode(image, encoding)
    expected = image
    if encoding.startswith("mono"):
        expected = np.repeat(samples[..., None], 3, axis=2)
    if encoding.endswith("16"):
        samples = samples.astype(np.uint16) * 257
    got = convert(message_of(samples, encoding, padding))
    assert got.dtype == np.uint8 and got.shape == image.shape and got.flags.c_contiguous
    difference = np.abs(got.astype(int) - expected)
    if encoding.startswith("bayer"):
        # Demosaicing blurs edges; inside the stripes and away from the borders it is exact.
        inside = np.zeros(image.shape[:2], bool)
        for start in range(0, WIDTH, 6):
            inside[2:10, start + 2 : start + 4] = True
            inside[14:22, start + 2 : start + 4] = True
        assert difference[inside].max() <= 1
    elif encoding.startswith(("nv", "yu", "uy")):
        assert difference.max() <= 4  # rounding of luma and chroma
    else:
        assert difference.max() == 0


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_rggb16"])
def test_big_endian(convert, encoding):
    samples = encode(picture(), encoding).astype(np.uint16) * 257
    little = convert(message_of(samples, encoding))
    assert np.array_equal(convert(message_of(samples, encoding, big_endian=True)), little)


def test_sixteen_bits_use_the_whole_range(convert):
    samples = np.tile(np.array([0, 128, 257, 32768, 65535, 65400], np.uint16), (HEIGHT, WIDTH // 6))
    assert convert(message_of(samples, "mono16"))[0, :6, 0].tolist() == [0, 0, 1, 128, 255, 254]


def test_tiny_images(convert):
    for height, width in ((1, 1), (1, 7), (5, 1)):
        image = picture(height, width)
        message = rgb_to_message(image, Header())
        assert np.array_equal(convert(message), image)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (2, 1)])
def test_tiny_bayer_images_do_not_crash(convert, size):
    message = Image(height=size[0], width=size[1], step=size[1], encoding="bayer_rggb8")
    message.data.frombytes(bytes(size[0] * size[1]))
    try:
        assert convert(message).shape == (*size, 3)
    except ImageConversionError as error:
        assert "bayer_rggb8" in str(error)


def broken(**changes) -> Image:
    """A good message with some fields changed."""
    message = rgb_to_message(picture(), Header())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (Image(), "0 x 0 pixels has nothing in it"),
        (broken(height=0), "nothing in it"),
        (broken(width=0), "nothing in it"),
        (broken(data=broken().data[:-1]), "needs 2592 bytes, the message has 2591"),
        (broken(data=[]), "the message has 0"),
        (broken(step=0), "the row step is 0"),
        (broken(step=3 * WIDTH - 1), "takes 108 bytes, the row step is 107"),
        (broken(height=2**31), "the message has 2592"),
        (broken(encoding="32FC1"), "encoding '32FC1' is not one of"),
        (broken(encoding="8UC3"), "encoding '8UC3' is not one of"),
        (broken(encoding=""), "encoding '' is not one of"),
        (broken(encoding="jpeg"), "encoding 'jpeg' is not one of"),
        (broken(encoding="uyvy", width=35), "needs an even size"),
        (broken(encoding="nv12", height=15), "needs an even size"),
        (broken(encoding="mono16", step=109), "the row step is 109"),
    ],
)
def test_malformed_messages(convert, message, cause):
    with pytest.raises(ImageConversionError, match=cause):
        convert(message)


def test_trailing_data_is_harmless(convert):
    message = broken()
    message.data.frombytes(bytes(100))
    assert np.array_equal(convert(message), picture())


def test_there_and_back():
    image = picture()
    header = Header(frame_id="camera")
    message = rgb_to_message(image[:, ::-1], header)  # not contiguous
    assert (message.encoding, message.step, message.header) == ("rgb8", 3 * WIDTH, header)
    assert np.array_equal(image_to_rgb(message), image[:, ::-1])
    with pytest.raises(ValueError, match="uint8"):
        rgb_to_message(image.astype(np.float32), header)


class FakeBridge:
    """Does what it is told in cv_bridge's place."""

    def __init__(self, answer):
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def imgmsg_to_cv2(self, message, desired_encoding):
        self.asked.append((message.encoding, desired_encoding))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_cv_bridge_is_preferred_where_it_knows_the_encoding(monkeypatch):
    bridge = FakeBridge(picture())
    monkeypatch.setattr(image_conversion, "_cv_bridge", lambda: bridge)
    assert np.array_equal(image_to_rgb(message_of(encode(picture(), "bgr8"), "bgr8")), picture())
    image_to_rgb(message_of(encode(picture(), "nv12"), "nv12"))  # cv_bridge has no NV12
    image_to_rgb(message_of(encode(picture(), "rgb8"), "rgb8", padding=10))  # nor steps between pixels
    swapped = rgb_to_message(picture(), Header())
    swapped.is_bigendian = 1  # it would swap single bytes, and fail
    assert np.array_equal(image_to_rgb(swapped), picture())
    assert bridge.asked == [("bgr8", "rgb8")]


def test_cv_bridge_faults_are_conversion_errors(monkeypatch):
    monkeypatch.setattr(image_conversion, "_cv_bridge", lambda: FakeBridge(TypeError("no")))
    with pytest.raises(ImageConversionError, match="cv_bridge cannot convert 'rgb8': no"):
        image_to_rgb(rgb_to_message(picture(), Header()))
