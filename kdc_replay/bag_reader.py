"""Recorded images: the frames of one topic of a ROS 2 bag, each once, in the order of their log times."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from kdc_core.image_encodings import ImageConversionError, decode_compressed, decode_image
from kdc_replay.bag_files import BagError, open_files
from kdc_replay.storage import StorageFile, TopicInfo

__all__ = ["BagError", "BagReader", "Frame", "FrameError", "RawFrame", "Selection", "TopicInfo"]

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_TYPE)
NS = 1_000_000_000
_MOST_LISTED = 20
# These two messages have been the same in every distribution.
_TYPES = get_typestore(Stores.ROS2_HUMBLE)


class FrameError(ValueError):
    """One frame cannot be decoded; the message says why."""


@dataclass(frozen=True)
class Selection:
    """Which frames: those from `start_s` on, for `duration_s` (None: to the end), of these each `every`-th.

    Seconds count from the topic's first frame, by log times.
    """

    start_s: float = 0.0
    duration_s: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if not self.start_s >= 0 or (self.duration_s is not None and not self.duration_s > 0) or self.every < 1:
            raise ValueError(f"start must be 0 or more, duration and every above 0, got {self}")


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded frame.

    index:    its number among the topic's frames from 0, whatever was selected.
    stamp_ns: the header's stamp; 0 where the camera stamps nothing. log_ns: when it was recorded.
    image:    uint8 (H, W, 3) RGB.
    from_zero: the topic's clock begins at 0 with this frame: its stamp of 0 is a time.
    """

    index: int
    stamp_ns: int
    log_ns: int
    frame_id: str
    image: np.ndarray
    from_zero: bool = False

    @property
    def time_ns(self) -> int:
        """The stamp, or the log time where the camera stamps nothing."""
        return self.stamp_ns if self.from_zero else self.stamp_ns or self.log_ns


@dataclass(frozen=True, eq=False)
class RawFrame:
    """A frame as recorded; decoding is left to whoever needs the picture. from_zero: as `Frame` has it."""

    index: int
    log_ns: int
    message_type: str
    data: bytes
    from_zero: bool = False

    def decode(self) -> Frame:
        """The frame with its picture. Raises FrameError."""
        try:
            message: Any = _TYPES.deserialize_cdr(self.data, self.message_type)
        except Exception as error:  # damaged bytes make the deserializer fail in any way
            raise FrameError(f"the message is no {self.message_type} ({type(error).__name__})") from error
        stamp = message.header.stamp
        if stamp.nanosec >= NS:
            raise FrameError("the stamp is no time: it has a second or more of nanoseconds")
        stamp_ns = stamp.sec * NS + stamp.nanosec
        try:
            if self.message_type == COMPRESSED_TYPE:
                image = decode_compressed(message.data, message.format)
            else:
                image = decode_image(
                    message.data, message.encoding, message.height, message.width, message.step,
                    bool(message.is_bigendian),
                )  # fmt: skip
        except ImageConversionError as error:
            raise FrameError(str(error)) from error
        return Frame(self.index, stamp_ns, self.log_ns, message.header.frame_id, image, self.from_zero)


