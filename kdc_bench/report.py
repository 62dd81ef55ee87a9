"""Measurements to files: JSON for machines, a Markdown table for people, a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdc_bench.result import BenchError, Row, SuiteResult


def write_report(out: Path, machine: dict[str, Any], results: dict[str, SuiteResult]) -> list[Path]:
    """Write bench.json, bench.md and, where matplotlib is installed, bench.png. Returns what was written."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "suites": {name: result.as_json() for name, result in results.items()}}
    (out / "bench.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    (out / "bench.md").write_text(markdown(machine, results))
    written = [out / "bench.json", out / "bench.md"]
    try:
        from kdc_bench.plot import plot
    except ModuleNotFoundError:
        return written
    plot(out / "bench.png", machine, results)
    return [*written, out / "bench.png"]


def markdown(machine: dict[str, Any], results: dict[str, SuiteResult]) -> str:
    """All tables, with the machine above them."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"Machine: {machine['cpu']}, {machine['cores_usable']} of {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; {machine['os']}; Python {machine['python']}; {versions}. "
        f"Load average at the start: {machine['load_average_1min']}. Times in ms: p50 / p95 / p99.",
    ]
    for name, result in results.items():
        lines += ["", f"## {name}: {result.title}", ""]
        lines += [f"- {note}" for note in result.notes]
        if result.versions:
            lines.append("- Versions: " + ", ".join(f"{k} {v}" for k, v in result.versions.items()) + ".")
        lines += ["", *table(result.rows)]
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> list[str]:
    """Rows of a Markdown table; columns are what any row has. Raises BenchError for no rows."""
    if not rows:
        raise BenchError("nothing was measured")
    cases, stages, figures = (
        list(dict.fromkeys(key for row in rows for key in getattr(row, part))) for part in ("case", "stages", "figures")
    )
    # The total stands behind its parts.
    stages.sort(key=lambda stage: stage == "total")
    lines = ["| " + " | ".join([*cases, *stages, *figures]) + " |", "|" + " --- |" * len([*cases, *stages, *figures])]
    for row in rows:
        cells = [str(row.case.get(key, "")) for key in cases]
        for stage in stages:
            s = row.stages.get(stage)
            cells.append("" if s is None else f"{s.p50:.2f} / {s.p95:.2f} / {s.p99:.2f}")
        cells += [f"{row.figures[key]:.4g}" if key in row.figures else "" for key in figures]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
