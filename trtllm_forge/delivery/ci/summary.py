"""Render forge's JSON documents as Markdown, for the summary page of a CI run.

A document is recognised by its keys: ``stages`` for build, ``findings`` for check, ``probes`` for
probe, ``bench`` for bench, ``error`` for a command that failed. Text from outside (names of models,
findings, answers) is put into code spans, where Markdown and HTML have no effect.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_MOST_ROWS = 100
_MOST_CHARACTERS = 400
_MIB = 1 << 20
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+"
)
_SEVERITIES = ("error", "warning", "info")


def summarize(paths: Sequence[Path]) -> str:
    """Return the documents in the given files as Markdown, one section each.

    A missing or empty file gets a section too: its command did not run or was terminated.

    Raises:
        ConfigError: A file cannot be read, or is not one of forge's documents.
    """
    return "\n".join(_section(path) for path in paths)


def code(text: object) -> str:
    """Return text as a code span that it cannot break out of."""
    plain = _UNPRINTABLE.sub(" ", str(text)).strip()
    if len(plain) > _MOST_CHARACTERS:
        plain = f"{plain[: _MOST_CHARACTERS - 3]}..."
    if not plain:
        return ""
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def _section(path: Path) -> str:
    document = _read(path)
    if document is None:
        return f"### {code(path.name)}\n\nNot written: its command did not run or was terminated.\n"
    for key, describe in _DESCRIPTIONS.items():
        if key in document:
            try:
                return "\n".join(_lines_of(describe, document)) + "\n"
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                why = f"forge does not write such a value under {key}"
                raise _unknown(path, why) from error
    raise _unknown(path, "it has none of the keys " + ", ".join(_DESCRIPTIONS))


def _lines_of(
    describe: Callable[[Mapping[str, Any]], Iterable[str]], document: Mapping[str, Any]
) -> list[str]:
    return list(describe(document))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"{path} cannot be read"
        raise ConfigError(what, why=(error.strerror or str(error)).lower()) from error
    except UnicodeDecodeError as error:
        raise _unknown(path, "it is not UTF-8 text") from error
    if not text.strip():
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _unknown(path, f"it is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _unknown(path, f"it is a {type(document).__name__}, not an object")
    return document


def _unknown(path: Path, why: str) -> ConfigError:
    what = f"{path} is not a document that forge can summarize"
    return ConfigError(what, why=why)


def _failure(document: Mapping[str, Any]) -> Iterator[str]:
    error = document["error"]
    yield f"### ❌ Failed, exit code {int(error['exit_code'])}"
    yield ""
    yield from _table(
        ("", ""),
        [
            (label, code(error[key]))
            for label, key in (("what", "what"), ("why", "why"), ("try", "hint"))
            if error[key]
        ],
    )


def _build(document: Mapping[str, Any]) -> Iterator[str]:
    model = document["model"]
    yield f"### ✅ Build of {code(model['repo_id'])}"
    yield ""
    facts = {
        "revision": model["revision"],
        "architecture": model["architecture"],
        "runtime": document["runtime"],
        "TensorRT-LLM": document["trtllm_version"],
        "image": document["container"],
        "repository": document["repository"],
    }
    yield from _table(
        ("", ""), [(name, code(value)) for name, value in facts.items() if value is not None]
    )
    yield ""
    yield from _table(
        ("Stage", "Ran", "Time", "Peak memory", "Why"),
        [
            (
                code(stage["name"]),
                "yes" if stage["run"] else "no",
                _seconds(stage.get("seconds")),
                _mib(stage.get("peak_rss_bytes")),
                code("; ".join(stage["reasons"])),
            )
            for stage in document["stages"]
        ],
    )


def _check(document: Mapping[str, Any]) -> Iterator[str]:
    findings = sorted(document["findings"], key=lambda f: _SEVERITIES.index(f["severity"]))
    errors, warnings = (int(document["summary"][key]) for key in ("errors", "warnings"))
    counts = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    yield f"### {_mark(errors == 0)} Check: {counts}"
    if findings:
        yield ""
        yield from _table(
            ("", "Rule", "Where", "What", "How to fix"),
            [
                (
                    finding["severity"],
                    code(finding["code"]),
                    code(_place(finding)),
                    code(finding["message"]),
                    code(finding.get("hint") or ""),
                )
                for finding in findings
            ],
        )


def _probe(document: Mapping[str, Any]) -> Iterator[str]:
    probes = document["probes"]
    good = sum(1 for probe in probes if probe["ok"])
    yield f"### {_mark(good == len(probes))} Probe: {good} of {len(probes)} ok"
    yield ""
    yield from _table(
        ("", "Probe", "Time", "What was found"),
        [
            (
                _mark(probe["ok"]),
                code(probe["name"]),
                _seconds(probe["seconds"], digits=2),
                code(probe["detail"]),
            )
            for probe in probes
        ],
    )


def _bench(document: Mapping[str, Any]) -> Iterator[str]:
    yield "### Bench"
    yield ""
    yield from _table(
        ("Figure", "Value"), [(code(n), code(v)) for n, v in _leaves("", document["bench"])]
    )


_DESCRIPTIONS: dict[str, Callable[[Mapping[str, Any]], Iterable[str]]] = {
    "error": _failure,
    "stages": _build,
    "findings": _check,
    "probes": _probe,
    "bench": _bench,
}


def _leaves(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(f"{prefix}[{number}]", inner)
    else:
        yield prefix, f"{value:.4g}" if isinstance(value, float) else value


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table, up to the most rows worth reading on a summary page."""
    yield _row(heading)
    yield "|" + "---|" * len(heading)
    for row in rows[:_MOST_ROWS]:
        yield _row(row)
    if len(rows) > _MOST_ROWS:
        yield ""
        yield f"And {len(rows) - _MOST_ROWS} more."


def _row(cells: tuple[str, ...]) -> str:
    # A pipe ends a cell even within a code span.
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _place(finding: Mapping[str, Any]) -> str:
    path, line = finding.get("path") or finding.get("model") or "", finding.get("line")
    return f"{path}:{line}" if path and line else str(path)


def _mark(is_good: bool) -> str:
    return "✅" if is_good else "❌"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(value: float | None, *, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f} s"


def _mib(value: int | None) -> str:
    return "" if value is None else f"{value / _MIB:.0f} MiB"
