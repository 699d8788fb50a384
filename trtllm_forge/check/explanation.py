"""What a rule means: read from the docstring of its function, for ``--explain`` and the docs.

::

    Return ... of what holds in a sound repository, in one sentence.

    More about it; optional.

    Why: What goes wrong otherwise.
    Fix: What to do.
    Upstream: https://github.com/..., https://github.com/...
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtllm_forge.check.finding import Rule

DOCUMENT_SCHEMA = 1

_PART = re.compile(r"^(Why|Fix|Upstream): ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The docstring of a rule, taken apart.

    Attributes:
        sentence: What holds in a sound repository.
        details: More about it; may be empty.
        why: What goes wrong otherwise.
        fix: What to do.
        upstream: Addresses of reports and sources.
    """

    sentence: str
    details: str = ""
    why: str = ""
    fix: str = ""
    upstream: tuple[str, ...] = ()


def read_explanation(docstring: str | None) -> Explanation:
    """Return what a rule's docstring says."""
    head, *parts = _PART.split(inspect.cleandoc(docstring or ""))
    sentence, _, details = head.partition("\n\n")
    said = dict(zip(parts[::2], (" ".join(part.split()) for part in parts[1::2]), strict=True))
    return Explanation(
        sentence=" ".join(sentence.split()),
        details=" ".join(details.split()),
        why=said.get("Why", ""),
        fix=said.get("Fix", ""),
        upstream=tuple(said["Upstream"].split(", ")) if "Upstream" in said else (),
    )


def explanation_text(rule: Rule) -> str:
    """Return what ``forge check --explain`` prints of a rule."""
    said = rule.explanation
    lines = [f"{rule.code} {rule.name} ({rule.severity})", "", said.sentence]
    lines += ["", said.details] if said.details else []
    lines += ["", f"why: {said.why}", f"fix: {said.fix}"]
    lines += [f"see: {address}" for address in said.upstream]
    return "\n".join(lines)


def explanation_document(rule: Rule) -> dict[str, object]:
    """Return the same for ``--json``."""
    said = rule.explanation
    return {
        "schema": DOCUMENT_SCHEMA,
        "code": rule.code,
        "name": rule.name,
        "severity": rule.severity,
        "sentence": said.sentence,
        "details": said.details,
        "why": said.why,
        "fix": said.fix,
        "upstream": list(said.upstream),
    }
