"""Makes the engine paths of the C++ backend valid wherever a repository is served from.

Python models find their files from the repository's path, which Triton passes to them. The backend
``tensorrtllm`` resolves ``gpt_model_path`` against the server's working directory, so a rendered
repository holds an absolute path below a mount root, the place it is deployed to. Served from
anywhere else, it is mirrored by links in a private folder, with those paths rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import ServerError
from trtllm_forge.triton.repository.plain_path import is_plain
from trtllm_forge.triton.repository.repository import parse_model_config

if TYPE_CHECKING:
    from collections.abc import Mapping

CPP_BACKEND = "tensorrtllm"
PATH_PARAMETERS = ("gpt_model_path", "encoder_model_path")


def cpp_models(repository_dir: Path) -> Mapping[str, Any]:
    """Return the parsed configuration of each model of the C++ backend, by folder name.

    Files that do not name the backend are not parsed: reading protobuf takes a while to load.
    """
    paths = sorted(repository_dir.glob("*/config.pbtxt"))
    configs = {
        path.parent.name: parse_model_config(path)
        for path in paths
        if CPP_BACKEND in path.read_text(encoding="utf-8")
    }
    return {name: config for name, config in configs.items() if config.backend == CPP_BACKEND}


def engine_dir(config: Any, repository_dir: Path, model: str) -> Path | None:
    """Return the engine that a model of the C++ backend names, or None if it does not exist."""
    if "gpt_model_path" not in config.parameters:
        return None
    text = config.parameters["gpt_model_path"].string_value
    if Path(text).is_absolute() and Path(text).is_dir():
        return Path(text)
    return folder_below(repository_dir, model, text) if text and not text.startswith("${") else None


@dataclass(frozen=True, kw_only=True)
class ServedFolder:
    """The folder Triton is started with, and what has to be made for it first.

    Attributes:
        path: The repository itself, or a mirror of it.
        links: Links to make, each with its target.
        texts: Files to write, each with its text.
    """

    path: Path
    links: Mapping[Path, Path] = field(default_factory=dict)
    texts: Mapping[Path, str] = field(default_factory=dict)


def served_folder(
    repository_dir: Path, mirror_dir: Path, *, is_mirrored: bool = False
) -> ServedFolder:
    """Return what to start Triton with: the repository, or a mirror of it in ``mirror_dir``.

    A mirror is made when a model of the C++ backend names a path that does not exist, when
    Triton cannot handle the repository's own path, or when ``is_mirrored`` is set so that
    another version or repository can be added while it is served.

    Raises:
        ServerError: An engine is neither where the configuration says nor in the repository.
    """
    rewritten = {
        name: config
        for name, config in cpp_models(repository_dir).items()
        if point_at_repository(config, repository_dir, name)
    }
    if not rewritten and not is_mirrored:
        if is_plain(repository_dir):
            return ServedFolder(path=repository_dir)
        return ServedFolder(path=mirror_dir, links={mirror_dir: repository_dir.resolve()})
    links: dict[Path, Path] = {}
    texts: dict[Path, str] = {}
    for model_dir in sorted(repository_dir.iterdir()):
        mirrored_dir = mirror_dir / model_dir.name
        if model_dir.name not in rewritten:
            links[mirrored_dir] = model_dir.resolve()
            continue
        from google.protobuf import text_format

        for entry in sorted(model_dir.iterdir()):
            if entry.name != "config.pbtxt":
                links[mirrored_dir / entry.name] = entry.resolve()
        text = text_format.MessageToString(rewritten[model_dir.name])
        texts[mirrored_dir / "config.pbtxt"] = text
    return ServedFolder(path=mirror_dir, links=links, texts=texts)


def point_at_repository(config: Any, repository_dir: Path, model: str) -> bool:
    """Rewrite the engine paths of a parsed configuration; return whether any had to be."""
    has_changed = False
    for key in PATH_PARAMETERS:
        # Reading a key of a protobuf map would create it.
        text = config.parameters[key].string_value if key in config.parameters else ""
        if not text or text.startswith("${") or (Path(text).is_absolute() and Path(text).is_dir()):
            continue
        found = folder_below(repository_dir, model, text)
        if found is None:
            what = f"model {model} names an engine that does not exist: {text}"
            why = f"{key} in {repository_dir / model / 'config.pbtxt'}"
            raise ServerError(what, why=why)
        config.parameters[key].string_value = str(found)
        has_changed = True
    return has_changed


def folder_below(repository_dir: Path, model: str, text: str) -> Path | None:
    """Return a path's equivalent inside the repository: its part from a model's folder on."""
    parts = PurePosixPath(text).parts
    for index, part in enumerate(parts):
        if (repository_dir / part).is_dir() and part not in ("/", ".", ".."):
            candidate = repository_dir.joinpath(*parts[index:]).resolve()
            if candidate.is_dir():
                return candidate
    candidate = (repository_dir / model / text).resolve()
    return candidate if not Path(text).is_absolute() and candidate.is_dir() else None
