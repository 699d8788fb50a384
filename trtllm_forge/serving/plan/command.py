"""The ``forge serve`` command of what is served, for hints that can be pasted."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtllm_forge.serving.plan.repositories import NamedRepository


def serve_command(repositories: Sequence[NamedRepository], model_repos_dir: Path) -> str:
    """Return the command that serves repositories from the current folder."""
    words = []
    for repository in repositories:
        folder = repository.folder
        is_built = folder.parent.resolve() == model_repos_dir.resolve()
        named = folder.name if is_built else str(folder)
        words.append(named if repository.name == folder.name else f"{repository.name}={named}")
    return shlex.join(("forge", "serve", *words))
