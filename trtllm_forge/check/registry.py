"""The list of all rules, and which of them are asked for."""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem, Rule, Severity
from trtllm_forge.errors import ConfigError
from trtllm_forge.text.spelling import nearest

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


def rule(code: str, name: str, severity: Severity) -> Callable[[Check], Check]:
    """Return a decorator that makes a function a rule; see ``explanation`` for its docstring."""

    def register(check: Check) -> Check:
        _RULES[code] = Rule(code=code, name=name, severity=severity, check=check)
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


def find_rule(code: str) -> Rule:
    """Return the rule of a code or a name.

    Raises:
        ConfigError: There is none.
    """
    for rule in all_rules():
        if code.lower() in (rule.code.lower(), rule.name):
            return rule
    raise _unknown(code, all_rules(), "forge check --explain")


def _require_known(prefix: str, rules: Sequence[Rule], flag: str) -> None:
    if re.fullmatch(r"FL\d*", prefix.upper()) and any(_is_meant(r, (prefix,)) for r in rules):
        return
    raise _unknown(prefix, rules, flag)


def _unknown(code: str, rules: Sequence[Rule], flag: str) -> ConfigError:
    names = {rule.name: rule.code for rule in rules}
    near = nearest(code.lower(), names)
    what = f"there is no rule {code}"
    why = f"codes go from {rules[0].code} to {rules[-1].code}; FL4 means all that begin with FL4"
    return ConfigError(what, why=why, hint=f"{flag} {names[near] if near else rules[0].code}")
