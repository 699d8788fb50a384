"""Finds the model repository that a command names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.text.spelling import nearest
from trtllm_forge.triton.repository.names import ENSEMBLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.reporter import Reporter

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)=(?P<folder>.+)")


def find_repository(
    name: str | None, model_repos_dir: Path, reporter: Reporter, *, command: str = "forge serve"
) -> Path:
    """Return the named repository, or the last built one without a name.

    Args:
        name: A folder, or the name of one below ``model_repos_dir``. A bare name is looked up
            there first: a folder of that name here is often not a repository.
        model_repos_dir: Where ``forge build`` puts repositories.
        reporter: Gets a note with the choice when none was named.
        command: The command before the name, for hints.

    Raises:
        ConfigError: No repository of that name, or none at all.
    """
    built = [path for path in _subfolders(model_repos_dir) if is_repository(path)]
    if name is not None:
        return _named(name, model_repos_dir, built, command)
    if not built:
        what = f"no model repository has been built in {model_repos_dir}"
        raise ConfigError(what, hint="forge build sample --int4")
    newest = max(built, key=_built_at)
    which = "the only" if len(built) == 1 else f"the last built of {len(built)}"
    reporter.note(f"serving {newest.name}, {which} in {model_repos_dir}")
    return newest.resolve()


def named_folder(folder: Path, model_repos_dir: Path, *, command: str) -> Path:
    """Return the folder, or the one of that name below ``model_repos_dir``.

    For commands that take any folder and check it themselves.

    Args:
        folder: As it was typed.
        model_repos_dir: Where ``forge build`` puts repositories.
        command: The command before it, for hints.

    Raises:
        ConfigError: It does not exist, and a similar name does.
    """
    built = model_repos_dir / folder
    if not any(folder.glob("*/config.pbtxt")) and any(built.glob("*/config.pbtxt")):
        return built
    if not folder.exists():
        names = [path.name for path in _subfolders(model_repos_dir) if is_repository(path)]
        near = nearest(folder.name, names)
        if near is not None:
            what = f"{folder} is not a folder"
            why = f"{model_repos_dir} holds {', '.join(names)}"
            raise ConfigError(what, why=why, hint=f"{command} {near}")
    return folder


def is_repository(folder: Path) -> bool:
    """Return whether a folder was built by forge, or has an ensemble to be served."""
    if folder.name.startswith("."):  # a build in progress
        return False
    return (folder / LOCK_NAME).is_file() or (folder / ENSEMBLE / "config.pbtxt").is_file()


def _named(name: str, model_repos_dir: Path, built: list[Path], command: str) -> Path:
    candidates = [Path(name), model_repos_dir / name]
    if not name.startswith(".") and "/" not in name:
        candidates.reverse()
    folders = [folder for folder in candidates if folder.is_dir()]
    for folder in folders:
        if any(folder.glob("*/config.pbtxt")) and not _is_staged(folder):
            return folder.resolve()
    if folders:
        what = f"{folders[0]} is not a model repository"
        why = (
            "a build that was killed left it behind"
            if _is_staged(folders[0])
            else "it holds no model: it has no */config.pbtxt"
        )
        raise ConfigError(what, why=why)
    names = [path.name for path in built]
    what = f"no model repository {name}"
    why = f"there is no such folder, and {model_repos_dir} holds {', '.join(names) or 'none'}"
    near = nearest(Path(name).name, names)
    hint = f"{command} {near}" if near else f"forge build {name}" if "/" not in name else ""
    raise ConfigError(what, why=why, hint=hint)


def _is_staged(folder: Path) -> bool:
    name = folder.resolve().name
    return name.startswith(".") and name.endswith(".staged")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _built_at(repository_dir: Path) -> float:
    lock_path = repository_dir / LOCK_NAME
    path = lock_path if lock_path.exists() else repository_dir / ENSEMBLE / "config.pbtxt"
    return path.stat().st_mtime


@dataclass(frozen=True, kw_only=True)
class NamedRepository:
    """A repository's folder and its name in a server."""

    name: str
    folder: Path


def named_repository(
    text: str | None, model_repos_dir: Path, reporter: Reporter, *, command: str = "forge serve"
) -> NamedRepository:
    """Return the named repository; None is the last built one.

    Raises:
        ConfigError: There is none of that name.
    """
    match = _NAMED.fullmatch(text) if text is not None and not Path(text).exists() else None
    folder = find_repository(
        match["folder"] if match else text, model_repos_dir, reporter, command=command
    )
    return NamedRepository(name=match["name"] if match else folder.name, folder=folder)


def named_repositories(
    texts: Sequence[str] | None, model_repos_dir: Path, reporter: Reporter
) -> tuple[NamedRepository, ...]:
    """Return the repositories to serve: those named, else the last built one.

    Raises:
        ConfigError: There is none of that name.
    """
    return tuple(named_repository(text, model_repos_dir, reporter) for text in texts or (None,))
