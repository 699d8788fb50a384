"""A bench's document as one HTML page that needs nothing else: no network, no script.

``data/bench/report.html.jinja`` is the page; here are the figures and charts that it shows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trtllm_forge.bench.svg import Series, line_chart, timeline_chart
from trtllm_forge.bench.table import error_count, short
from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import data_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def html_report(document: Mapping[str, Any]) -> str:
    """Return the page of a bench's document."""
    loads, timelines = document["bench"], document["timeline"].items()
    template = data_template(
        "bench/report.html.jinja",
        autoescape=True,
        filters={"part": _part, "shown": _shown, "short": short, "error_count": error_count},
    )
    return template.render(
        document,
        subtitle=_subtitle(document),
        models=_models(loads),
        limits=_limits(document["settings"]["limits_ms"]),
        charts=_charts(loads),
        timelines=[(name, timeline_chart(name, rows)) for name, rows in timelines],
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


def _limits(limits_ms: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {limit:g} ms" for name, limit in limits_ms.items())


def _part(distribution: Mapping[str, float] | None, part: str) -> str:
    return short(distribution[part]) if distribution else "-"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
