"""The mailbox and the inference thread: newest frame only, faults kept, a prompt end."""

from __future__ import annotations

import threading
import time

from kdc_ros.mailbox import Mailbox
from kdc_ros.worker import InferenceWorker
from tests.ros.fakes import FakePipeline


def test_mailbox_keeps_the_newest():
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(i) for i in range(3)] == [False, True, True]
    assert mailbox.take(0) == 2
    assert mailbox.take(0) is None
    assert mailbox.dropped == 2
    assert mailbox.put(3) is False


def test_mailbox_wakes_its_reader_when_closed():
    mailbox: Mailbox[int] = Mailbox()
    results: list[int | None] = []
    reader = threading.Thread(target=lambda: results.append(mailbox.take()))
    reader.start()
    mailbox.close()
    reader.join(30)
    assert results == [None]
    assert mailbox.put(1) is False
    assert mailbox.take(0) is None


def test_mailbox_forgets_on_request():
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    mailbox.clear()
    assert mailbox.take(0) is None
    assert mailbox.put(2) is False
    assert not mailbox.wait_closed(0)
    mailbox.close()
    assert mailbox.wait_closed(0)


def test_mailbox_waits_for_an_item():
    mailbox: Mailbox[str] = Mailbox()
    threading.Timer(0.05, mailbox.put, ["late"]).start()
    assert mailbox.take(30.0) == "late"


def test_worker_takes_the_newest_frame_only():
    mailbox: Mailbox[int] = Mailbox()
    busy, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def process(_: FakePipeline, frame: int) -> None:
        seen.append(frame)
        busy.set()
        go_on.wait(30)

    worker = InferenceWorker(mailbox, FakePipeline, process)
    worker.start()
    mailbox.put(0)
    assert busy.wait(30)
    busy.clear()
    for frame in range(1, 10):  # the camera is faster than the network
        mailbox.put(frame)
    go_on.set()
    assert busy.wait(30)
    assert worker.stop(30)
    assert seen == [0, 9]
    assert mailbox.dropped == 8


def test_worker_owns_the_pipeline_in_one_thread():
    threads: set[int] = set()
    done = threading.Event()

    class Pipeline(FakePipeline):
        def __init__(self) -> None:
            threads.add(threading.get_ident())
            super().__init__()

        def close(self) -> None:
            threads.add(threading.get_ident())
            super().close()

    def process(pipeline: Pipeline, _: int) -> None:
        threads.add(threading.get_ident())
        done.set()

    mailbox: Mailbox[int] = Mailbox()
    worker = InferenceWorker(mailbox, Pipeline, process)
    worker.start()
    mailbox.put(1)
    assert done.wait(30)
    assert worker.stop(30)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_worker_keeps_a_fault_of_loading():
    def load() -> FakePipeline:
        raise FileNotFoundError("no model")

    worker = InferenceWorker(Mailbox(), load, lambda *_: None)
    worker.start()
    assert worker.wait_loaded(30)
    assert isinstance(worker.error, FileNotFoundError)
    assert worker.stop(30)


def test_worker_closes_the_pipeline_after_a_fault():
    pipeline = FakePipeline()

    def process(*_) -> None:
        raise KeyError("a bug")

    mailbox: Mailbox[int] = Mailbox()
    worker = InferenceWorker(mailbox, lambda: pipeline, process)
    worker.start()
    mailbox.put(1)
    deadline = time.monotonic() + 30
    while worker.error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert isinstance(worker.error, KeyError)
    assert worker.stop(30)
    assert pipeline.closed


def test_worker_stops_in_time_whatever_the_network_does():
    release = threading.Event()
    busy = threading.Event()

    def process(*_) -> None:
        busy.set()
        release.wait(60)

    mailbox: Mailbox[int] = Mailbox()
    worker = InferenceWorker(mailbox, FakePipeline, process)
    worker.start()
    mailbox.put(1)
    assert busy.wait(30)
    started = time.monotonic()
    assert worker.stop(0.1) is False
    assert time.monotonic() - started < 10
    release.set()
    assert worker.stop(30)


def test_stopping_a_worker_that_never_started():
    assert InferenceWorker(Mailbox(), FakePipeline, lambda *_: None).stop(1.0)


def test_what_is_thrown_away_unread_is_told():
    discarded: list[None] = []
    mailbox: Mailbox[int] = Mailbox(lambda: discarded.append(None))
    mailbox.clear()
    mailbox.put(1)
    mailbox.put(2)  # replaces the other: told by `put`
    assert discarded == []
    mailbox.clear()
    assert len(discarded) == 1
    mailbox.put(3)
    mailbox.close()
    mailbox.close()
    assert len(discarded) == 2
