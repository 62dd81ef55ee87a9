"""Bags of every storage and compression, whole and damaged."""

from __future__ import annotations

import shutil
import sqlite3
import struct

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs the extra 'replay'")
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from kdc_replay.bag_reader import BagError, BagReader, FrameError, Selection
from tests.replay import bags
from tests.replay.bags import TOPIC, join_bags, picture, stamp_of, storage_file, write_bag

MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def read(path, topic=None, **selection):
    """(frames, notes) of a bag."""
    with BagReader(path) as bag:
        frames = list(bag.frames(bag.choose_topic(topic), Selection(**selection)))
        return frames, bag.notes


def numbers(frames):
    """Which pictures these are: the stamps tell, and the pixels must agree."""
    found = [(frame.stamp_ns - bags.FIRST_NS) // bags.PERIOD_NS for frame in frames]
    for number, frame in zip(found, frames):
        assert frame.stamp_ns == stamp_of(number) and frame.log_ns == stamp_of(number) + bags.LOG_DELAY_NS
        assert frame.frame_id == "camera_optical"
        assert np.array_equal(frame.image, picture(number, frame.image.shape[:2]))
    return found


@pytest.mark.parametrize("compressed_images", [False, True])
@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (MCAP, CompressionMode.NONE),
        (MCAP, CompressionMode.STORAGE),
        (MCAP, CompressionMode.MESSAGE),
        (MCAP, CompressionMode.FILE),
        (SQLITE, CompressionMode.NONE),
        (SQLITE, CompressionMode.MESSAGE),
        (SQLITE, CompressionMode.FILE),
    ],
)
def test_every_frame_once(tmp_path, storage, compression, compressed_images):
    bag = write_bag(tmp_path / "bag", storage=storage, compression=compression, compressed_images=compressed_images)
    for path in (bag, storage_file(bag)):
        frames, notes = read(path)
        assert numbers(frames) == [frame.index for frame in frames] == list(range(6))
        assert notes == []


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_split_bags(tmp_path, storage):
    # Eleven files: their numbers count, not their letters.
    parts = [write_bag(tmp_path / f"p{i}", range(2 * i, 2 * i + 2), storage=storage) for i in range(11)]
    bag = join_bags(tmp_path / "whole", parts)
    frames, notes = read(bag)
    assert numbers(frames) == [frame.index for frame in frames] == list(range(22))
    assert notes == []
    (bag / "metadata.yaml").unlink()
    frames, notes = read(bag)
    assert numbers(frames) == list(range(22))
    assert len(notes) == 1 and "no metadata.yaml" in notes[0]


def test_messages_are_ordered_by_log_time(tmp_path):
    bag = write_bag(tmp_path / "bag", [3, 0, 2, 1])
    frames, _ = read(bag)
    assert numbers(frames) == [0, 1, 2, 3]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, list(range(10))),
        ({"every": 3}, [0, 3, 6, 9]),
        ({"start_s": 0.25}, [3, 4, 5, 6, 7, 8, 9]),
        ({"start_s": 0.2, "duration_s": 0.3}, [2, 3, 4]),
        ({"start_s": 0.25, "duration_s": 0.5, "every": 2}, [3, 5, 7]),
        ({"start_s": 5.0}, []),
    ],
)
def test_selection(tmp_path, selection, expected):
    frames, _ = read(write_bag(tmp_path / "bag", range(10)), **selection)
    assert numbers(frames) == [frame.index for frame in frames] == expected


@pytest.mark.parametrize("wrong", [{"start_s": -1}, {"duration_s": 0}, {"every": 0}, {"start_s": float("nan")}])
def test_impossible_selections(wrong):
    with pytest.raises(ValueError, match="must be 0 or more"):
        Selection(**wrong)


