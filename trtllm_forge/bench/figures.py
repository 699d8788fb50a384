"""The figures of one load, from the answers to its requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from trtllm_forge.bench import metrics
from trtllm_forge.bench.answers import read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.bench.answers import Reading
    from trtllm_forge.bench.load import Pace, Traffic
    from trtllm_forge.bench.metrics import Answered, Quantity
    from trtllm_forge.bench.target import Target
    from trtllm_forge.bench.wire import Wire
    from trtllm_forge.files.digest import JsonValue

BUSY_CLIENT_SHARE = 0.7
"""CPU time of the client, as a share of one core, from which on it may be what is measured."""

_MS = 1000.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A load with what its answers came to."""

    target: Target
    protocol: str
    pace: Pace
    traffic: Traffic
    readings: tuple[Reading, ...]

    @property
    def name(self) -> str:
        """Return what it is called in tables and in the JSON document."""
        return f"{self.target.model}, {self.protocol}, {self.pace.name}"

    def counted(self) -> list[Answered]:
        """Return the whole answers to the requests that count."""
        return [
            reading.answered
            for sent, reading in zip(self.traffic.requests, self.readings, strict=True)
            if sent.counts and reading.answered is not None
        ]


def measure(target: Target, protocol: str, pace: Pace, traffic: Traffic, wire: Wire) -> Measured:
    """Return a load with its answers read."""
    return Measured(
        target=target,
        protocol=protocol,
        pace=pace,
        traffic=traffic,
        readings=tuple(read_answer(wire, sent.received) for sent in traffic.requests),
    )


def figures(measured: Measured, limits_s: Mapping[Quantity, float]) -> dict[str, JsonValue]:
    """Return the figures of a load; times in milliseconds, rates per second.

    Latencies are of the requests sent within the window and answered whole. Rates count what was
    received within the window, of requests that warmed up, too. Failures are in neither.
    """
    window = measured.traffic.window
    every = [reading.answered for reading in measured.readings if reading.answered is not None]
    counted = measured.counted()
    arrivals = sum(len(answered.arrivals) for answered in counted)
    tokens = sum(answered.tokens for answered in counted)
    document: dict[str, JsonValue] = {
        "model": measured.target.model,
        "protocol": measured.protocol,
        "concurrency": measured.pace.concurrency,
        "rate": measured.pace.rate,
        "requests": len(counted),
        "errors": failures(measured),
        "window_s": _rounded(window.length_s),
        "output_tokens_per_s": _rounded(metrics.tokens_per_s(every, window)),
        "requests_per_s": _rounded(metrics.requests_per_s(every, window)),
        "ttft_ms": _milliseconds([metrics.ttft_s(a) for a in counted]),
        "itl_ms": _milliseconds([itl for a in counted for itl in metrics.itls_s(a)]),
        "chunk_gap_ms": _milliseconds([gap for a in counted for gap in metrics.chunk_gaps_s(a)]),
        "tpot_ms": _milliseconds([t for a in counted if (t := metrics.tpot_s(a)) is not None]),
        "e2e_ms": _milliseconds([metrics.e2e_s(a) for a in counted]),
        "input_tokens": _mean([r.input_tokens for r in measured.readings if r.input_tokens]),
        "output_tokens": _mean([a.tokens for a in counted]),
        "tokens_per_chunk": _rounded(tokens / arrivals) if arrivals else None,
        "tokens_are_counted": all(r.are_tokens_counted for r in measured.readings),
    }
    if limits_s:
        document["goodput_per_s"] = _rounded(metrics.goodput_per_s(every, limits_s, window))
    draft = _draft(measured.readings)
    if draft is not None:
        document["draft"] = draft
    reused = [r.reused_blocks for r in measured.readings if r.reused_blocks is not None]
    if reused:
        document["reused_kv_blocks"] = _mean(reused)
    document["client"] = _client(measured)
    return document


def failures(measured: Measured) -> dict[str, JsonValue]:
    """Return how many requests failed, by kind, each with the first message of that kind."""
    found = [
        reading.failure
        for sent, reading in zip(measured.traffic.requests, measured.readings, strict=True)
        if sent.counts and reading.failure is not None
    ]
    counts = Counter(failure.kind for failure in found)
    return {
        kind: {"count": count, "first": next(f.message for f in found if f.kind == kind)}
        for kind, count in sorted(counts.items())
    }


def timeline(measured: Measured) -> list[JsonValue]:
    """Return one entry per counted request, by when it was sent: milliseconds of the window."""
    start_s = measured.traffic.window.start_s
    rows: list[tuple[float, dict[str, JsonValue]]] = []
    for sent, reading in zip(measured.traffic.requests, measured.readings, strict=True):
        if not sent.counts:
            continue
        received, answered = sent.received, reading.answered
        first_s = answered.arrivals[0].time_s if answered else None
        row: dict[str, JsonValue] = {
            "sent_ms": _rounded((received.sent_s - start_s) * _MS),
            "first_ms": None if first_s is None else _rounded((first_s - start_s) * _MS),
            "ended_ms": _rounded((received.ended_s - start_s) * _MS),
            "tokens": answered.tokens if answered else 0,
            "error": reading.failure.kind if reading.failure else None,
        }
        rows.append((received.sent_s, row))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _client(measured: Measured) -> dict[str, JsonValue]:
    traffic = measured.traffic
    late = [
        sent.received.sent_s - sent.due_s
        for sent in traffic.requests
        if sent.counts and sent.due_s is not None
    ]
    client: dict[str, JsonValue] = {
        "cpu_share": _rounded(traffic.client_cpu_share),
        "most_in_flight": traffic.most_in_flight,
    }
    if late:
        client["late_ms"] = _milliseconds(late)
    return client


def _draft(readings: Sequence[Reading]) -> dict[str, JsonValue] | None:
    """Return the figures of speculative decoding, or None where the server gives none."""
    told = [
        (reading.answered.tokens, reading.draft_tokens or 0, reading.accepted_tokens)
        for reading in readings
        if reading.answered is not None and reading.accepted_tokens is not None
    ]
    if not told:
        return None
    output, drafted, accepted = (sum(column) for column in zip(*told, strict=True))
    length = metrics.accepted_draft_length(output, accepted)
    return {
        "draft_tokens": drafted,
        "accepted_tokens": accepted,
        "acceptance_rate": _rounded(accepted / drafted) if drafted else None,
        "accepted_draft_length": None if length is None else _rounded(length),
    }


def _milliseconds(values_s: Sequence[float]) -> JsonValue:
    found = metrics.distribution([value * _MS for value in values_s])
    if found is None:
        return None
    return {name: _rounded(value) for name, value in asdict(found).items()}


def _mean(values: Sequence[int]) -> float | None:
    return _rounded(sum(values) / len(values)) if values else None


def _rounded(value: float) -> float:
    """Return a number with digits enough for any comparison, and no more for a reader to skip."""
    return value if isinstance(value, int) else round(value, 4)
