"""A bench's document as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from trtllm_forge.bench.svg import Series, line_chart, timeline_chart
from trtllm_forge.bench.table import error_count, short
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1c2024; --soft: #60646c;
  --grid: #e3e5e8; --c0: #1f66c7; --c1: #b8560f; --c2: #1b7f4d; --c3: #8a3ab0;
  --wait: #b9c4d3; --failed: #c62a2f; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e8eaed; --soft: #a4abb6;
  --grid: #30353c; --c0: #6ea8ff; --c1: #f0a35e; --c2: #5cc08c; --c3: #c58be6;
  --wait: #4a5463; --failed: #ff7b7b; } }
body { margin: 2rem auto; padding: 0 1.25rem; max-width: 70rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; } h2 { font-size: 1.1rem; margin-top: 2.25rem; }
p, figcaption, dt { color: var(--soft); } figcaption { font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr));
  gap: 1.25rem; } figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--grid); stroke-width: 1; } .tick { fill: var(--soft); font-size: 11px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .dot { stroke: var(--page); }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); }
.dot.c2 { fill: var(--c2); } .dot.c3 { fill: var(--c3); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .4em 0 1em; }
.wait { fill: var(--wait); } .rest { fill: var(--c0); } .failed { fill: var(--failed); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
.bad { color: var(--failed); } details { margin: .5rem 0; } summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
"""
_KEY = {"wait": "waiting for the first token", "c0": "receiving", "failed": "failed"}


