"""The current repositories of a server: ``served.json``, beside its Triton's load folder.

::

    {"schema": 1, "completes_config": false,
     "repositories": [{"name": "coder", "repository": "/srv/model_repos/coder",
                       "prefix": "coder.", "version": 2}]}

The folder belongs to one run: a restarted server has the repositories it was started with.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import ServerError
from trtllm_forge.files.lock import HeldError, exclusive_now
from trtllm_forge.files.staging import write_whole
from trtllm_forge.triton.repository.served_models import ServedRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCHEMA = 1
_NAME = "served.json"


@dataclass(frozen=True, kw_only=True)
class ServedSet:
    """The repositories of one server.

    Attributes:
        view_dir: The folder its Triton loads from.
        repositories: In the order in which they were named.
        completes_config: Whether its models may complete their own configuration.
    """

    view_dir: Path
    repositories: tuple[ServedRepository, ...]
    completes_config: bool = False

    def find(self, name: str) -> ServedRepository | None:
        """Return the repository of that name."""
        return next((one for one in self.repositories if one.name == name), None)

    def with_repository(self, new: ServedRepository) -> ServedSet:
        """Return it with a repository replaced by its new version, or appended."""
        if self.find(new.name) is None:
            return replace(self, repositories=(*self.repositories, new))
        return replace(
            self,
            repositories=tuple(new if one.name == new.name else one for one in self.repositories),
        )

    def without(self, name: str) -> ServedSet:
        """Return it without a repository."""
        return replace(
            self, repositories=tuple(one for one in self.repositories if one.name != name)
        )

    def real_paths(self, text: str) -> str:
        """Replace paths in the folder of links by those of the repositories."""
        for one in sorted(self.repositories, key=lambda one: -len(one.prefix)):
            served = re.escape(f"{self.view_dir}/{one.prefix}")
            # A later version's folder is named by its number and links to the repository's 1.
            text = re.sub(
                rf"{served}([^/\s]+?)(?:\.\d+)?/(\d+)/",
                lambda match, one=one: (  # type: ignore[misc]
                    f"{one.repository_dir}/{match[1]}/{1 if one.version > 1 else match[2]}/"
                ),
                text,
            )
        return text

    def text(self) -> str:
        """Return its JSON document."""
        entries = [
            {
                "name": one.name,
                "repository": str(one.repository_dir),
                "prefix": one.prefix,
                "version": one.version,
            }
            for one in self.repositories
        ]
        document = {
            "schema": _SCHEMA,
            "completes_config": self.completes_config,
            "repositories": entries,
        }
        return json.dumps(document, indent=2) + "\n"


def read_served_set(view_dir: Path) -> ServedSet | None:
    """Return a server's repositories, or None if they cannot be changed while it runs."""
    try:
        document = json.loads(served_set_path(view_dir).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return ServedSet(
        view_dir=view_dir,
        completes_config=bool(document["completes_config"]),
        repositories=tuple(
            ServedRepository(
                name=entry["name"],
                repository_dir=Path(entry["repository"]),
                prefix=entry["prefix"],
                version=int(entry["version"]),
            )
            for entry in document["repositories"]
        ),
    )


def write_served_set(served: ServedSet) -> None:
    """Write a server's repositories atomically."""
    write_whole(served_set_path(served.view_dir), served.text())


def served_set_path(view_dir: Path) -> Path:
    """Return the path of the file."""
    return view_dir.with_name(_NAME)


@contextmanager
def changing(view_dir: Path, server: str) -> Iterator[None]:
    """Let one command at a time change a server's repositories.

    Raises:
        ServerError: Another command is changing them, or the server ends meanwhile.
    """
    try:
        with exclusive_now(served_set_path(view_dir).with_suffix(".lock"), name=str(os.getpid())):
            yield
    except HeldError as error:
        what = f"the models of {server} are being changed by process {error.holder or '?'}"
        raise ServerError(what, why="one command at a time loads, unloads or reloads") from error
    except FileNotFoundError as error:
        if view_dir.is_dir():
            raise
        what = f"the server {server} has ended"
        raise ServerError(what, hint=f"forge status {shlex.quote(server)}") from error
