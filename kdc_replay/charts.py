"""Charts as SVG text for the HTML pages: few kinds, readable on light and dark grounds, the same bytes every time.

Colours come from the page's style sheet (classes s0, s1, ... for series), except where a person's own colour counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH = 860
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 36
# More points than this cannot be told apart on the page.
_MOST_POINTS = 1600
_ROW_PX = 16


@dataclass(frozen=True, eq=False)
class Series:
    """One line of a chart: x ascending and y, float (N,); NaN in y breaks the line. step: y holds until the next x."""

    name: str
    x: np.ndarray
    y: np.ndarray
    step: bool = False


@dataclass(frozen=True)
class Span:
    """A part of a timeline's row, from `start` to `end`; kind is a class of the style sheet."""

    start: float
    end: float
    kind: str


@dataclass(frozen=True)
class TimelineRow:
    """A row of a timeline: its label, its colour (red, green, blue), its parts, and marks (place, what it says)."""

    label: str
    colour: tuple[int, int, int]
    spans: Sequence[Span]
    marks: Sequence[tuple[float, str]] = ()


class _Axes:
    """Data to pixels, and the frame around the data."""

    def __init__(
        self, x_range: tuple[float, float], y_range: tuple[float, float], height: int, left: int = _LEFT
    ) -> None:
        self.x_range, self.y_range = _opened(x_range), _opened(y_range)
        self.height, self.left = height, left

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (WIDTH - self.left - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)

    def frame(self, x_label: str, y_label: str, rows: bool = False) -> list[str]:
        """Grid, ticks and labels; without those of y where the rows have labels of their own."""
        bottom, right = self.height - _BOTTOM, WIDTH - _RIGHT
        parts = []
        for tick in ticks(*self.x_range):
            x = _px(self.x(tick))
            parts.append(f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{_number(tick)}</text>')
        for tick in [] if rows else ticks(*self.y_range, 5):
            y = _px(self.y(tick))
            parts.append(f'<line class="grid" x1="{self.left}" y1="{y}" x2="{right}" y2="{y}"/>')
            parts.append(f'<text x="{self.left - 6}" y="{y}" dy="4" text-anchor="end">{_number(tick)}</text>')
        middle = _px((self.left + right) / 2)
        parts.append(f'<text x="{middle}" y="{self.height - 4}" text-anchor="middle">{escape(x_label)}</text>')
        if y_label:
            middle = _px((_TOP + bottom) / 2)
            turned = f'transform="translate(12 {middle}) rotate(-90)"'
            parts.append(f'<text {turned} text-anchor="middle">{escape(y_label)}</text>')
        return parts


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    height: int = 200,
) -> str:
    """Lines over a common axis, with a legend where there are several."""
    known = [s.y[np.isfinite(s.y)] for s in series]
    highest = max((float(y.max()) for y in known if len(y)), default=1.0)
    lowest = min((float(y.min()) for y in known if len(y)), default=0.0)
    axes = _Axes(x_range or _range_of(series), y_range or (min(0.0, lowest), highest * 1.05 or 1.0), height)
    parts = axes.frame(x_label, y_label)
    for number, line in enumerate(series):
        for points in _pieces(*_thinned(line)):
            if len(points) == 1:
                x, y = points[0].tolist()
                parts.append(f'<circle class="bar s{number}" cx="{_px(axes.x(x))}" cy="{_px(axes.y(y))}" r="2.5"/>')
            else:
                parts.append(f'<path class="line s{number}" d="{_path(points, axes, line.step)}"/>')
    return _svg(height, parts, f"{y_label} over {x_label}") + _legend([s.name for s in series])


def histogram(
    groups: Mapping[str, Sequence[float]], x_label: str, x_range: tuple[float, float] | None = None, bins: int = 40
) -> str:
    """How often values occur, groups beside each other in every bin; values beyond the range count in its last bins."""
    values = {name: np.asarray(v, np.float64) for name, v in groups.items()}
    everything = np.concatenate([*values.values(), np.zeros(0)])
    if x_range is None:
        low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
        x_range = _opened((low, high))
    edges = np.linspace(*x_range, bins + 1)
    counts = {name: np.histogram(np.clip(v, *x_range), edges)[0] for name, v in values.items()}
    highest = max((int(c.max()) for c in counts.values()), default=0)
    height = 180
    axes = _Axes(x_range, (0.0, max(1.0, highest * 1.05)), height)
    parts = axes.frame(x_label, "how often")
    for number, (name, count) in enumerate(counts.items()):
        for i in np.flatnonzero(count).tolist():
            share = (edges[i + 1] - edges[i]) / len(counts)
            left, right = axes.x(edges[i] + number * share), axes.x(edges[i] + (number + 1) * share)
            top = axes.y(float(count[i]))
            tip = f"{name}: {count[i]} from {_number(edges[i])} to {_number(edges[i + 1])}"
            place = f'x="{_px(left + 0.4)}" y="{_px(top)}" width="{_px(max(0.6, right - left - 0.8))}"'
            parts.append(
                f'<rect class="bar s{number}" {place} height="{_px(height - _BOTTOM - top)}">'
                f"<title>{escape(tip)}</title></rect>"
            )
    return _svg(height, parts, f"histogram of {x_label}") + _legend(list(counts))


