"""Rows 1, 2, 3 and 8: tokens per second and first tokens, with and without what is around."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scripts.measure.figures import Figure, Target
from scripts.measure.streams import LoadPlan, Rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scripts.measure.workshop import Workshop

CORE = "tensorrt_llm"
ENSEMBLE = "ensemble"
BLS = "tensorrt_llm_bls"
BARE = "bare loop"

FAST_TOKENS = 96
_SLOW_TOKENS = 48
_SLOW_WINDOW_FACTOR = 2.0
_NUMBERS = itertools.count(0, 10_000)  # prompts are never used by two loads


@dataclass(kw_only=True)
class Loads:
    """The rates of every round, by what was loaded and how many requests were at once."""

    of: dict[tuple[str, int], list[Rates]] = field(default_factory=lambda: defaultdict(list))

    def values(self, name: str, concurrency: int, quantity: str) -> tuple[float, ...]:
        """Return one quantity of every round."""
        return tuple(float(getattr(one, quantity)) for one in self.of[name, concurrency])


def run_loads(
    workshop: Workshop,
    repository_dir: Path,
    names: Mapping[int, Sequence[str]],
    *,
    output_tokens: int,
    window_s: float,
) -> Loads:
    """Load models of a served repository, and its bare loop, in turns.

    Args:
        workshop: Where to work.
        repository_dir: What to serve.
        names: For each number of requests at once, what to load, in order.
        output_tokens: Length of every output.
        window_s: Length of the window that counts.
    """
    loads = Loads()
    with workshop.serve(repository_dir) as (port, _):
        for concurrency, in_turn in names.items():
            for name in [name for _ in range(workshop.rounds) for name in in_turn]:
                plan = new_plan(concurrency, output_tokens, window_s)
                found = (
                    workshop.load_bare(repository_dir, plan)
                    if name == BARE
                    else workshop.load(port, name, repository_dir, plan)
                )
                loads.of[name, concurrency].append(found)
                print(f"  {name} at {concurrency}: {found}", file=sys.stderr, flush=True)
    return loads


def new_plan(concurrency: int, output_tokens: int, window_s: float) -> LoadPlan:
    """Return a load whose prompts no other load has."""
    return LoadPlan(
        concurrency=concurrency,
        output_tokens=output_tokens,
        warm_up_s=max(0.5, window_s / 3),
        window_s=window_s,
        first_prompt=next(_NUMBERS),
    )


def fast_engine(workshop: Workshop, rows: set[int]) -> list[Figure]:
    """Return the figures of rows 1 and 2: the sample in int8."""
    repository_dir = workshop.build("sample", "int8")
    fronts = (CORE, ENSEMBLE, BLS) if 1 in rows else (CORE,)
    bare = (BARE,) if 2 in rows else ()
    names: dict[int, Sequence[str]] = {16: (*fronts, *bare), 64: (*fronts, *bare)}
    if 1 in rows:
        names = {1: fronts, 4: fronts, **names}
    loads = run_loads(
        workshop,
        repository_dir,
        names,
        output_tokens=FAST_TOKENS,
        window_s=workshop.window_s,
    )
    mode = "sample int8, exact"
    figures: list[Figure] = []
    if 1 in rows:
        for concurrency in names:
            figures += _front_figures(loads, concurrency, mode)
    if 2 in rows:
        for concurrency in (16, 64):
            figures.append(
                _throughput(2, loads, (CORE, BARE), f"{mode}, {concurrency} at once", concurrency)
            )
        if 1 in rows:
            for concurrency in (16, 64):
                at = f"{mode}, {concurrency} at once"
                bound = Target(comparison=">=", bound=0.70)
                pair = (ENSEMBLE, BARE)
                figures.append(_throughput(2, loads, pair, at, concurrency, bound))
    return figures


def _front_figures(loads: Loads, concurrency: int, mode: str) -> list[Figure]:
    at = f"{mode}, {concurrency} at once"
    bound = Target(comparison=">=", bound=0.90) if concurrency >= 16 else None
    figures = [
        _throughput(1, loads, (ENSEMBLE, CORE), at, concurrency, bound),
        _throughput(1, loads, (BLS, CORE), at, concurrency),
    ]
    for name in (ENSEMBLE, BLS):
        figures.append(quantity(1, loads, (name, CORE), "ttft_p50_ms", at, concurrency))
        is_bound = name == ENSEMBLE and concurrency >= 16
        gap_bound = Target(comparison="<=", bound=25.0) if is_bound else None
        figures += [
            _absolute(1, loads, name, "gap_p95_ms", at, concurrency, gap_bound),
            _absolute(1, loads, name, "tokens_per_chunk", at, concurrency),
        ]
    return figures


_WORDS = {
    "tokens_per_s": ("throughput", "tok/s"),
    "ttft_p50_ms": ("TTFT p50", "ms"),
    "gap_p95_ms": ("gap between chunks, p95", "ms"),
    "tokens_per_chunk": ("tokens per chunk", "tok"),
}


def quantity(
    row: int,
    loads: Loads,
    pair: tuple[str, str],
    name: str,
    mode: str,
    concurrency: int,
    target: Target | None = None,
) -> Figure:
    """Return a figure of one quantity, by its name in ``Rates``, of two loads."""
    words, unit = _WORDS[name]
    ours, other = pair
    return Figure(
        row=row,
        what=f"{words}: {ours} against {other}",
        mode=mode,
        unit=unit,
        ours=loads.values(ours, concurrency, name),
        other=loads.values(other, concurrency, name),
        target=target,
    )


def _throughput(
    row: int,
    loads: Loads,
    pair: tuple[str, str],
    mode: str,
    concurrency: int,
    target: Target | None = None,
) -> Figure:
    return quantity(row, loads, pair, "tokens_per_s", mode, concurrency, target)


def _absolute(
    row: int,
    loads: Loads,
    name: str,
    quantity: str,
    mode: str,
    concurrency: int,
    target: Target | None = None,
) -> Figure:
    words, unit = _WORDS[quantity]
    return Figure(
        row=row,
        what=f"{words}: {name}",
        mode=mode,
        unit=unit,
        ours=loads.values(name, concurrency, quantity),
        target=target,
    )


def slow_engine(workshop: Workshop, checkpoint_dir: Path) -> list[Figure]:
    """Return the figures of row 3: 86 M random parameters in int4, 16 at once."""
    repository_dir = workshop.build(str(checkpoint_dir), "int4")
    loads = run_loads(
        workshop,
        repository_dir,
        {16: (CORE, ENSEMBLE, BARE)},
        output_tokens=_SLOW_TOKENS,
        window_s=workshop.window_s * _SLOW_WINDOW_FACTOR,
    )
    mode = "86 M random int4, exact, 16 at once"
    return [
        _throughput(3, loads, (ENSEMBLE, CORE), mode, 16, Target(comparison=">=", bound=0.97)),
        _throughput(3, loads, (CORE, BARE), mode, 16, Target(comparison=">=", bound=0.92)),
        quantity(
            3,
            loads,
            (ENSEMBLE, CORE),
            "ttft_p50_ms",
            mode,
            16,
            Target(comparison="<=", bound=1.15),
        ),
        _absolute(3, loads, ENSEMBLE, "gap_p95_ms", mode, 16),
    ]


def fast_math(workshop: Workshop, slow_checkpoint_dir: Path) -> list[Figure]:
    """Return the figures of row 8: the bare loop in bf16 and with an 8-bit KV cache."""
    figures = []
    for model, precision, name, tokens, factor in (
        ("sample", "int8", "sample int8", FAST_TOKENS, 1.0),
        (str(slow_checkpoint_dir), "int4", "86 M random int4", _SLOW_TOKENS, _SLOW_WINDOW_FACTOR),
    ):
        repository_dir = workshop.build(model, precision)
        found: dict[bool, list[float]] = {False: [], True: []}
        for is_fast in [False, True] * min(2, workshop.rounds):
            plan = new_plan(16, tokens, workshop.window_s * factor)
            rates = workshop.load_bare(repository_dir, plan, fast_math=is_fast)
            found[is_fast].append(rates.tokens_per_s)
        figures.append(
            Figure(
                row=8,
                what="throughput: fast math against exact",
                mode=f"{name}, bare loop, 16 at once",
                unit="tok/s",
                ours=tuple(found[True]),
                other=tuple(found[False]),
            )
        )
    return figures
