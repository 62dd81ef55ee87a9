"""Pictures into a bag, and their annotations beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from kdc_core.rle import to_coco
from kdc_core.skeleton import KEYPOINT_NAMES, LIMBS
from kdc_replay.bag_reader import COMPRESSED_TYPE, IMAGE_TYPE, NS
from kdc_replay.demo_scene.truth import Truth

FORMATS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
# The newest that Humble's recorder does not call a bag of the future.
BAG_VERSION: Literal[8, 9] = 8
_FRAME_ID = "camera_optical_frame"


class ImageBagWriter:
    """A bag with one topic of images; use as a context manager. Raises OSError where something is there already.

    jpeg_quality: 1..100 for CompressedImage; None for raw images.
    """

    def __init__(self, path: Path, storage: str, topic: str, jpeg_quality: int | None = None) -> None:
        if path.exists():
            raise FileExistsError(f"{path} exists already")
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._writer = Writer(path, version=BAG_VERSION, storage_plugin=FORMATS[storage])
        self._type = IMAGE_TYPE if jpeg_quality is None else COMPRESSED_TYPE
        self._topic, self._quality = topic, jpeg_quality

    def __enter__(self) -> ImageBagWriter:
        self._writer.open()
        self._connection = self._writer.add_connection(self._topic, self._type, typestore=self._store)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, image: np.ndarray, stamp_ns: int) -> None:
        """Add a picture, uint8 RGB (H, W, 3), seen and recorded at `stamp_ns`."""
        types = self._store.types
        stamp = types["builtin_interfaces/msg/Time"](stamp_ns // NS, stamp_ns % NS)
        header = types["std_msgs/msg/Header"](stamp, _FRAME_ID)
        height, width = image.shape[:2]
        message: Any
        if self._quality is None:
            message = types[IMAGE_TYPE](header, height, width, "rgb8", 0, 3 * width, image.reshape(-1))
        else:
            done, data = cv2.imencode(
                ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, self._quality]
            )
            if not done:
                raise OSError(f"OpenCV cannot write a JPEG of {width} x {height}")
            message = types[COMPRESSED_TYPE](header, "rgb8; jpeg compressed bgr8", data.reshape(-1))
        self._writer.write(self._connection, stamp_ns, self._store.serialize_cdr(message, self._type))


class AnnotationWriter:
    """COCO annotations of a bag's frames, collected and written as one file."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(
        self, stamp_ns: int, image_hw: tuple[int, int], annotations: Iterable[dict[str, Any]], **image: Any
    ) -> None:
        """Add a frame with COCO annotations of it; `image_id`, and ids that are taken, are given anew.

        image: further fields of the image's record.
        """
        image_id = len(self._images) + 1
        height, width = image_hw
        frame = {"id": image_id, "stamp_ns": stamp_ns, "frame_index": image_id - 1, "width": width, "height": height}
        self._images.append({**frame, **image})
        for annotation in annotations:
            self._annotations.append({**annotation, "id": len(self._annotations) + 1, "image_id": image_id})

    def write(self, path: Path) -> None:
        """Write the file."""
        skeleton = [[a + 1, b + 1] for a, b in LIMBS]
        category = {"id": 1, "name": "person", "keypoints": list(KEYPOINT_NAMES), "skeleton": skeleton}
        parts = {"images": self._images, "annotations": self._annotations, "categories": [category]}
        # A line for each record: such files are looked at, and compared.
        text = ",\n".join(
            f'"{name}": [\n' + ",\n".join(json.dumps(record, allow_nan=False) for record in records) + "\n]"
            for name, records in parts.items()
        )
        path.write_text("{" + text + "}\n", encoding="utf-8")


def truth_annotations(truth: Truth) -> list[dict[str, Any]]:
    """What is known about a made frame as COCO annotations.

    Whoever is mostly hidden or outside the picture is marked as a crowd: neither asked for, nor wrong to find.
    """
    people = truth.people
    annotations = []
    for i in range(len(people)):
        mask = people.mask(i)
        if not mask.any():
            continue
        x_min, y_min, x_max, y_max = people.boxes_xyxy[i].astype(int).tolist()
        seen = people.keypoint_scores[i] > 0
        places = np.where(seen[:, None], people.keypoints_xy[i].astype(np.float64).round(2), 0.0)
        visibility = np.where(seen, 2, 0)
        keypoints = [v for (x, y), flag in zip(places.tolist(), visibility.tolist()) for v in (x, y, flag)]
        annotations.append(
            {
                "category_id": 1,
                "track_id": i + 1,
                "iscrowd": 0 if truth.counted[i] else 1,
                "bbox": [x_min, y_min, x_max - x_min + 1, y_max - y_min + 1],
                "area": int(mask.sum()),
                "num_keypoints": int(seen.sum()),
                "keypoints": keypoints,
                "segmentation": to_coco(mask),
            }
        )
    return annotations