class BagReader:
    """A recording: a bag folder, or a single .mcap or .db3 file. Use as a context manager.

    name:  the recording's name.
    files: (name, size in bytes, fingerprint of the content) of each storage file as recorded.
    notes: what is odd or damaged, one line each; complete once the frames have been read to the end.

    Raises BagError where nothing can be read.
    """

    def __init__(self, path: Path) -> None:
        self._files = open_files(path)
        self.name = self._files.name
        self.files = list(zip(self._files.names, self._files.size_bytes, self._files.fingerprints))
        self._storages = [StorageFile(file, name) for file, name in zip(self._files.files, self._files.names)]
        self.topics = self._find_topics()
        self._read_notes: list[str] = []
        self._from_zero: dict[str, bool] = {}
        if not self.topics:
            causes = [f"{s.name}: {s.damage}" for s in self._storages if s.damage]
            self.close()
            raise BagError(f"{path}: no topic in the bag" + (f" ({'; '.join(causes)})" if causes else ""))

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for storage in self._storages:
            storage.close()
        self._files.close()

    @property
    def notes(self) -> list[str]:
        return [*self._files.notes, *self._read_notes]

    def _find_topics(self) -> dict[str, TopicInfo]:
        """Topics of all files together; a count is None where a damaged file hides it and no metadata tells it."""
        found: dict[str, TopicInfo] = {}
        for storage in self._storages:
            for info in storage.topics():
                before = found.get(info.topic)
                if before is None:
                    found[info.topic] = info
                    continue
                if before.message_type != info.message_type:
                    kinds = f"{before.message_type} and {info.message_type}"
                    found[info.topic] = TopicInfo(info.topic, kinds, before.count)
                    continue
                known = before.count is not None and info.count is not None
                count = before.count + info.count if known else None  # type: ignore[operator]
                found[info.topic] = TopicInfo(info.topic, info.message_type, count)
        for topic, count in self._files.topic_counts.items():
            if topic in found:
                found[topic] = TopicInfo(topic, found[topic].message_type, count)
        return dict(sorted(found.items()))

    def choose_topic(self, topic: str | None) -> str:
        """The image topic called so, or the only one there is. Raises BagError, which lists what is there."""
        images = {name: info for name, info in self.topics.items() if info.message_type in IMAGE_TYPES}
        if topic is None:
            if len(images) == 1:
                return next(iter(images))
            if not images:
                raise BagError(f"{self.name}: there is no image topic in the bag; there are {_listed(self.topics)}")
            raise BagError(f"{self.name}: there are several image topics, name one: {_listed(images)}")
        # ROS writes names with their slash, other recorders need not.
        name = topic if topic in self.topics or topic.startswith("/") else f"/{topic}"
        if name in images:
            return name
        if name in self.topics:
            kind = self.topics[name].message_type
            wrong = f"{self.name}: topic {name} is of type {kind}; images are {' or '.join(IMAGE_TYPES)}"
        else:
            wrong = f"{self.name}: there is no topic {name} in the bag"
        there = f"its image topics: {_listed(images)}" if images else f"no images, but {_listed(self.topics)}"
        raise BagError(f"{wrong}; {there}")

    def raw_frames(self, topic: str, selection: Selection | None = None) -> Iterator[RawFrame]:
        """The selected frames of an image topic, from file to file and in each in the order of log times.

        Frames of equal log times keep the file's order. Damage is noted in `notes`.
        """
        selection = selection or Selection()
        kind = self.topics[topic].message_type
        from_zero = self._begins_at_zero(topic)
        self._read_notes = []
        index, chosen, first_ns = -1, -1, 0
        for storage in self._storages:
            before = index
            for log_ns, data in storage.messages(topic):
                index += 1
                if index == 0:
                    first_ns = log_ns
                since_ns = log_ns - first_ns
                if selection.duration_s is not None and since_ns >= round(
                    (selection.start_s + selection.duration_s) * NS
                ):
                    return
                if since_ns < round(selection.start_s * NS):
                    continue
                chosen += 1
                if chosen % selection.every == 0:
                    yield RawFrame(index, log_ns, kind, data, from_zero and index == 0)
            if storage.damage is not None:
                self._read_notes.append(f"{storage.name}: {storage.damage}; {index - before} frames of {topic} read")
        recorded = self._files.topic_counts.get(topic)
        if recorded is not None and index + 1 < recorded:
            self._read_notes.append(f"{recorded - index - 1} of {recorded} frames of {topic} could not be read")

    def _begins_at_zero(self, topic: str) -> bool:
        """Whether the stamp of 0 of a topic's first frame is a time: the next stamp is nearer to it than to the log
        time, as a simulation's is."""
        if topic not in self._from_zero:
            messages = (message for storage in self._storages for message in storage.messages(topic))
            first_two = [(log_ns, _stamp_ns(data)) for log_ns, data in itertools.islice(messages, 2)]
            self._from_zero[topic] = False
            if len(first_two) == 2 and first_two[0][1] == 0:
                log_ns, next_ns = first_two[1]
                self._from_zero[topic] = 0 < next_ns < abs(log_ns - next_ns)
        return self._from_zero[topic]

    def frames(self, topic: str, selection: Selection | None = None) -> Iterator[Frame]:
        """The selected frames that can be decoded; the others are passed over."""
        for raw in self.raw_frames(topic, selection):
            try:
                frame = raw.decode()
            except FrameError:
                continue
            yield frame

    def expected_frames(self, topic: str, selection: Selection) -> int | None:
        """How many frames a selection will give, for a progress bar; None where that is not known beforehand."""
        count = self.topics[topic].count
        if count is None or selection.start_s or selection.duration_s is not None:
            return None
        return -(-count // selection.every)


def _stamp_ns(data: bytes) -> int:
    """The stamp of a serialized message that begins with its header; 0 where it is too short."""
    if len(data) < 12:
        return 0
    # Four bytes of encapsulation, whose second tells the byte order, come before the stamp.
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds) * NS + int(nanoseconds)


def _listed(topics: dict[str, TopicInfo]) -> str:
    lines = [
        f"{info.topic} ({info.message_type}, {'an unknown number of' if info.count is None else info.count} messages)"
        for info in topics.values()
    ]
    more = len(lines) - _MOST_LISTED
    return ", ".join(lines[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "") if lines else "no topics"
