"""What the node tells /diagnostics: how it is, in four statuses (state, input, output, process).

`judge` makes them of plain values; `Report` holds those. Levels: each threshold is a parameter, 0 = off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from kdc_ros.frame_statistics import Snapshot
from kdc_ros.parameters import Settings

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_MAX_CAUSES = 5
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Report:
    """What is judged.

    state:      the lifecycle state's label.
    fault:      why the last transition failed; "" when it did not.
    loading_s:  seconds since loading the network began; None while nothing is loaded.
    doing:      what loading is at, where it takes long (an engine being built); else "".
    enabled:    whether frames are asked for (~/enable).
    network:    what is loaded: model, input, backend; empty when nothing is.
    now, before: the statistics now, and about `WINDOW_S` earlier (drops are judged by what is new).
    silence_s:  seconds without a frame while frames are expected; None while none are.
    mismatches: peers whose quality of service does not match.
    topic:      the image topic, "" while none is subscribed.
    publishers: how many publishers it has.
    memory_mb:  resident memory of the process.
    """

    state: str
    fault: str = ""
    loading_s: float | None = None
    doing: str = ""
    enabled: bool = True
    network: dict[str, str] = field(default_factory=dict)
    now: Snapshot = field(default_factory=Snapshot)
    before: Snapshot = field(default_factory=Snapshot)
    silence_s: float | None = None
    mismatches: tuple[str, ...] = ()
    topic: str = ""
    publishers: int = 0
    memory_mb: float = 0.0

    @property
    def working(self) -> bool:
        """Whether frames are to be processed."""
        return self.state == "active" and self.enabled


class _Level:
    """The worst level so far, with all that was said at it or above OK."""

    def __init__(self) -> None:
        self.level: bytes = OK
        self._texts: list[str] = []

    def add(self, level: bytes, text: str) -> None:
        self.level = max(self.level, level)
        self._texts.append(text)

    def exceeds(self, value: float | None, warn: float, error: float, text: str) -> None:
        """Judge a value that should not be above its thresholds (0 = off)."""
        if value is None:
            return
        for level, limit in ((ERROR, error), (WARN, warn)):
            if 0 < limit < value:
                self.add(level, text)
                return

    def message(self, otherwise: str) -> str:
        return "; ".join(self._texts) or otherwise


def judge(report: Report, settings: Settings, node_name: str, hardware_id: str) -> list[DiagnosticStatus]:
    """The statuses of a node, named "<node>: state" and so on."""
    made = {
        "state": _state(report),
        "input": _input(report, settings),
        "output": _output(report, settings),
        "process": _process(report, settings),
    }
    statuses = []
    for name, (level, message, values) in made.items():
        pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
        statuses.append(
            DiagnosticStatus(
                level=level, name=f"{node_name}: {name}", message=message, hardware_id=hardware_id, values=pairs
            )
        )
    return statuses


def _state(report: Report) -> tuple[bytes, str, dict[str, str]]:
    level = _Level()
    said = report.state if report.enabled else f"{report.state}, paused by ~/enable"
    if report.loading_s is not None:
        said = f"loading the network for {report.loading_s:.0f} s"
        if report.doing:
            said += f" ({report.doing})"
    elif report.fault:
        level.add(ERROR, f"{report.state}: {report.fault}")
    return level.level, level.message(said), {"state": report.state, "enabled": str(report.enabled), **report.network}


def _input(report: Report, settings: Settings) -> tuple[bytes, str, dict[str, str]]:
    level, now, before = _Level(), report.now, report.before
    if report.silence_s is not None:
        silence = f"no frames on '{report.topic}' for {report.silence_s:.0f} s"
        level.exceeds(report.silence_s, settings.no_frame_timeout_s, settings.no_frame_error_s, silence)
    for text in report.mismatches:
        level.add(WARN, text)
    spoilt = now.spoilt - before.spoilt
    if spoilt:
        nothing_else = now.processed == before.processed
        level.add(ERROR if nothing_else else WARN, f"{spoilt} frames malformed or failed lately")
    unpaired = now.unpaired - before.unpaired
    if unpaired and now.paired == before.paired:
        level.add(WARN, "no usable depth image goes with the frames")
    unusable = now.unusable - before.unusable
    if unusable:
        level.add(WARN, unusable.most_common(1)[0][0])
    if now.stamp_jumps > before.stamp_jumps:
        level.add(WARN, "stamps jumped back")
    values = {
        "topic": report.topic,
        "publishers": str(report.publishers),
        "rate (Hz)": f"{now.input_rate_hz:.1f}",
        "received": str(now.received),
        "dropped: superseded": str(now.superseded),
        "dropped: discarded": str(now.discarded),
        "dropped: malformed": str(now.rejected.total()),
        "dropped: failed": str(now.failed),
        "dropped: too old": str(now.too_old),
        "dropped: out of order": str(now.out_of_order),
        "with depth": str(now.paired),
        "without depth": str(now.unpaired),
        "depth or calibration unusable": str(now.unusable.total()),
        "stamps jumped back": str(now.stamp_jumps),
        "stamps of another clock": str(now.odd_stamps),
    }
    for cause, count in now.rejected.most_common(_MAX_CAUSES):
        values[f"malformed: {cause}"] = str(count)
    for cause, count in now.unusable.most_common(_MAX_CAUSES):
        values[f"unusable: {cause}"] = str(count)
    return level.level, level.message(f"{now.input_rate_hz:.1f} Hz"), values


def _output(report: Report, settings: Settings) -> tuple[bytes, str, dict[str, str]]:
    level, now = _Level(), report.now
    if report.working:
        p95_s = now.age_p95_s
        if p95_s is not None:
            text = f"results are {p95_s * 1e3:.0f} ms old (95th percentile)"
            level.exceeds(p95_s, settings.age_warn_s, settings.age_error_s, text)
        rate_hz = now.output_rate_hz
        for at, limit in ((ERROR, settings.rate_error_hz), (WARN, settings.rate_warn_hz)):
            if rate_hz < limit:
                level.add(at, f"only {rate_hz:.1f} results per second")
                break
    values = {
        "rate (Hz)": f"{now.output_rate_hz:.1f}",
        "processed": str(now.processed),
        "people": str(now.people),
        "age p50 (ms)": _ms(now.age_p50_s),
        "age p95 (ms)": _ms(now.age_p95_s),
    }
    values |= {f"{stage} (ms)": f"{ms:.1f}" for stage, ms in now.stage_ms.items()}
    return level.level, level.message(f"{now.output_rate_hz:.1f} Hz, {now.people} people"), values


def _process(report: Report, settings: Settings) -> tuple[bytes, str, dict[str, str]]:
    level = _Level()
    text = f"{report.memory_mb:.0f} MB of memory"
    level.exceeds(report.memory_mb, settings.memory_warn_mb, settings.memory_error_mb, text)
    return level.level, level.message(text), {"memory (MB)": f"{report.memory_mb:.1f}", "process": str(os.getpid())}


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1e3:.1f}"


def resident_memory_mb(pid: int | None = None) -> float:
    """Resident memory of this process, or another, in MB; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc", str(pid or "self"), "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * _PAGE_BYTES / 1e6
