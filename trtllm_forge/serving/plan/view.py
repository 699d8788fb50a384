"""Lays out the repositories of one server in the folder that its Triton loads from.

A single repository keeps its model names. Several repositories have models of the same names, so
each puts its own name in front: ``coder.ensemble`` and ``chat.ensemble``.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError
from trtllm_forge.serving.plan.served_set import ServedSet, served_set_path
from trtllm_forge.triton.repository.mount import served_folder
from trtllm_forge.triton.repository.names import FRONT_MODEL
from trtllm_forge.triton.repository.served_models import PREFIX_END, ServedRepository, served_models

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.serving.plan.repositories import NamedRepository


@dataclass(frozen=True, kw_only=True)
class ServedView:
    """The folder Triton is started with, and what has to be made for it first.

    Attributes:
        path: The folder.
        links: Links to make, each with its target.
        texts: Files to write, each with its text.
        fronts: The model of each repository that clients ask.
    """

    path: Path
    links: Mapping[Path, Path]
    texts: Mapping[Path, str]
    fronts: tuple[str, ...]


def served_view(
    repositories: Sequence[NamedRepository],
    view_dir: Path,
    *,
    is_mirrored: bool,
    completes_config: bool,
) -> ServedView:
    """Return the folder to start Triton with.

    Args:
        repositories: The repositories to serve, at least one.
        view_dir: The folder to make.
        is_mirrored: Whether it can be changed while serving, which requires a single rank.
        completes_config: Whether models may complete their own configuration.

    Raises:
        ServerError: An engine is neither at its configured path nor in the repository, or a
            model calls others by hard-coded names.
    """
    prefixed = served_repositories(repositories)
    path, links, texts = view_dir, dict[Path, Path](), dict[Path, str]()
    for repository in prefixed:
        if not repository.prefix:
            folder = served_folder(repository.repository_dir, view_dir, is_mirrored=is_mirrored)
            path, links, texts = folder.path, {**folder.links}, {**folder.texts}
            continue
        for name, model in served_models(repository).folders.items():
            texts |= {view_dir / name / entry: text for entry, text in model.texts.items()}
            links |= {view_dir / name / entry: path for entry, path in model.links.items()}
    served = ServedSet(
        view_dir=view_dir,
        repositories=prefixed,
        completes_config=completes_config,
    )
    if is_mirrored:
        texts[served_set_path(view_dir)] = served.text()
    fronts = tuple(one.served_name(front_model(one.repository_dir)) for one in prefixed)
    return ServedView(path=path, links=links, texts=texts, fronts=fronts)


def served_repositories(
    repositories: Sequence[NamedRepository],
) -> tuple[ServedRepository, ...]:
    """Return each repository with its prefix.

    Raises:
        ConfigError: Two of them have the same name.
    """
    if len(repositories) == 1:
        (only,) = repositories
        return (ServedRepository(name=only.name, repository_dir=only.folder),)
    folders: dict[str, Path] = {}
    for one in repositories:
        if one.name in folders:
            what = (
                f"two repositories are named {one.name}, so their models would have the same names"
            )
            why = f"{folders[one.name]} and {one.folder}"
            hint = shlex.join(("forge", "serve", one.name, f"{one.name}2={one.folder}"))
            raise ConfigError(what, why=why, hint=hint)
        folders[one.name] = one.folder
    return tuple(
        ServedRepository(name=name, repository_dir=folder, prefix=f"{name}{PREFIX_END}")
        for name, folder in folders.items()
    )


def front_model(repository_dir: Path) -> str:
    """Return the ensemble, or the first model of a repository without one."""
    models = sorted(path.parent.name for path in repository_dir.glob("*/config.pbtxt"))
    return FRONT_MODEL if FRONT_MODEL in models else models[0]
