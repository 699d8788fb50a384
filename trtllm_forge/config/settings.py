"""The ``FORGE_*`` variables of the process, read only here.

Options of ``forge build`` can also be set with ``FORGE_<OPTION>``; ``build_option_environment``
passes those to ``config.load``, which knows their names and types.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "FORGE_"
_OWN_VARIABLES = frozenset({"FORGE_CACHE_DIR", "FORGE_STATE_DIR", "FORGE_MODEL_REPOS"})

DEFAULT_CONFIG_NAME = "forge.yaml"
"""The file that is read from the working folder by default."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where forge keeps things.

    Attributes:
        cache_dir: The store of artifacts; safe to delete.
        state_dir: The state of servers: their records, logs and ports.
        model_repos_dir: Where repositories are built without ``--output``.
    """

    cache_dir: Path
    state_dir: Path
    model_repos_dir: Path


def read_settings() -> Settings:
    """Return the settings from this process's environment."""
    home = Path(os.environ.get("HOME") or Path.home())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
    return Settings(
        cache_dir=Path(os.environ.get("FORGE_CACHE_DIR") or cache / "trtllm-forge").absolute(),
        state_dir=Path(os.environ.get("FORGE_STATE_DIR") or state / "trtllm-forge").absolute(),
        model_repos_dir=Path(os.environ.get("FORGE_MODEL_REPOS") or "model_repos"),
    )


def build_option_environment() -> dict[str, str]:
    """Return the ``FORGE_*`` variables not in ``Settings``, in lower case without the prefix."""
    return {
        name[len(_PREFIX) :].lower(): value
        for name, value in os.environ.items()
        if name.startswith(_PREFIX) and name not in _OWN_VARIABLES
    }