def bar_chart(bars: Mapping[str, float], x_label: str, x_range: tuple[float, float]) -> str:
    """A horizontal bar for each name."""
    height = _TOP + _BOTTOM + _ROW_PX * max(1, len(bars))
    axes = _Axes(x_range, (0.0, 1.0), height, left=120)
    parts = axes.frame(x_label, "", rows=True)
    for row, (name, value) in enumerate(bars.items()):
        y = _TOP + _ROW_PX * row
        width = max(0.0, axes.x(value) - axes.left) if math.isfinite(value) else 0.0
        shown = f"{value:.3f}" if math.isfinite(value) else "none"
        parts.append(f'<text x="{axes.left - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect class="bar s0" x="{axes.left}" y="{y + 2}" width="{_px(width)}" height="{_ROW_PX - 4}">'
            f"<title>{escape(name)}: {shown}</title></rect>"
        )
    return _svg(height, parts, x_label)


def timeline(rows: Sequence[TimelineRow], x_label: str, x_range: tuple[float, float]) -> str:
    """A row for each track, with bars where it is seen, a thin line where it is away, and marks."""
    height = _TOP + _BOTTOM + _ROW_PX * max(1, len(rows))
    axes = _Axes(x_range, (0.0, 1.0), height)
    parts = axes.frame(x_label, "", rows=True)
    for number, row in enumerate(rows):
        top = _TOP + _ROW_PX * number
        colour = "rgb({} {} {})".format(*row.colour)
        parts.append(f'<text x="{_LEFT - 6}" y="{top + 12}" text-anchor="end">{escape(row.label)}</text>')
        middle = top + _ROW_PX / 2
        for span, following in zip(row.spans, row.spans[1:]):
            if following.start > span.end:
                x1, x2 = _px(axes.x(span.end)), _px(axes.x(following.start))
                parts.append(
                    f'<line class="away" stroke="{colour}" x1="{x1}" y1="{middle}" x2="{x2}" y2="{middle}"/>'
                )
        for span in row.spans:
            x, width = axes.x(span.start), max(1.0, axes.x(span.end) - axes.x(span.start))
            tip = f"{row.label}: {span.kind}, {_number(span.start)} to {_number(span.end)}"
            parts.append(
                f'<rect class="track {escape(span.kind)}" fill="{colour}" x="{_px(x)}" y="{top + 3}" '
                f'width="{_px(width)}" height="{_ROW_PX - 6}"><title>{escape(tip)}</title></rect>'
            )
        for place, text in row.marks:
            x = axes.x(place)
            parts.append(
                f'<path class="mark" d="M{_px(x)} {top + 1}l4 {_ROW_PX - 2}h-8z"><title>{escape(text)}</title></path>'
            )
    return _svg(height, parts, "track timeline")


def ticks(low: float, high: float, about: int = 8) -> list[float]:
    """Round numbers within a range, roughly so many, 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _opened(limits: tuple[float, float]) -> tuple[float, float]:
    """A range with some width."""
    low, high = limits
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _range_of(series: Sequence[Series]) -> tuple[float, float]:
    ends = [end for s in series if len(s.x) for end in (float(s.x[0]), float(s.x[-1]))]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _thinned(line: Series) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each of some hundred pieces, in order, where there are too many points to show."""
    if len(line.x) <= _MOST_POINTS:
        return line.x, line.y
    keep: set[int] = {0, len(line.x) - 1}
    for piece in np.array_split(np.arange(len(line.x)), _MOST_POINTS // 2):
        y = line.y[piece]
        if not np.isfinite(y).all():
            keep.update(piece[~np.isfinite(y)][:1].tolist())
        if np.isfinite(y).any():
            keep.update((int(piece[np.nanargmin(y)]), int(piece[np.nanargmax(y)])))
    order = np.array(sorted(keep))
    return line.x[order], line.y[order]


def _pieces(x: np.ndarray, y: np.ndarray) -> Iterable[np.ndarray]:
    """Unbroken stretches, float (N, 2)."""
    broken = np.flatnonzero(~np.isfinite(y))
    for piece in np.split(np.column_stack([x, y]), broken):
        whole = piece[np.isfinite(piece[:, 1])]
        if len(whole):
            yield whole


def _path(points: np.ndarray, axes: _Axes, step: bool) -> str:
    words = []
    for i, (x, y) in enumerate(points.tolist()):
        px, py = _px(axes.x(x)), _px(axes.y(y))
        if i == 0:
            words.append(f"M{px} {py}")
        else:
            words.append(f"H{px}V{py}" if step else f"L{px} {py}")
    return "".join(words)


def _svg(height: int, parts: Iterable[str], title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return f'<div class="scroll">{head}{"".join(parts)}</svg></div>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    entries = "".join(f'<span><i class="s{i}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<p class="legend">{entries}</p>'


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _number(value: float) -> str:
    return f"{value:.6g}" if abs(value) >= 1000 else f"{value:.3g}"
