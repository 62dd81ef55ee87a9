"""Small real bags, written with rosbags."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
TOPIC = "/camera/image_raw"
FIRST_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
LOG_DELAY_NS = 5_000_000
HW = (48, 64)


def picture(number: int, hw: tuple[int, int] = HW) -> np.ndarray:
    """A grey RGB picture with a bright rectangle (what `tests.cli.stub.StubPipeline` takes for a person) that moves
    by a pixel each frame; noise, so that compression cannot make nothing of it."""
    noise = np.random.default_rng(number)
    image = noise.integers(40, 80, (*hw, 3), np.uint8)
    x = 4 + number % 20
    image[8:40, x : x + 16] = noise.integers(200, 255, (32, 16, 3), np.uint8)
    return image


def header(stamp_ns: int, frame_id: str = "camera_optical"):
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](stamp, frame_id)


def image_bytes(image: np.ndarray, stamp_ns: int, encoding: str = "rgb8") -> bytes:
    samples = image if encoding == "rgb8" else image[..., ::-1]
    height, width = image.shape[:2]
    message = STORE.types[IMAGE](
        header(stamp_ns), height, width, encoding, 0, 3 * width, np.ascontiguousarray(samples).ravel()
    )
    return bytes(STORE.serialize_cdr(message, IMAGE))


def compressed_bytes(image: np.ndarray, stamp_ns: int, suffix: str = ".png") -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]))
    assert done
    message = STORE.types[COMPRESSED](header(stamp_ns), suffix[1:], data.ravel())
    return bytes(STORE.serialize_cdr(message, COMPRESSED))


def stamp_of(number: int) -> int:
    return FIRST_NS + number * PERIOD_NS


def write_bag(
    path: Path,
    frames: Iterable[int] = range(6),
    *,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
    compressed_images: bool = False,
    topics: Iterable[str] = (TOPIC,),
    others: dict[str, str] | None = None,
    broken: Iterable[int] = (),
    hw: tuple[int, int] = HW,
    stamped: bool = True,
) -> Path:
    """A bag of the numbered pictures on every topic.

    others: further topics with a type and one (empty) message each. broken: frames whose message is rubbish.
    stamped: without, every header's stamp is 0.
    """
    kind = COMPRESSED if compressed_images else IMAGE
    encode = compressed_bytes if compressed_images else image_bytes
    writer = Writer(path, version=8, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = [writer.add_connection(topic, kind, typestore=STORE) for topic in topics]
        for topic, other in (others or {}).items():
            extra = writer.add_connection(topic, other, typestore=STORE)
            writer.write(extra, FIRST_NS, b"\0\1\0\0" + bytes(64))
        for number in frames:
            stamp = stamp_of(number)
            data = b"\0\1\0\0rubbish" if number in broken else encode(picture(number, hw), stamp if stamped else 0)
            for connection in connections:
                writer.write(connection, stamp + LOG_DELAY_NS, data)
    return path


def storage_file(bag: Path) -> Path:
    """The bag's only storage file."""
    (file,) = (f for f in bag.iterdir() if f.name != "metadata.yaml")
    return file


def join_bags(path: Path, parts: list[Path]) -> Path:
    """Several bags of one storage as one bag of several files, as the recorder splits them."""
    path.mkdir()
    infos = [yaml.safe_load((part / "metadata.yaml").read_text())["rosbag2_bagfile_information"] for part in parts]
    merged = infos[0]
    merged["relative_file_paths"] = []
    for number, part in enumerate(parts):
        file = storage_file(part)
        name = f"{path.name}_{number}{''.join(file.suffixes)}"
        shutil.copy(file, path / name)
        merged["relative_file_paths"].append(name)
    merged["message_count"] = sum(info["message_count"] for info in infos)
    for i, topic in enumerate(merged["topics_with_message_count"]):
        topic["message_count"] = sum(info["topics_with_message_count"][i]["message_count"] for info in infos)
    (path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": merged}))
    return path
