"""A run as a bag of kdc's messages, with the input's headers and times: to be opened beside the original."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from kdc_replay import journal
from kdc_replay.bag_writer import BAG_VERSION
from kdc_replay.interfaces import Messages
from kdc_replay.result_messages import MARKERS, MASKS, POSES, MarkerArrays, header, mask_array, pose_array
from kdc_replay.tracking import RunTracker

TOPICS = {"/kdc/poses": POSES, "/kdc/masks": MASKS, "/kdc/markers": MARKERS}


def write_results(path: Path, run_folder: Path, masks: bool) -> None:
    """Write the bag (MCAP) of a finished run's frames to the folder `path`; masks: whether the run made any.

    Raises JournalError, InterfaceError, OSError.
    """
    messages = Messages()
    # The files inside are called like the folder, so it is written under the name it will have.
    target = path.parent / f".{path.name}" / path.stem
    shutil.rmtree(target.parent, ignore_errors=True)
    writer = Writer(target, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        connections = {
            kind: writer.add_connection(topic, kind, typestore=messages.store)
            for topic, kind in TOPICS.items()
            if masks or kind != MASKS
        }
        tracker, markers = RunTracker(), MarkerArrays(messages)
        for record in journal.records(run_folder):
            for kind, message in _frame_messages(record, messages, tracker, markers, masks).items():
                writer.write(connections[kind], record["log_ns"], messages.serialize(message, kind))
    target.rename(path)
    target.parent.rmdir()


def _frame_messages(
    record: dict[str, Any], messages: Messages, tracker: RunTracker, markers: MarkerArrays, masks: bool
) -> dict[str, Any]:
    people = journal.people_of(record)
    tracks = tracker.update(people, journal.time_ns_of(record))
    head = header(messages, record["stamp_ns"], record["frame_id"])
    image_hw = (record["image_hw"][0], record["image_hw"][1])
    found = {
        POSES: pose_array(messages, people, tracks, head, image_hw),
        MARKERS: markers.make(people, tracks.ids, head, image_hw),
    }
    if masks:
        found[MASKS] = mask_array(messages, people, tracks, head)
    return found
