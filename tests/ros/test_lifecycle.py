"""Every transition of the real node, by the standard services over DDS; pausing, resetting, faults."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("onnx", reason="needs onnx")
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from kdc_core.pipeline import Pipeline
from kdc_ros.image_conversion import rgb_to_message
from kdc_ros.inputs import Inputs
from kdc_ros.network import Network, StartupError
from kdc_ros.parameters import Settings
from tests.ros.node_bench import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, SHUTDOWN, values
from tests.ros.processes import EXCHANGE_TIMEOUT_S, wait_until

BRIGHT = np.full((48, 64, 3), 180, np.uint8)


def picture(node):
    """A picture stamped now."""
    return rgb_to_message(BRIGHT, Header(stamp=node.get_clock().now().to_msg(), frame_id="lens"))


def answers(bench) -> None:
    """Wait until a new frame comes back."""
    seen = len(bench.poses)
    bench.publish_until(lambda: picture(bench.client), lambda: len(bench.poses) > seen)
    assert len(bench.poses[-1].people) == 1


def test_the_whole_life(make_bench, canned_model):
    bench = make_bench(model=str(canned_model), autostart=False)
    assert bench.state() == "unconfigured"
    assert not bench.change(ACTIVATE)  # not from here
    assert bench.change(CONFIGURE)
    assert bench.state() == "inactive"
    assert bench.node._network.loaded
    assert bench.client.count_publishers(f"{bench.namespace}/kdc/poses") == 0
    assert bench.change(ACTIVATE)
    assert bench.state() == "active"
    answers(bench)

    assert bench.change(DEACTIVATE)
    assert bench.state() == "inactive"
    assert not bench.node._network.loaded, "deactivate frees the network"
    assert bench.node.count_subscribers(f"{bench.namespace}/image") == 0
    # What is read when the network is loaded may change now.
    assert bench.set_parameter("threads", 1).successful
    assert bench.change(ACTIVATE)
    answers(bench)
    refused = bench.set_parameter("threads", 2)
    assert not refused.successful and "deactivate" in refused.reason

    assert bench.change(DEACTIVATE)
    assert bench.change(CLEANUP)
    assert bench.state() == "unconfigured"
    assert bench.change(CONFIGURE)
    assert bench.change(ACTIVATE)
    answers(bench)
    assert bench.change(SHUTDOWN["active"])
    assert bench.state() == "finalized"
    assert not bench.node._network.loaded
    assert not bench.node.ended.done()


@pytest.mark.parametrize("configured", [False, True])
def test_shutdown_before_it_works(make_bench, canned_model, configured):
    bench = make_bench(model=str(canned_model), autostart=False)
    if configured:
        assert bench.change(CONFIGURE)
    assert bench.change(SHUTDOWN["inactive" if configured else "unconfigured"])
    assert bench.state() == "finalized"


def test_a_missing_model_leaves_it_unconfigured(make_bench, canned_model, tmp_path):
    model = tmp_path / "later.onnx"
    bench = make_bench(model=str(model), autostart=False)
    assert not bench.change(CONFIGURE)
    assert bench.state() == "unconfigured"
    assert "there is no model file at" in bench.node.fault
    status = bench.status("state")
    assert status.level == status.ERROR and "there is no model file at" in status.message
    model.write_bytes(canned_model.read_bytes())
    assert bench.change(CONFIGURE)
    assert bench.state() == "inactive"
    model.unlink()
    assert bench.change(ACTIVATE), "it is loaded already"
    answers(bench)  # the file's end does not matter to a network that is loaded
    assert bench.change(DEACTIVATE)
    assert not bench.change(ACTIVATE)
    assert bench.state() == "inactive"
    status = bench.status("state")
    assert status.level == status.ERROR and "there is no model file at" in status.message


def test_a_failing_activation_later_does_not_end_a_node_that_started_by_itself(make_bench, canned_model, tmp_path):
    model = tmp_path / "gone.onnx"
    model.write_bytes(canned_model.read_bytes())
    bench = make_bench(model=str(model))
    bench.wait_for_state("active")
    model.unlink()
    assert bench.change(DEACTIVATE) and not bench.change(ACTIVATE)
    assert bench.state() == "inactive"
    assert "there is no model file" in bench.node.fault and not bench.node.ended.done()
    model.write_bytes(canned_model.read_bytes())
    assert bench.change(ACTIVATE)
    answers(bench)


def test_the_state_is_told_while_it_loads(make_bench, canned_model, monkeypatch):
    go_on = threading.Event()
    load = Pipeline.load
    monkeypatch.setattr(Pipeline, "load", lambda *args, **options: go_on.wait(60) and load(*args, **options))
    bench = make_bench(model=str(canned_model))  # starts by itself
    assert wait_until(lambda: bench.state() == "configuring", EXCHANGE_TIMEOUT_S)
    assert bench.status("state").message.startswith("loading the network for")
    assert not bench.change(ACTIVATE)
    go_on.set()
    bench.wait_for_state("active")
    answers(bench)


def test_a_load_without_end_is_given_up(make_bench, canned_model, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: go_on.wait(60))
    bench = make_bench(model=str(canned_model), autostart=False, load_timeout_s=0.3)
    assert not bench.change(CONFIGURE)
    assert "load_timeout_s" in bench.node.fault
    assert bench.state() == "unconfigured"
    go_on.set()


def test_a_dead_inference_thread_is_an_error(make_bench, canned_model, monkeypatch):
    bench = make_bench(model=str(canned_model), autostart=False)

    def broken(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(bench.node._network, "_process", broken)
    assert bench.change(CONFIGURE) and bench.change(ACTIVATE)
    bench.publish_until(lambda: picture(bench.client), lambda: bench.node.state_label != "active")
    bench.wait_for_state("unconfigured")
    status = bench.status("state")
    assert status.level == status.ERROR and "KeyError" in status.message
    monkeypatch.undo()
    assert not bench.node._network.loaded


def test_pausing(make_bench, canned_model):
    bench = make_bench(model=str(canned_model))
    bench.wait_for_state("active")
    answers(bench)
    response = bench.enable(False)
    assert response.success and "paused" in response.message
    assert bench.node.count_subscribers(f"{bench.namespace}/image") == 0, "pausing costs nothing"
    assert bench.state() == "active" and bench.node._network.loaded
    assert values(bench.status("state"))["enabled"] == "False"
    assert bench.enable(False).success
    assert bench.enable(True).success
    answers(bench)
    # Paused while inactive, it stays so when activated.
    assert bench.change(DEACTIVATE) and bench.enable(False).success and bench.change(ACTIVATE)
    assert bench.node.count_subscribers(f"{bench.namespace}/image") == 0
    assert bench.enable(True).success
    answers(bench)


def test_a_subscription_that_cannot_be_made_is_the_callers_answer(make_bench, canned_model):
    wrong = {"qos_overrides.{namespace}/image.subscription.depth": -3}
    bench = make_bench(model=str(canned_model), autostart=False, **wrong)
    assert bench.enable(False).success
    assert bench.change(CONFIGURE) and bench.change(ACTIVATE)
    response = bench.enable(True)
    assert not response.success and "cannot subscribe" in response.message
    status = bench.status("state", lambda s: s.level == s.ERROR)
    assert "cannot subscribe" in status.message
    assert bench.state() == "active", "it lives on"
    assert bench.enable(False).success
    assert "paused" in bench.status("state", lambda s: s.level == s.OK).message


def test_a_subscription_that_fails_for_a_moment_is_no_lasting_fault(make_bench, canned_model, monkeypatch):
    bench = make_bench(model=str(canned_model))
    bench.wait_for_state("active")
    adapt = bench.node._inputs.adapt

    def failing() -> None:
        raise RuntimeError("not now")

    monkeypatch.setattr(bench.node._inputs, "adapt", failing)
    assert "cannot subscribe: not now" in bench.status("state", lambda s: s.level == s.ERROR).message
    monkeypatch.setattr(bench.node._inputs, "adapt", adapt)
    bench.status("state", lambda s: s.level == s.OK)
    answers(bench)


def test_tracks_start_afresh_on_request(make_bench, canned_model):
    bench = make_bench(model=str(canned_model))
    bench.wait_for_state("active")
    for _ in range(3):
        answers(bench)
    before = bench.poses[-1].people[0].track_id
    answers(bench)
    assert bench.poses[-1].people[0].track_id == before > 0
    assert bench.reset_tracking().success
    answers(bench)
    answers(bench)
    assert bench.poses[-1].people[0].track_id > before


def test_the_rate_is_limited(make_bench, canned_model):
    bench = make_bench(model=str(canned_model), max_rate_hz=0.01)
    bench.wait_for_state("active")
    answers(bench)  # the first at once
    seen = bench.node._statistics.snapshot()
    for _ in range(20):
        bench.publish(picture(bench.client))
    assert wait_until(lambda: bench.node._statistics.snapshot().received > seen.received, EXCHANGE_TIMEOUT_S)
    assert bench.node._statistics.snapshot().processed == seen.processed
    assert bench.set_parameter("max_rate_hz", 0.0).successful
    answers(bench)


def test_many_transitions(make_bench, canned_model):
    """Entities that go while the executor waits for them must not end it."""
    bench = make_bench(model=str(canned_model))
    bench.wait_for_state("active")
    for _ in range(15):
        bench.publish(picture(bench.client))
        assert bench.change(DEACTIVATE) and bench.change(ACTIVATE)
    answers(bench)


def test_a_transition_that_is_not_possible_is_refused_by_every_rclpy(make_bench, canned_model, monkeypatch):
    """Up to Jazzy the state machine's error left rclpy and ended the process."""
    from rclpy.impl.implementation_singleton import rclpy_implementation
    from rclpy.lifecycle import LifecycleNodeMixin

    name = "_LifecycleNodeMixin__change_state"
    newer = getattr(LifecycleNodeMixin, name)

    def older(node, transition_id):
        known = [transition[0] for transition in node._state_machine.available_transitions]
        if transition_id not in known:
            raise rclpy_implementation.RCLError("Transition is not registered")
        return newer(node, transition_id)

    monkeypatch.setattr(LifecycleNodeMixin, name, older)
    bench = make_bench(model=str(canned_model), autostart=False)
    assert not bench.change(ACTIVATE)
    assert bench.change(CONFIGURE)
    assert not bench.change(CONFIGURE)
    assert bench.change(ACTIVATE)
    answers(bench)


