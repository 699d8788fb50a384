"""A bench's document as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.bench.comparison import Comparison
    from trtllm_forge.bench.plan import BenchPlan

_HEADINGS = (
    "load",
    "requests",
    "errors",
    "tok/s",
    "req/s",
    "TTFT ms",
    "ITL ms",
    "TPOT ms",
    "e2e ms",
)


def table(document: Mapping[str, Any]) -> str:
    """Return the figures of every load as p50/p95, then what else was measured."""
    rows = [_HEADINGS, *(_cells(name, load) for name, load in document["bench"].items())]
    lines = [*aligned(rows), "times are p50/p95"]
    lines += list(_further(document))
    return "\n".join(lines)


def plan_table(plan: BenchPlan, html_path: Path | None) -> str:
    """Return what a bench would do."""
    model = "core model, ensemble and BLS, in turns" if plan.is_layered else plan.model
    lines = [
        f"model     {model or 'the one that clients talk to'}, over {plan.protocol}",
        f"prompts   {plan.prompts_name}",
    ]
    lines += [
        f"load      {pace.name}: {pace.extent}, after {pace.warm_up} to warm up"
        for pace in plan.paces
    ]
    if plan.has_prefix_reuse:
        lines.append("then      TTFT behind cold and warm prefixes")
    if html_path is not None:
        lines.append(f"writes    {html_path}")
    return "\n".join(lines)


def comparison_table(comparison: Comparison) -> str:
    """Return what differs from an earlier bench, and whether that is more than noise."""
    rows = [("load", "figure", "before", "now", "change", "verdict")]
    rows += [
        (
            line.load,
            line.figure,
            short(line.before),
            short(line.now),
            f"{line.change:+.1%}",
            line.verdict,
        )
        for line in comparison.lines
    ]
    notes = [f"only in one of the two: {name}" for name in comparison.unmatched]
    notes += [f"differs: {text}" for text in comparison.environment]
    return "\n".join([*aligned(rows), *notes])


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Give rows with their columns under each other; all but the first lie to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def short(value: float | None) -> str:
    """Return a number with three digits that count, whole from a hundred on."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def error_count(load: Mapping[str, Any]) -> int:
    """Return how many requests of a load failed, of all kinds."""
    return sum(int(entry["count"]) for entry in load["errors"].values())


def _cells(name: str, load: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        str(load["requests"]),
        str(error_count(load)),
        short(load["output_tokens_per_s"]),
        short(load["requests_per_s"]),
        *(_pair(load[key]) for key in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms")),
    )


def _pair(distribution: Mapping[str, float] | None) -> str:
    if distribution is None:
        return "-"
    return f"{short(distribution['p50'])}/{short(distribution['p95'])}"


def _further(document: Mapping[str, Any]) -> Iterator[str]:
    for name, load in document["bench"].items():
        if "goodput_per_s" in load:
            limits = document["settings"]["limits_ms"]
            bounds = ", ".join(f"{key} <= {limit:g} ms" for key, limit in limits.items())
            yield f"{name}: goodput {short(load['goodput_per_s'])} requests/s with {bounds}"
        if "draft" in load:
            length = load["draft"]["accepted_draft_length"]
            yield f"{name}: accepted draft length {short(length)} tokens"
    layers = document.get("layers")
    if layers:
        yield ""
        rows = [("layer", "tok/s against the core model", "TTFT p50 against it")]
        rows += [
            (name, f"{short(row['tokens_per_s'])}x", f"{short(row['ttft_p50'])}x")
            for name, row in layers.items()
        ]
        yield from aligned(rows)
    reuse = document.get("prefix_reuse")
    if reuse:
        cold, warm = reuse["cold_ttft_ms"]["p50"], reuse["warm_ttft_ms"]["p50"]
        yield (
            f"prefix reuse: TTFT p50 {short(warm)} ms behind a warm prefix, {short(cold)} ms "
            f"behind a cold one ({short(reuse['warm_to_cold'])}x)"
        )
