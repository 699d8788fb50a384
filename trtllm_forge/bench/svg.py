"""Charts as inline SVG, coloured by the page's own variables: no script, no font, no network."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WIDTH = 340
_HEIGHT = 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 34
_COLOURS = 4
_TIMELINE_WIDTH = 1040
_ROW = 7
_MOST_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart: a value, or none, at each place of the axis."""

    name: str
    colour: int
    values: tuple[float | None, ...]
    is_dashed: bool = False


def line_chart(
    title: str, unit: str, places: Sequence[str], axis: str, series: Sequence[Series]
) -> str:
    """Return a chart of lines over evenly spaced places, from zero on."""
    values = [value for line in series for value in line.values if value is not None]
    top = _ceiling(max(values, default=1.0))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(number: int) -> float:
        share = number / (len(places) - 1) if len(places) > 1 else 0.5
        return _LEFT + share * width

    def y(value: float) -> float:
        return _TOP + height * (1 - value / top)

    parts = []
    for step in range(5):
        value = top * step / 4
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" '
            f'y2="{y(value):.1f}"/><text class="tick" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{_tick(value)}</text>'
        )
    for number, place in enumerate(places):
        parts.append(
            f'<text class="tick" x="{x(number):.1f}" y="{_HEIGHT - _BOTTOM + 16}" '
            f'text-anchor="middle">{escape(place)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{_LEFT + width / 2:.1f}" y="{_HEIGHT - 3}" '
        f'text-anchor="middle">{escape(axis)}</text>'
    )
    for line in series:
        points = [(x(n), y(v), v) for n, v in enumerate(line.values) if v is not None]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
        colour = f"c{line.colour % _COLOURS}"
        dash = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        parts.append(f'<polyline class="line {colour}" points="{path}"{dash}/>')
        for (px, py, value), place in zip(points, _places_of(line, places), strict=True):
            words = f"{line.name}, {place} {axis}: {_tick(value)} {unit}"
            parts.append(
                f'<circle class="dot {colour}" cx="{px:.1f}" cy="{py:.1f}" r="3.5">'
                f"<title>{escape(words)}</title></circle>"
            )
    heading = escape(f"{title}, {unit}")
    return (
        f'<figure><figcaption>{heading}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" aria-label="{heading}">{"".join(parts)}</svg></figure>'
    )


def timeline_chart(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a bar per request, from sent to ended: waiting for the first token, then the rest."""
    shown = rows[:_MOST_ROWS]
    if not shown:
        return ""
    end_ms = max(1e-6, *(float(row["ended_ms"]) for row in shown))
    start_ms = min(0.0, *(float(row["sent_ms"]) for row in shown))
    height = len(shown) * _ROW + 24
    scale = (_TIMELINE_WIDTH - 20) / max(end_ms - start_ms, 1e-6)

    def x(time_ms: float) -> float:
        return 10.0 + (time_ms - start_ms) * scale

    parts = []
    for step in range(5):
        time_ms = start_ms + (end_ms - start_ms) * step / 4
        anchor = ("start", "middle", "middle", "middle", "end")[step]
        parts.append(
            f'<line class="grid" x1="{x(time_ms):.1f}" x2="{x(time_ms):.1f}" y1="0" '
            f'y2="{height - 18}"/><text class="tick" x="{x(time_ms):.1f}" y="{height - 5}" '
            f'text-anchor="{anchor}">{_tick(time_ms / 1000)} s</text>'
        )
    for number, row in enumerate(shown):
        parts.append(_bar(number, row, x(row["sent_ms"]), x(row["ended_ms"]), x))
    label = escape(f"requests of {name} over time")
    left_out = len(rows) - len(shown)
    note = f"<p>The first {len(shown)} of {len(rows)} requests.</p>" if left_out else ""
    return (
        f'<svg class="wide" viewBox="0 0 {_TIMELINE_WIDTH} {height}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>{note}'
    )


def _bar(number: int, row: Mapping[str, Any], left: float, right: float, x: Any) -> str:
    top = number * _ROW + 1
    took_ms = row["ended_ms"] - row["sent_ms"]
    if row["error"] is not None or row["first_ms"] is None:
        words = escape(f"request {number + 1}: {row['error']} after {took_ms:.1f} ms")
        return (
            f'<rect class="failed" x="{left:.1f}" y="{top}" width="{max(right - left, 2):.1f}" '
            f'height="{_ROW - 2}"><title>{words}</title></rect>'
        )
    first = x(row["first_ms"])
    words = escape(
        f"request {number + 1}: first token after {row['first_ms'] - row['sent_ms']:.1f} ms, "
        f"{row['tokens']} tokens in {took_ms:.1f} ms"
    )
    return (
        f'<g><title>{words}</title><rect class="wait" x="{left:.1f}" y="{top}" '
        f'width="{max(first - left, 0.5):.1f}" height="{_ROW - 2}"/><rect class="rest" '
        f'x="{first:.1f}" y="{top}" width="{max(right - first, 0.5):.1f}" '
        f'height="{_ROW - 2}"/></g>'
    )


def _places_of(line: Series, places: Sequence[str]) -> Iterator[str]:
    return (place for place, value in zip(places, line.values, strict=True) if value is not None)


def _ceiling(value: float) -> float:
    """Return the round number next above a value: 1, 2, 4, 5 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(
        (step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value), ceil(value)
    )


def _tick(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
