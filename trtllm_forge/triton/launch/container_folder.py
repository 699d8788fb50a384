"""Decides which folders of a model repository a container mounts, and where.

The repository is ``/models``, the place that forge renders it for. Nothing of this machine can be
written from inside. What it refers to outside of itself, an engine, a tokenizer or the checkpoint
of a ``model.yaml``, is mounted at the path by which it is named. A configuration that names an
engine by a path of this machine that is inside the repository is rewritten, and the rewritten
file mounted over its own.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import PrerequisiteError, ServerError
from trtllm_forge.machine.process.docker import Mount
from trtllm_forge.triton.repository.mount import PATH_PARAMETERS, cpp_models, folder_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MODELS_DIR = Path("/models")
"""The repository's path in the container."""

# A path in a config.pbtxt or a model.yaml.
_NAMED = re.compile(
    r"""(?:string_value:\s*"|^\s*model:\s*["']?)(?P<path>/[^"'\n]*)""", re.MULTILINE
)
# Folders of the image itself, which must not be hidden by mounts.
_OF_IMAGE = ("/opt/tritonserver", "/usr", "/bin", "/lib", "/etc", "/proc", "/sys", "/dev", "/app")


@dataclass(frozen=True, kw_only=True)
class ContainerFolder:
    """A repository as a container sees it.

    Attributes:
        mounts: The mounts, the repository first.
        texts: Files to write first; some mounts refer to them.
    """

    mounts: tuple[Mount, ...]
    texts: Mapping[Path, str]


def container_folder(repository_dir: Path, scratch_dir: Path) -> ContainerFolder:
    """Return the mounts of a repository; rewritten files go below ``scratch_dir``.

    Raises:
        ServerError: An engine is neither where its configuration says nor in the repository.
        PrerequisiteError: A link leads out of the repository by a relative path.
    """
    root = repository_dir.resolve()
    mounts = [Mount(source=root, target=str(MODELS_DIR), read_only=True)]
    texts: dict[Path, str] = {}
    rewritten: set[Path] = set()
    for model, config in cpp_models(root).items():
        moved = _point_inside(config, root, model)
        if not moved:
            continue
        rewritten |= moved
        from google.protobuf import text_format

        path = scratch_dir / model / "config.pbtxt"
        texts[path] = text_format.MessageToString(config)
        target = MODELS_DIR / model / "config.pbtxt"
        mounts.append(Mount(source=path, target=str(target), read_only=True))
    others = {*_named_paths(root), *_link_targets(root)} - rewritten
    mounts += [Mount(source=path, target=str(path), read_only=True) for path in sorted(others)]
    return ContainerFolder(mounts=tuple(mounts), texts=texts)


def readable_by_others(mounts: Iterable[Mount]) -> bool:
    """Return whether every user can read everything mounted."""
    for mount in mounts:
        if not mount.source.exists() or not _is_open(mount.source):
            return False
        for folder, folders, files in os.walk(mount.source):
            if not all(_is_open(Path(folder, name)) for name in (*folders, *files)):
                return False
    return True


def _is_open(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:  # a link whose target is mounted elsewhere or not at all
        return True
    wanted = 0o005 if path.is_dir() else 0o004
    return mode & wanted == wanted


def _point_inside(config: Any, root: Path, model: str) -> set[Path]:
    """Rewrite engine paths that do not exist in the container; return the old ones."""
    moved: set[Path] = set()
    for key in PATH_PARAMETERS:
        text = config.parameters[key].string_value if key in config.parameters else ""
        if not text or text.startswith("${"):
            continue
        named = Path(text)
        if named.is_relative_to(MODELS_DIR) and (root / named.relative_to(MODELS_DIR)).is_dir():
            continue
        found = named.resolve() if named.is_absolute() and named.is_dir() else None
        if found is not None and not found.is_relative_to(root):
            continue  # mounted at its own path
        found = found or folder_below(root, model, text)
        if found is None:
            what = f"model {model} names an engine that does not exist: {text}"
            why = f"{key} in {root / model / 'config.pbtxt'}"
            raise ServerError(what, why=why)
        config.parameters[key].string_value = str(MODELS_DIR / found.relative_to(root))
        moved.add(named)
    return moved


def _named_paths(root: Path) -> Iterator[Path]:
    """Yield existing paths that models name and that the repository's mount lacks."""
    for pattern in ("*/config.pbtxt", "*/[0-9]*/model.yaml"):
        for path in root.glob(pattern):
            for match in _NAMED.finditer(path.read_text(encoding="utf-8", errors="replace")):
                named = Path(match["path"].strip())
                # No sockets or devices: mounts are only for reading.
                if _is_of_this_machine(named) and (named.is_dir() or named.is_file()):
                    yield named
                    yield from _targets_beside(named)


def _targets_beside(folder: Path) -> Iterator[Path]:
    """Yield link targets outside a folder, by the path a container looks up.

    A snapshot of the Hub's cache is such a folder: its files are links to ``../../blobs``.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if not path.is_symlink():
                continue
            target = Path(os.path.normpath(path.parent / path.readlink()))
            if target.exists() and not target.is_relative_to(folder):
                yield target


def _link_targets(root: Path) -> Iterator[Path]:
    """Yield link targets outside the repository."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if not path.is_symlink() or path.resolve().is_relative_to(root):
                continue
            target = path.readlink()
            if not target.is_absolute():
                what = f"{path} leads out of the repository, where a container cannot follow"
                why = f"it is a link to {target}, which is another file in the container"
                hint = shlex.join(("ln", "-sfn", str(path.resolve()), str(path)))
                raise PrerequisiteError(what, why=why, hint=hint)
            if path.exists():
                yield target


def _is_of_this_machine(named: Path) -> bool:
    return named != Path("/") and not any(
        named.is_relative_to(place) for place in (MODELS_DIR, *_OF_IMAGE)
    )
