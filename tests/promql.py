"""What the shipped dashboard and alert rules ask Prometheus for, taken apart by a parser."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import promql_parser
import yaml

from trtllm_forge.files.resources import data_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_INTERVAL = "$__rate_interval"
_VARIABLES = {"$instance": ".*", "$model": ".*"}
_FILTERED = {"MatchOp.Re": True, "MatchOp.NotRe": False}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One selector of a query: a metric, and what its labels have to be."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def takes(self, name: str, labels: Mapping[str, str]) -> bool:
        """Return whether a sample is what is asked for."""
        return name == self.name and all(
            label in labels and _matches(operator, value, labels[label])
            for label, operator, value in self.matchers
        )


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    path = data_path("operations") / "grafana.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def alert_rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    text = (data_path("operations") / "alerts.yaml").read_text(encoding="utf-8")
    rules: list[dict[str, Any]] = yaml.safe_load(text)["groups"][0]["rules"]
    return rules


def queries() -> dict[str, str]:
    """Return every query as Grafana and Prometheus run it, by a name for people."""
    found = {f"alert {rule['alert']}": str(rule["expr"]) for rule in alert_rules()}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            text = str(target["expr"]).replace(_INTERVAL, "1m")
            for variable, value in _VARIABLES.items():
                text = text.replace(variable, value)
            found[f"{panel['title']} {target['refId']}"] = text
    return found


def selectors(query: str) -> tuple[Wanted, ...]:
    """Return what a query selects."""
    return tuple(
        Wanted(
            name=selector.name,
            matchers=tuple(
                (matcher.name, str(matcher.op), matcher.value)
                for matcher in selector.matchers.matchers
            ),
        )
        for selector in _vector_selectors(promql_parser.parse(query))
    )


def _vector_selectors(node: Any) -> Iterator[Any]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(node, name, None)
        if inner is not None:
            yield from _vector_selectors(inner)
    for argument in getattr(node, "args", None) or ():
        yield from _vector_selectors(argument)


def _matches(operator: str, value: str, found: str) -> bool:
    if operator in _FILTERED:
        return (re.fullmatch(value, found) is not None) is _FILTERED[operator]
    return (found == value) is (operator == "MatchOp.Equal")
