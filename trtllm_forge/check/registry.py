"""The list of all rules, and which of them are asked for."""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem, Rule, Severity
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trtllm_forge.check.view import RepositoryView

    Check = Callable[[RepositoryView], Iterable[Problem]]

RULE_MODULES = (
    "text",
    "models",
    "python_files",
    "ensemble",
    "chain",
    "contract",
    "parameters",
    "parameter_pairs",
    "engine",
    "engine_limits",
    "kv_cache",
    "tokenizer",
    "serving",
    "security",
    "llmapi",
    "llmapi_checkpoint",
)
"""The modules below ``check.rules``; each registers its rules when it is imported."""

_RULES: dict[str, Rule] = {}


def rule(code: str, name: str, severity: Severity, sentence: str) -> Callable[[Check], Check]:
    """Return a decorator that makes a function a rule."""

    def register(check: Check) -> Check:
        _RULES[code] = Rule(code=code, name=name, severity=severity, sentence=sentence, check=check)
        return check

    return register


@lru_cache(maxsize=1)
def all_rules() -> tuple[Rule, ...]:
    """Return every rule by its code."""
    for module in RULE_MODULES:
        importlib.import_module(f"trtllm_forge.check.rules.{module}")
    return tuple(_RULES[code] for code in sorted(_RULES))


def selected_rules(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Rule, ...]:
    """Return the rules that are asked for.

    Args:
        select: Codes or their beginnings, such as ``FL4``; none means all.
        ignore: The same, left out again.

    Raises:
        ConfigError: One of them names no rule.
    """
    rules = all_rules()
    for flag, prefixes in (("--select", select), ("--ignore", ignore)):
        for prefix in prefixes:
            _require_known(prefix, rules, flag)
    return tuple(
        rule
        for rule in rules
        if (not select or _is_meant(rule, select)) and not _is_meant(rule, ignore)
    )


def _is_meant(rule: Rule, prefixes: Sequence[str]) -> bool:
    return any(rule.code.startswith(prefix.upper()) for prefix in prefixes)


def _require_known(prefix: str, rules: Sequence[Rule], flag: str) -> None:
    if re.fullmatch(r"FL\d*", prefix.upper()) and any(_is_meant(r, (prefix,)) for r in rules):
        return
    named = next((r.code for r in rules if r.name == prefix.lower()), None)
    what = f"there is no rule {prefix}"
    why = f"codes go from {rules[0].code} to {rules[-1].code}; FL4 means all that begin so"
    raise ConfigError(what, why=why, hint=f"{flag} {named or rules[0].code}")
