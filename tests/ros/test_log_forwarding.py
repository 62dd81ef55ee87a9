"""What kdc_core logs and how far loading is reach the node's log and diagnostics."""

import logging

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from kdc_core.pipeline import Pipeline
from kdc_ros.log_forwarding import LogForwarding
from kdc_ros.network import Network
from kdc_ros.parameters import Settings
from tests.ros.fakes import FakeLogger


def test_kdc_core_speaks_through_the_node_while_it_lives():
    logger = FakeLogger()
    forwarding = LogForwarding(logger).open()
    source = logging.getLogger("kdc_core.backends.selection")
    source.info("backend: %s for %s", "one", "m.onnx")
    source.warning("rebuilt")
    source.error("broken")
    source.debug("not this")
    logging.getLogger("somebody.else").error("nor this")
    forwarding.close()
    source.info("nor this")
    assert logger.lines == [("info", "backend: one for m.onnx"), ("warning", "rebuilt"), ("error", "broken")]


def test_loading_tells_how_far_it_is(canned_model, monkeypatch, tmp_path):
    told = []
    load = Pipeline.load

    def slow_load(path, **options):
        assert (options["precision"], options["engine_dir"]) == ("fp16", tmp_path / "engines")
        options["progress"]("building the engine: layers", 0.4)
        told.append(network.doing)
        for name in ("precision", "engine_dir"):
            options.pop(name)
        return load(path, **options)

    monkeypatch.setattr(Pipeline, "load", slow_load)
    settings = Settings(model=str(canned_model), precision="fp16", engine_dir=str(tmp_path / "engines"))
    network = Network(lambda *_: None, lambda: settings, lambda: True)
    assert network.doing == ""
    network.load()
    try:
        assert told == ["building the engine: layers, 40%"] and network.doing == ""
    finally:
        network.free()