def test_topics(tmp_path):
    bag = write_bag(tmp_path / "bag", topics=["/left", "/right"], others={"/text": "std_msgs/msg/String"})
    with BagReader(bag) as reader:
        assert reader.choose_topic("/left") == reader.choose_topic("left") == "/left"
        with pytest.raises(BagError, match=r"several image topics.*/left \(sensor_msgs/msg/Image, 6 mess.*/right"):
            reader.choose_topic(None)
        with pytest.raises(BagError, match=r"no topic /camera in the bag; its image topics: /left .*/right"):
            reader.choose_topic("/camera")
        with pytest.raises(BagError, match=r"/text is of type std_msgs/msg/String; images are sensor_msgs/msg/Image"):
            reader.choose_topic("/text")
        assert reader.expected_frames("/left", Selection(every=4)) == 2
    with BagReader(write_bag(tmp_path / "bare", topics=["camera", "/left"])) as reader:
        assert reader.choose_topic("camera") == "camera" and reader.choose_topic("left") == "/left"
    without = write_bag(tmp_path / "without", topics=[], others={"/text": "std_msgs/msg/String"})
    with BagReader(without) as reader, pytest.raises(BagError, match=r"no image topic.*/text \(std_msgs/msg/String, 1"):
        reader.choose_topic(None)


