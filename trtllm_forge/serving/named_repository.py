"""A repository and the name under which it is served: ``coder``, a folder, or ``coder=FOLDER``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.serving.repositories import find_repository

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.reporter import Reporter

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)=(?P<folder>.+)")


@dataclass(frozen=True, kw_only=True)
class NamedRepository:
    """A repository's folder, and what it is called in a server."""

    name: str
    folder: Path


def named_repository(
    text: str | None, model_repos_dir: Path, reporter: Reporter, *, command: str = "forge serve"
) -> NamedRepository:
    """Return what was named; None is the repository built last.

    Raises:
        ConfigError: There is none of that name.
    """
    match = _NAMED.fullmatch(text) if text is not None and not Path(text).exists() else None
    folder = find_repository(
        match["folder"] if match else text, model_repos_dir, reporter, command=command
    )
    return NamedRepository(name=match["name"] if match else folder.name, folder=folder)


def serving_options(
    texts: Sequence[str] | None, model_repos_dir: Path, reporter: Reporter
) -> dict[str, Any]:
    """Return the options of ``forge serve`` that say what is served."""
    named = [named_repository(text, model_repos_dir, reporter) for text in (texts or (None,))]
    first = named[0]
    is_plain = len(named) == 1 and first.name == first.folder.name
    return {
        "repository_dir": first.folder,
        "repositories": () if is_plain else tuple(named),
    }