def html_report(document: Mapping[str, Any]) -> str:
    """Return the page of a bench's document."""
    loads = document["bench"]
    settings = document["settings"]
    parts = [
        "<h1>forge bench</h1>",
        f"<p>{escape(_subtitle(document))}</p>",
        '<h2>Under load</h2><p class="legend">',
        *_legend(loads),
        " Solid: p50. Dashed: p95.</p>",
        '<div class="charts">',
        *_charts(loads),
        "</div><h2>Figures</h2>",
        _figures_table(loads, settings),
        *_further(document),
        "<h2>Requests over time</h2>",
        "<p>",
        *(f'<span class="key" style="background:var(--{c})"></span>{t}' for c, t in _KEY.items()),
        "</p>",
        *_timelines(document["timeline"]),
        "<h2>How the figures are made</h2>",
        _definitions(document["formulas"]),
        "<h2>Where and how it ran</h2>",
        _definitions({**settings, **document["environment"]}),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>forge bench</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def require_folder(path: Path) -> None:
    """Refuse a report's path before a long run, where there is no folder to put it.

    Raises:
        ConfigError: There is none.
    """
    if not path.parent.is_dir():
        what = f"{path} cannot be written"
        raise ConfigError(what, why=f"there is no folder {path.parent}")


def write_report(path: Path, text: str) -> None:
    """Write a report.

    Raises:
        ConfigError: It cannot be written there.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        what = f"{path} cannot be written"
        raise ConfigError(what, why=(error.strerror or str(error)).lower()) from error


def _subtitle(document: Mapping[str, Any]) -> str:
    environment = document["environment"]
    repository = (environment.get("repository") or {}).get("name", "a server")
    return (
        f"{repository}, {document['settings']['prompts']}; {environment['cpu']}, "
        f"{environment['cores']} cores; forge {environment['forge']}, "
        f"Triton {environment['server_version']}"
    )


def _models(loads: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(load["model"] for load in loads.values()))


def _legend(loads: Mapping[str, Any]) -> Iterator[str]:
    for number, model in enumerate(_models(loads)):
        yield (f'<span class="key" style="background:var(--c{number % 4})"></span>{escape(model)}')


def _charts(loads: Mapping[str, Any]) -> Iterator[str]:
    rate = any(load["rate"] is not None for load in loads.values())
    axis = "requests per second" if rate else "requests at once"
    key = "rate" if rate else "concurrency"
    places = sorted({load[key] for load in loads.values()})
    by_place = {(load["model"], load[key]): load for load in loads.values()}
    names = [f"{place:g}" for place in places]

    def series(figure: str, part: str | None, *, is_dashed: bool = False) -> list[Series]:
        return [
            Series(
                name=f"{model} {part}" if part else model,
                colour=number,
                values=tuple(
                    _value(by_place.get((model, place)), figure, part) for place in places
                ),
                is_dashed=is_dashed,
            )
            for number, model in enumerate(_models(loads))
        ]

    throughput = series("output_tokens_per_s", None)
    yield line_chart("Throughput", "tokens/s", names, axis, throughput)
    for title, figure in (("TTFT", "ttft_ms"), ("ITL", "itl_ms"), ("End to end", "e2e_ms")):
        lines = [*series(figure, "p50"), *series(figure, "p95", is_dashed=True)]
        yield line_chart(title, "ms", names, axis, lines)


def _value(load: Mapping[str, Any] | None, figure: str, part: str | None) -> float | None:
    found = load.get(figure) if load else None
    if found is None or part is None:
        return found
    return float(found[part])


def _figures_table(loads: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    headings = ["Load", "Requests", "Errors", "Tokens/s", "Requests/s", "TTFT p50", "p95", "p99"]
    headings += ["ITL p50", "p95", "TPOT p50", "Gap p95", "End to end p50", "p95", "Client CPU"]
    has_limits = bool(settings["limits_ms"])
    if has_limits:
        headings.insert(5, "Goodput/s")
    rows = []
    for name, load in loads.items():
        errors = error_count(load)
        cells = [
            escape(name),
            str(load["requests"]),
            f'<span class="bad">{errors}</span>' if errors else "0",
            short(load["output_tokens_per_s"]),
            short(load["requests_per_s"]),
            *([short(load["goodput_per_s"])] if has_limits else []),
            *(_part(load["ttft_ms"], part) for part in ("p50", "p95", "p99")),
            *(_part(load["itl_ms"], part) for part in ("p50", "p95")),
            _part(load["tpot_ms"], "p50"),
            _part(load["chunk_gap_ms"], "p95"),
            *(_part(load["e2e_ms"], part) for part in ("p50", "p95")),
            f"{load['client']['cpu_share']:.0%}",
        ]
        rows.append(cells)
    limits = ", ".join(f"{name} {limit:g} ms" for name, limit in settings["limits_ms"].items())
    note = f" Goodput: within {limits}." if has_limits else ""
    return _table(headings, rows) + f"<p>Times in milliseconds.{escape(note)}</p>"


def _further(document: Mapping[str, Any]) -> Iterator[str]:
    for name, load in document["bench"].items():
        for kind, entry in load["errors"].items():
            words = f"{name}: {entry['count']} {kind}, the first with: {entry['first']}"
            yield f'<p class="bad">{escape(words)}</p>'
        if "draft" in load:
            yield f"<h2>Drafts of {escape(name)}</h2>{_definitions(load['draft'])}"
    if "layers" in document:
        yield "<h2>Cost of each layer</h2>"
        rows = [
            [escape(name), f"{short(row['tokens_per_s'])}x", f"{short(row['ttft_p50'])}x"]
            for name, row in document["layers"].items()
        ]
        yield _table(["Layer", "Tokens/s against the core model", "TTFT p50 against it"], rows)
    if "prefix_reuse" in document:
        reuse = document["prefix_reuse"]
        rows = [
            [name, *(_part(reuse[f"{name}_ttft_ms"], part) for part in ("p50", "p95", "max"))]
            for name in ("cold", "warm")
        ]
        yield "<h2>Prefix reuse</h2>" + _table(["Prefix", "TTFT p50", "p95", "max"], rows)
    if "comparison" in document:
        lines = document["comparison"]["lines"]
        rows = [
            [
                escape(f"{line['load']}: {line['figure']}"),
                short(line["before"]),
                short(line["now"]),
                f"{line['change']:+.1%}",
                f'<span class="{"bad" if line["verdict"] == "slower" else ""}">'
                f"{line['verdict']}</span>",
            ]
            for line in lines
        ]
        yield "<h2>Against an earlier bench</h2>"
        yield _table(["Figure", "Before", "Now", "Change", "Verdict"], rows)


def _timelines(timelines: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    for number, (name, rows) in enumerate(timelines.items()):
        state = " open" if number == len(timelines) - 1 else ""
        chart = timeline_chart(name, rows)
        yield f"<details{state}><summary>{escape(name)}</summary>{chart}</details>"


def _part(distribution: Mapping[str, float] | None, part: str) -> str:
    return short(distribution[part]) if distribution else "-"


def _table(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in cells)}</tr>" for cells in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _definitions(values: Mapping[str, Any]) -> str:
    rows = (
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_shown(value))}</dd>"
        for name, value in values.items()
        if value is not None
    )
    return f"<dl>{''.join(rows)}</dl>"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