def test_what_is_no_bag(tmp_path):
    with pytest.raises(BagError, match="no such bag"):
        BagReader(tmp_path / "nothing")
    with pytest.raises(BagError, match="is not a bag: there is no metadata.yaml and no .mcap"):
        BagReader(tmp_path)
    for name, cause in (("a.bag", "a bag of ROS 1"), ("a.txt", "is not a ROS 2 bag")):
        (tmp_path / name).write_text("x")
        with pytest.raises(BagError, match=cause):
            BagReader(tmp_path / name)
    for name in ("a.mcap", "a.db3"):
        (tmp_path / name).write_text("this is not what the name says")
        with pytest.raises(BagError, match="no topic in the bag"):
            BagReader(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(BagError, match="no topic in the bag"):
            BagReader(tmp_path / name)
    empty = write_bag(tmp_path / "empty", [])
    assert read(empty) == ([], [])


def test_broken_frames_are_told_apart(tmp_path):
    bag = write_bag(tmp_path / "bag", broken=[1, 4])
    with BagReader(bag) as reader:
        raw = list(reader.raw_frames(TOPIC))
        assert [frame.index for frame in raw] == list(range(6))
        for number in (1, 4):
            with pytest.raises(FrameError, match="the message is no sensor_msgs/msg/Image"):
                raw[number].decode()
        assert [frame.index for frame in reader.frames(TOPIC)] == [0, 2, 3, 5]


def stamped(data: bytes, seconds: int, nanoseconds: int) -> bytes:
    """A serialized message with another stamp."""
    return data[:4] + struct.pack("<iI", seconds, nanoseconds) + data[12:]


def test_a_stamp_that_is_no_time(tmp_path, monkeypatch):
    encode = bags.image_bytes

    def broken(image, stamp_ns):
        return stamped(encode(image, stamp_ns), 10, 4_294_967_295 if stamp_ns == stamp_of(1) else 999_999_999)

    monkeypatch.setattr(bags, "image_bytes", broken)
    with BagReader(write_bag(tmp_path / "bag", range(2))) as reader:
        sound, wrong = reader.raw_frames(TOPIC)
        assert sound.decode().stamp_ns == 10_999_999_999
        with pytest.raises(FrameError, match="the stamp is no time: it has a second or more of nanoseconds"):
            wrong.decode()


@pytest.mark.parametrize(
    ("stamps_ms", "times_ms"),
    [
        ([0, 100, 200], [0, 100, 200]),  # a simulation
        ([0, 0, 100], [None, None, 100]),  # (None: the log time)
        ([0, 0, 0], [None, None, None]),
        ([0], [None]),
        ([50, 0, 100], [50, None, 100]),
        ([0, stamp_of(1) // 10**6, 0], [None, stamp_of(1) // 10**6, None]),  # a camera that needs a moment
    ],
)
def test_stamps_that_begin_at_zero(tmp_path, monkeypatch, stamps_ms, times_ms):
    encode = bags.image_bytes
    stamps = {stamp_of(i): ms * 10**6 for i, ms in enumerate(stamps_ms)}
    monkeypatch.setattr(bags, "image_bytes", lambda image, stamp_ns: encode(image, stamps[stamp_ns]))
    frames, _ = read(write_bag(tmp_path / "bag", range(len(stamps_ms))))
    assert [f.stamp_ns for f in frames] == [ms * 10**6 for ms in stamps_ms]
    assert [None if f.time_ns == f.log_ns else f.time_ns // 10**6 for f in frames] == times_ms


# Large pictures: several chunks (MCAP) and pages (SQLite).
LARGE_HW = (240, 320)


def cut(path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("with_metadata", [True, False])
@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_truncated_bags_are_read_as_far_as_they_go(tmp_path, storage, with_metadata):
    bag = write_bag(tmp_path / "bag", range(20), storage=storage, hw=LARGE_HW)
    cut(storage_file(bag), 0.7)
    if not with_metadata:
        (bag / "metadata.yaml").unlink()
    frames, notes = read(bag)
    found = numbers(frames)
    assert 8 <= len(found) <= 14 and found == list(range(len(found)))
    text = "\n".join(notes)
    assert storage_file(bag).name in text and f"{len(found)} frames of {TOPIC} read" in text
    assert (f"{20 - len(found)} of 20 frames of {TOPIC} could not be read" in text) == with_metadata
    assert ("no metadata.yaml" in text) != with_metadata


def test_a_truncated_compressed_file(tmp_path):
    bag = write_bag(tmp_path / "bag", range(20), compression=CompressionMode.FILE, hw=LARGE_HW)
    cut(storage_file(bag), 0.7)
    frames, notes = read(bag)
    found = numbers(frames)
    assert 5 <= len(found) <= 14 and found == list(range(len(found)))
    assert any("ends early" in note for note in notes)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_damage_in_the_middle(tmp_path, storage):
    bag = write_bag(tmp_path / "bag", range(20), storage=storage, hw=LARGE_HW, compression=CompressionMode.NONE)
    file = storage_file(bag)
    if storage == MCAP:
        shutil.rmtree(bag)
        bag = write_bag(tmp_path / "bag", range(20), compression=CompressionMode.STORAGE, hw=LARGE_HW)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    if storage == SQLITE:
        middle -= middle % 4096
    data[middle : middle + 8192] = b"\xff" * 8192
    file.write_bytes(bytes(data))
    frames, notes = read(bag)
    found = [(frame.stamp_ns - bags.FIRST_NS) // bags.PERIOD_NS for frame in frames]
    assert found[0] == 0 and found[-1] == 19 and len(set(found)) == len(found)
    if storage == MCAP:
        assert numbers(frames) == found and 12 <= len(found) < 20
        assert "1 damaged chunk left out" in "\n".join(notes)
        assert f"{20 - len(found)} of 20 frames of {TOPIC} could not be read" in notes


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.MESSAGE])
def test_whatever_is_damaged_nothing_hangs_or_breaks(tmp_path, storage, compression):
    bag = write_bag(tmp_path / "bag", range(8), storage=storage, compression=compression)
    file = storage_file(bag)
    whole = file.read_bytes()
    random = np.random.default_rng(5)
    frames_found = []
    for _ in range(25):
        data = bytearray(whole)
        at = int(random.integers(len(data)))
        kind = random.integers(3)
        if kind == 0:
            data[at : at + int(random.integers(9000))] = bytes(int(random.integers(9000)))
        elif kind == 1:
            for place in random.integers(0, len(data), 5):
                data[place] = random.integers(256)
        else:
            del data[at:]
        file.write_bytes(bytes(data))
        try:
            with BagReader(bag) as reader:
                if TOPIC not in reader.topics:  # its name may be what was damaged
                    continue
                raw = list(reader.raw_frames(TOPIC))
                assert [frame.index for frame in raw] == list(range(len(raw)))
                assert len(raw) == 8 or (len(raw) < 8 and reader.notes)
                frames_found.append(len(raw))
        except BagError as error:
            assert "no topic in the bag" in str(error)
    assert max(frames_found) > 4


def test_one_damaged_file_of_several(tmp_path):
    parts = [write_bag(tmp_path / f"p{i}", range(5 * i, 5 * i + 5), hw=LARGE_HW) for i in range(3)]
    bag = join_bags(tmp_path / "whole", parts)
    cut(bag / "whole_1.mcap", 0.5)
    (bag / "whole_2.mcap").rename(bag / "whole_2.gone")
    frames, notes = read(bag)
    assert numbers(frames)[:5] == [0, 1, 2, 3, 4] and len(frames) < 10
    text = "\n".join(notes)
    assert "whole_1.mcap: " in text and "whole_2.mcap is named in metadata.yaml, but it is not there" in text


def test_a_write_ahead_log_is_told_of(tmp_path):
    bag = write_bag(tmp_path / "bag", storage=SQLITE)
    file = storage_file(bag)
    (bag / f"{file.name}-wal").write_bytes(b"x" * 100)
    frames, notes = read(bag)
    assert len(frames) == 6 and "bag.db3-wal holds messages that were never merged" in notes[0]


def test_sqlite_rows_beyond_a_gap(tmp_path):
    bag = write_bag(tmp_path / "bag", range(8), storage=SQLITE)
    with sqlite3.connect(storage_file(bag)) as connection:
        connection.execute("DELETE FROM messages WHERE id IN (3, 4)")
    frames, notes = read(bag)
    assert numbers(frames) == [0, 1, 4, 5, 6, 7]
    assert notes == [f"2 of 8 frames of {TOPIC} could not be read"]


def mixed_mcap(path, encoding, schema_encoding, frames):
    """An MCAP file as Foxglove writes it: a topic of another encoding beside the pictures."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=20_000)
        writer.start(profile="ros2", library="made")
        other = writer.register_channel("/log", encoding, writer.register_schema("Log", schema_encoding, b"{}"))
        writer.add_message(other, 1, b"{}", 1)
        image = writer.register_schema(bags.IMAGE, "ros2msg", b"")
        images = writer.register_channel(TOPIC, "cdr", image)
        for number in frames:
            log_ns = stamp_of(number) + bags.LOG_DELAY_NS
            writer.add_message(images, log_ns, bags.image_bytes(picture(number), stamp_of(number)), log_ns)
        writer.finish()
    return path


@pytest.mark.parametrize(
    ("encoding", "schema_encoding"), [("json", "jsonschema"), ("protobuf", "protobuf"), ("ros1", "ros1msg")]
)
def test_other_encodings_beside_cdr(tmp_path, encoding, schema_encoding):
    path = mixed_mcap(tmp_path / "a.mcap", encoding, schema_encoding, [3, 0, 5, 1, 4, 2])
    frames, notes = read(path)
    assert numbers(frames) == [frame.index for frame in frames] == list(range(6)) and notes == []
    with BagReader(path) as reader:
        assert list(reader.topics) == [TOPIC] and reader.topics[TOPIC].count == 6
    cut(path, 0.6)
    frames, notes = read(path)
    assert 1 <= len(frames) < 6 and "damaged or ends early" in notes[0]
    only = mixed_mcap(tmp_path / "only.mcap", encoding, schema_encoding, [])
    only.write_bytes(only.read_bytes().replace(b"cdr", b"xyz"))
    cause = rf"only.mcap: its channels are encoded as {encoding}, xyz; only ROS 2's cdr is read"
    with pytest.raises(BagError, match=cause):
        BagReader(only)


def test_a_recorder_that_was_killed_while_compressing(tmp_path):
    bag = write_bag(tmp_path / "bag", compression=CompressionMode.FILE)
    write_bag(tmp_path / "plain").joinpath("plain.mcap").rename(bag / "bag.mcap")
    (bag / "metadata.yaml").unlink()
    frames, notes = read(bag)
    assert numbers(frames) == [frame.index for frame in frames] == list(range(6))
    assert notes[1:] == ["bag.mcap.zstd is not read: bag.mcap is there, too"]
