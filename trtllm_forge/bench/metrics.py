"""What a streamed answer took: TTFT, ITL, TPOT, throughput, goodput. Pure functions over times.

Times are seconds of one clock, of the client that sent the request. A chunk may carry several
tokens, so ITL and TPOT are two figures and tools disagree about their names; ``FORMULAS`` says
in words what each one is here, and goes into every report.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Quantity = Literal["ttft", "itl", "gap", "tpot", "e2e"]

FORMULAS: Mapping[str, str] = {
    "ttft_ms": "first chunk with a token received - request sent",
    "itl_ms": (
        "per token after the first chunk: (its chunk received - the chunk before received)"
        " / tokens of its chunk"
    ),
    "chunk_gap_ms": "chunk received - the chunk before received, of one answer",
    "tpot_ms": "per request: (e2e - TTFT) / (output tokens - 1)",
    "e2e_ms": "end of the answer received - request sent",
    "output_tokens_per_s": "tokens received within the window / length of the window",
    "requests_per_s": "answers that ended whole within the window / length of the window",
    "goodput_per_s": (
        "answers that ended whole within the window and kept every limit / length of the window;"
        " the limits are on TTFT, e2e, TPOT, the mean ITL and the largest chunk gap of a request"
    ),
    "accepted_draft_length": "accepted draft tokens / (output tokens - accepted draft tokens)",
    "percentile": "linear between the two nearest values: place = fraction * (count - 1)",
}


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A chunk with at least one token: when it was received, and its tokens."""

    time_s: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request that was answered whole.

    Attributes:
        sent_s: When it was sent.
        ended_s: When the end of its answer was received.
        arrivals: Its chunks in order; at least one.
    """

    sent_s: float
    ended_s: float
    arrivals: tuple[Arrival, ...]

    @property
    def tokens(self) -> int:
        """Return the number of output tokens."""
        return sum(arrival.tokens for arrival in self.arrivals)


@dataclass(frozen=True, kw_only=True)
class Window:
    """The time that counts, its end excluded."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Return how long it is."""
        return self.end_s - self.start_s

    def holds(self, time_s: float) -> bool:
        """Return whether a time lies within."""
        return self.start_s <= time_s < self.end_s


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Many values in a few numbers."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


def ttft_s(answered: Answered) -> float:
    """Return the time to the first token: ``first arrival - sent``."""
    return answered.arrivals[0].time_s - answered.sent_s


def e2e_s(answered: Answered) -> float:
    """Return the end-to-end time: ``ended - sent``."""
    return answered.ended_s - answered.sent_s


def tpot_s(answered: Answered) -> float | None:
    """Return the time per output token, ``(e2e - TTFT) / (tokens - 1)``; None for one token.

    The first chunk's other tokens count as if they had come later, so with chunks of several
    tokens this is lower than the mean ITL.
    """
    further = answered.tokens - 1
    return (e2e_s(answered) - ttft_s(answered)) / further if further > 0 else None


def chunk_gaps_s(answered: Answered) -> list[float]:
    """Return the gap before each chunk but the first: what a reader sees as stutter."""
    return [later.time_s - earlier.time_s for earlier, later in pairwise(answered.arrivals)]


def itls_s(answered: Answered) -> list[float]:
    """Return the inter-token latency of each token after the first chunk.

    The tokens of a chunk came together; each gets the same share of the gap before it:
    ``(chunk - chunk before) / tokens of the chunk``. With one token per chunk these are the gaps.
    """
    return [
        (later.time_s - earlier.time_s) / later.tokens
        for earlier, later in pairwise(answered.arrivals)
        for _ in range(later.tokens)
    ]


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which ``fraction`` of the values lie, linear between two of them.

    With ``place = fraction * (count - 1)`` over the sorted values, ``whole`` its integer part:
    ``v[whole] + (v[whole + 1] - v[whole]) * (place - whole)``.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        message = "a percentile of no values"
        raise ValueError(message)
    return _at(sorted(values), fraction)


def distribution(values: Sequence[float]) -> Distribution | None:
    """Return mean and percentiles; None where there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return Distribution(
        count=len(ordered),
        mean=sum(ordered) / len(ordered),
        p50=_at(ordered, 0.50),
        p95=_at(ordered, 0.95),
        p99=_at(ordered, 0.99),
        max=ordered[-1],
    )


def tokens_per_s(answers: Iterable[Answered], window: Window) -> float:
    """Return the throughput: tokens received within the window / its length.

    A token counts where it was received, also of a request that was sent before the window.
    """
    tokens = sum(
        arrival.tokens
        for answered in answers
        for arrival in answered.arrivals
        if window.holds(arrival.time_s)
    )
    return tokens / window.length_s


def requests_per_s(answers: Iterable[Answered], window: Window) -> float:
    """Return the answers that ended within the window / its length."""
    return sum(window.holds(answered.ended_s) for answered in answers) / window.length_s


def goodput_per_s(
    answers: Iterable[Answered], limits_s: Mapping[Quantity, float], window: Window
) -> float:
    """Return the answers that ended within the window and kept every limit / its length."""
    return requests_per_s((a for a in answers if keeps(a, limits_s)), window)


def keeps(answered: Answered, limits_s: Mapping[Quantity, float]) -> bool:
    """Return whether an answer kept every limit, in seconds.

    ``ttft``, ``e2e`` and ``tpot`` are the request's own; ``itl`` bounds its mean, ``gap`` its
    largest chunk gap. A quantity that an answer of one token or one chunk lacks is kept.
    """
    return all(_largest(answered, name) <= limit for name, limit in limits_s.items())


def accepted_draft_length(output_tokens: int, accepted_tokens: int) -> float | None:
    """Return how many draft tokens a step accepts: ``accepted / (output - accepted)``.

    A step of the engine gives one token of its own and those of the draft that it accepts, so
    the steps are ``output - accepted``. None where the counts give no step.
    """
    steps = output_tokens - accepted_tokens
    return accepted_tokens / steps if steps > 0 else None


def _largest(answered: Answered, name: Quantity) -> float:
    match name:
        case "ttft":
            return ttft_s(answered)
        case "e2e":
            return e2e_s(answered)
        case "tpot":
            return tpot_s(answered) or 0.0
        case "gap":
            return max(chunk_gaps_s(answered), default=0.0)
        case "itl":
            itls = itls_s(answered)
            return sum(itls) / len(itls) if itls else 0.0


def _at(ordered: Sequence[float], fraction: float) -> float:
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
