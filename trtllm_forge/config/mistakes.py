"""Mistakes in a configuration: collected, then reported as one error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake.

    Attributes:
        what: The key and both values, wanted and found.
        where: The flag, variable or ``file:line`` it came from.
        fix: What to write instead; empty if unknown.
    """

    what: str
    where: str
    fix: str = ""


def config_error(mistakes: Sequence[Mistake]) -> ConfigError:
    """Return one error that lists all mistakes."""
    fixes = "\n".join(mistake.fix for mistake in mistakes if mistake.fix)
    if len(mistakes) == 1:
        return ConfigError(mistakes[0].what, why=mistakes[0].where, hint=fixes)
    why = "\n".join(f"{mistake.where}: {mistake.what}" for mistake in mistakes)
    return ConfigError(f"the configuration has {len(mistakes)} mistakes", why=why, hint=fixes)
