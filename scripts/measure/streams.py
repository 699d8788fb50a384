"""What a load leaves behind, streams of chunks with their times, and the rates they give."""

from __future__ import annotations

from dataclasses import dataclass, field

from scripts.measure.figures import percentile


@dataclass(kw_only=True)
class Stream:
    """One request and what came back.

    Attributes:
        sent_s: When it was sent.
        expected_tokens: The output length that was asked for.
        chunks: Time and number of tokens of each chunk.
    """

    sent_s: float
    expected_tokens: int
    chunks: list[tuple[float, int]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The figures of one load at a steady number of requests at once."""

    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    gap_p95_ms: float
    tokens_per_chunk: float
    requests: int


def rates(streams: list[Stream], start_s: float, end_s: float) -> Rates:
    """Return the rates between two times, outside of which the load is not steady.

    Tokens count where their chunk came, the TTFT of a request where it was sent. A front that
    holds text back may not say the number of tokens in it, so each stream's counts are scaled
    to the length that was asked for and, with no end id, always given.
    """
    tokens = 0.0
    chunks = 0
    ttfts: list[float] = []
    gaps: list[float] = []
    for stream in streams:
        if not stream.chunks:
            continue
        reported = sum(count for _, count in stream.chunks)
        scale = stream.expected_tokens / reported if reported else 0.0
        if start_s <= stream.sent_s < end_s:
            ttfts.append(1000 * (stream.chunks[0][0] - stream.sent_s))
        before_s: float | None = None
        for time_s, count in stream.chunks:
            if start_s <= time_s < end_s:
                tokens += scale * count
                chunks += 1
                if before_s is not None:
                    gaps.append(1000 * (time_s - before_s))
            before_s = time_s
    return Rates(
        tokens_per_s=tokens / (end_s - start_s),
        ttft_p50_ms=percentile(ttfts, 0.5),
        ttft_p95_ms=percentile(ttfts, 0.95),
        gap_p95_ms=percentile(gaps, 0.95),
        tokens_per_chunk=tokens / chunks if chunks else float("nan"),
        requests=len(ttfts),
    )


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """A closed loop: as many requests at once as slots, each followed by the next.

    Attributes:
        concurrency: Slots.
        output_tokens: Length of every output; only the first of each slot is shorter, each by
            another amount, so that requests do not start in step with each other.
        warm_up_s: Time before the window that counts.
        window_s: Length of that window. What runs at its end is let finish.
        first_prompt: Number of the first prompt; no two loads should share prompts.
    """

    concurrency: int
    output_tokens: int
    warm_up_s: float
    window_s: float
    first_prompt: int

    def first_length(self, slot: int) -> int:
        """Return the output length of a slot's first request."""
        return max(1, self.output_tokens * (slot + 1) // self.concurrency)


def prompt(number: int) -> str:
    """Return a prompt that differs from all others within its first few tokens."""
    return f"def function_{number}(a, b):\n    value = {number * 7}\n    "
