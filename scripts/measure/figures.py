"""What is printed: figures with their ratio and target, and the arithmetic behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Comparison = Literal["<=", ">="]
_HEADINGS = ("row", "what", "mode", "ours", "against", "result", "target", "met")


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which ``fraction`` of ``values`` lie, linear between two of them.

    NaN where there are no values.
    """
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two middle ones."""
    return percentile(values, 0.5)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound on a figure's result."""

    comparison: Comparison
    bound: float

    def is_met(self, value: float) -> bool:
        """Return whether a result keeps the bound."""
        return value <= self.bound if self.comparison == "<=" else value >= self.bound


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    Attributes:
        row: The number that ``--rows`` knows it by.
        what: The quantity, as "ours against other".
        mode: The settings both sides share.
        unit: Of both sides.
        ours: Measured values, one per round.
        other: The same of what it is compared with, round by round; empty for a bound on the
            absolute value.
        target: The bound on the ratio, or on the value where ``other`` is empty.
        note: What else a reader has to know.
    """

    row: int
    what: str
    mode: str
    unit: str
    ours: tuple[float, ...]
    other: tuple[float, ...] = ()
    target: Target | None = None
    note: str = ""

    @property
    def result(self) -> float:
        """Return the ratio of the medians, or the median where nothing is compared."""
        return median(self.ours) / median(self.other) if self.other else median(self.ours)

    @property
    def spread(self) -> tuple[float, float]:
        """Return the smallest and largest result of a single round."""
        if not self.other:
            return min(self.ours), max(self.ours)
        rounds = [ours / other for ours, other in zip(self.ours, self.other, strict=True)]
        return min(rounds), max(rounds)

    @property
    def is_met(self) -> bool | None:
        """Return whether the target is met, or None where there is none."""
        return self.target.is_met(self.result) if self.target else None

    def document(self) -> dict[str, object]:
        """Return the figure for the JSON document."""
        return {
            **asdict(self),
            "result": self.result,
            "spread": self.spread,
            "is_met": self.is_met,
        }


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table that also reads well on a terminal."""
    lines = [_HEADINGS, *(_cells(figure) for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    notes = [
        f"- row {figure.row}, {figure.what}: {figure.note}" for figure in figures if figure.note
    ]
    return "\n".join([padded[0], rule, *padded[1:], *([""] if notes else []), *notes])


def _cells(figure: Figure) -> tuple[str, ...]:
    sign = "x" if figure.other else f" {figure.unit}"
    result = f"{short(figure.result)}{sign}"
    if len(figure.ours) > 1:
        low, high = figure.spread
        result += f" ({short(low)}-{short(high)})"
    bound = f"{figure.target.comparison} {figure.target.bound:g}{sign}" if figure.target else ""
    return (
        str(figure.row),
        figure.what,
        figure.mode,
        f"{short(median(figure.ours))} {figure.unit}",
        f"{short(median(figure.other))} {figure.unit}" if figure.other else "",
        result,
        bound,
        {None: "", True: "yes", False: "no"}[figure.is_met],
    )


def short(value: float) -> str:
    """Return a number with three significant digits, whole from a hundred on."""
    if value != value:  # NaN
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