def test_a_pause_that_comes_during_the_activation_holds(make_bench, canned_model, monkeypatch):
    bench = make_bench(model=str(canned_model), autostart=False)
    assert bench.change(CONFIGURE)
    opened = Inputs.open
    asked: list[threading.Thread] = []

    def open_while_it_is_paused(inputs, mailbox):
        call = lambda: bench.node._on_enable(SetBool.Request(data=False), SetBool.Response())  # noqa: E731
        asked.append(threading.Thread(target=call))
        asked[0].start()
        assert wait_until(lambda: not bench.node._enabled, EXCHANGE_TIMEOUT_S)
        opened(inputs, mailbox)

    monkeypatch.setattr(Inputs, "open", open_while_it_is_paused)
    assert bench.change(ACTIVATE)
    asked[0].join(EXCHANGE_TIMEOUT_S)
    assert bench.state() == "active"
    assert bench.node.count_subscribers(f"{bench.namespace}/image") == 0
    monkeypatch.undo()
    assert bench.enable(True).success
    answers(bench)


def test_what_a_failed_activation_has_made_does_not_stay(make_bench, canned_model, monkeypatch):
    bench = make_bench(model=str(canned_model), autostart=False)
    assert bench.change(CONFIGURE)

    def refused(*_, **__):
        raise ValueError("no such quality of service")

    monkeypatch.setattr("kdc_ros.inputs.ImageSubscription", refused)
    assert not bench.change(ACTIVATE)
    bench.wait_for_state("unconfigured")
    assert bench.node.count_subscribers(f"{bench.namespace}/camera_info") == 0
    monkeypatch.undo()

    created = bench.node.create_publisher

    def create(kind, topic, *arguments, **options):
        return (refused if "polygons" in topic else created)(kind, topic, *arguments, **options)

    monkeypatch.setattr(bench.node, "create_publisher", create)
    before = len(list(bench.node.publishers))
    assert bench.change(CONFIGURE) and not bench.change(ACTIVATE)
    bench.wait_for_state("unconfigured")
    assert len(list(bench.node.publishers)) == before
    monkeypatch.undo()
    assert bench.change(CONFIGURE) and bench.change(ACTIVATE)
    answers(bench)


def test_a_load_that_was_given_up_does_not_speak_for_the_next(canned_model, monkeypatch, tmp_path):
    go_on, done = threading.Event(), threading.Event()
    load = Pipeline.load

    def slow_load(path, **options):
        go_on.wait(60)
        options["progress"]("building", 0.5)
        pipeline = load(path, **options)
        done.set()
        return pipeline

    monkeypatch.setattr(Pipeline, "load", slow_load)
    settings = [Settings(model=str(canned_model), load_timeout_s=0.2)]
    network = Network(lambda *_: None, lambda: settings[0], lambda: True)
    with pytest.raises(StartupError, match="load_timeout_s"):
        network.load()
    monkeypatch.undo()
    settings[0] = Settings(model=str(shutil.copy(canned_model, tmp_path / "next.onnx")))
    network.load()
    told = network.description
    assert told["model"].endswith("next.onnx")
    go_on.set()
    assert done.wait(60)
    assert wait_until(lambda: all(leaving.stop(0.0) for leaving in network._leaving), EXCHANGE_TIMEOUT_S)
    assert network.description == told and network.doing == ""
    network.free()
    assert network.description == {}
