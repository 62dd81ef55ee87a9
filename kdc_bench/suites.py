"""The suites of `kdc bench`, each a function `measure(settings) -> SuiteResult` in a module of its own.

A suite is imported when it runs, so one that needs more (ROS, the peers' packages) costs the others nothing.
"""

from __future__ import annotations

import importlib

from kdc_bench.result import BenchError, BenchSettings, SuiteResult

SUITES: dict[str, str] = {
    "ceiling": "kdc_bench.ceiling",
    "decode": "kdc_bench.decoding",
    "pipeline": "kdc_bench.stages",
    "startup": "kdc_bench.startup",
    "peers": "kdc_bench.peers.suite",
    "training": "kdc_bench.training",
    "node": "kdc_ros.bench",
}
DEFAULT_SUITES = ("decode", "pipeline", "startup")


def run_suite(name: str, settings: BenchSettings) -> SuiteResult:
    """Measure one suite. Raises BenchError where this machine lacks something for it."""
    if name not in SUITES:
        raise BenchError(f"there is no suite '{name}': choose from {', '.join(SUITES)}")
    try:
        suite = importlib.import_module(SUITES[name])
    except ModuleNotFoundError as error:
        # Of our own packages nothing is missing, so it is something that only this suite needs: ROS.
        raise BenchError(f"`{name}` needs the Python package {error.name}: source ROS 2 and our package") from error
    result: SuiteResult = suite.measure(settings)
    return result
