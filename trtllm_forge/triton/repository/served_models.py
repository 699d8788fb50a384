"""Names a repository's models for serving, and builds the folder Triton loads them from.

Triton names a model after its folder, and names are unique. So two repositories, or two versions
of one, in the same server get names of their own, in a folder of links to the repository with
each ``config.pbtxt`` rewritten:

==================  ==============  =======================================================
served as           instead of      when
==================  ==============  =======================================================
``coder.ensemble``  ``ensemble``    several repositories: the repository's name is in front
``tensorrt_llm.2``  the same        version 2 of the repository, of a model that others call
``ensemble``, 2     ``ensemble``    version 2 of a model that no other calls: a front model
==================  ==============  =======================================================

So a front model's configuration decides which models it calls, and Triton replaces the front model
atomically: a single version of the repository answers each request.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import ServerError
from trtllm_forge.triton.repository.mount import CPP_BACKEND, point_at_repository
from trtllm_forge.triton.repository.repository import parse_model_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CONFIG_NAME = "config.pbtxt"
PREFIX_END = "."
"""Ends a repository's prefix and starts a version; no forge model has it in its name."""
_NAME_PARAMETERS = ("tensorrt_llm_model_name", "preprocessing_model_name")
_CALLS = re.compile(r"\bInferenceRequest\(")
_VERSION = re.compile(r"[0-9]+")
_BYTECODE = "__pycache__"


@dataclass(frozen=True, kw_only=True)
class ServedRepository:
    """A repository in a server.

    Attributes:
        name: Its name in commands.
        repository_dir: Its folder.
        prefix: Prefix of its model names; empty for the only repository.
        version: 1 when the server starts, and one more with each time it is replaced.
    """

    name: str
    repository_dir: Path
    prefix: str = ""
    version: int = 1

    def served_name(self, model: str) -> str:
        """Return the name by which clients call one of its models."""
        return f"{self.prefix}{model}"

    @property
    def is_plain(self) -> bool:
        """Whether its models are served under their names on disk."""
        return not self.prefix and self.version == 1


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """One model's folder: its files and links, by relative path."""

    texts: Mapping[str, str]
    links: Mapping[str, Path]

    def write(self, folder: Path) -> None:
        """Write it, replacing whatever is there.

        Raises:
            FileNotFoundError: Its parent folder is gone: the server has ended.
        """
        remove_folder(folder)
        folder.mkdir()
        for name in (*self.texts, *self.links):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for name, target in self.links.items():
            (folder / name).symlink_to(target)
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class ServedModels:
    """The models of one version of a repository, as Triton loads them.

    Attributes:
        fronts: Those that no other model calls, by the names that clients use.
        inner: Those that they call, which belong only to this version.
        aliases: The names by which clients know the inner models, from the second version on:
            an ensemble of one step for each.
        rehearsals: The front models by names of this version, to be loaded before the others
            are replaced.
        folders: A folder for each of them.
    """

    fronts: tuple[str, ...]
    inner: tuple[str, ...]
    aliases: tuple[str, ...]
    rehearsals: tuple[str, ...]
    folders: Mapping[str, ModelFolder]


def served_models(repository: ServedRepository) -> ServedModels:
    """Return a repository's models under names of their own.

    Raises:
        RenderError: A ``config.pbtxt`` does not parse.
        ServerError: An engine is not at its configured path, or a model calls others by
            hard-coded names.
    """
    folder, version = repository.repository_dir, repository.version
    configs = {path.parent.name: parse_model_config(path) for path in config_paths(folder)}
    inner = _called(configs)
    own = {model: f"{repository.served_name(model)}.{version}" for model in configs}
    names = {
        model: own[model] if model in inner and version > 1 else repository.served_name(model)
        for model in configs
    }
    folders: dict[str, ModelFolder] = {}
    for model, config in configs.items():
        _rename(config, names, folder, model)
        links = _links(folder / model, version)
        texts = _files(folder / model, version, config)
        folders[names[model]] = ModelFolder(texts=texts, links=links)
        if version == 1:
            continue
        if model in inner:
            known = repository.served_name(model)
            texts = _files(folder / model, version, _alias(config, known))
        else:
            config.name = known = own[model]
            texts = _files(folder / model, version, config)
        folders[known] = ModelFolder(texts=texts, links=links)
    fronts = [model for model in configs if model not in inner]
    # Python models first: they are more likely to fail than an ensemble.
    fronts.sort(key=lambda model: configs[model].platform == "ensemble")
    called = [model for model in configs if model in inner]
    return ServedModels(
        fronts=tuple(names[model] for model in fronts),
        inner=tuple(names[model] for model in called),
        aliases=tuple(map(repository.served_name, called)) if version > 1 else (),
        rehearsals=tuple(own[model] for model in fronts) if version > 1 else (),
        folders=folders,
    )


def served_name(model: str, front: str, inner: Sequence[str]) -> str:
    """Return the served name of a repository's model, given its front model.

    Args:
        model: Its name on disk.
        front: The front model's served name, with the repository's prefix.
        inner: The models that the front model calls, by their served names.
    """
    prefix, separator, _ = front.rpartition(PREFIX_END)
    plain = f"{prefix}{separator}{model}"
    return next(
        (name for name in inner if name == plain or name.startswith(f"{plain}{PREFIX_END}")), plain
    )


def remove_folder(folder: Path) -> None:
    """Remove a model's folder, which may be a link to one, if it is there."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def config_paths(repository_dir: Path) -> tuple[Path, ...]:
    """Return the configuration of each model, by the model's name."""
    return tuple(sorted(repository_dir.glob(f"*/{CONFIG_NAME}")))


def _called(configs: Mapping[str, Any]) -> set[str]:
    """Return the models that ensembles or a parameter of another model name."""
    called = {
        step.model_name for config in configs.values() for step in config.ensemble_scheduling.step
    }
    for model, config in configs.items():
        # Reading a key of a protobuf map would create it.
        for key in set(_NAME_PARAMETERS) & set(config.parameters):
            called |= {config.parameters[key].string_value} - {model}
    return called & set(configs)


def _rename(config: Any, names: Mapping[str, str], folder: Path, model: str) -> None:
    """Set the served names and absolute paths in a model's configuration."""
    config.name = names[model]
    config.ClearField("version_policy")
    for step in config.ensemble_scheduling.step:
        step.model_name = names.get(step.model_name, step.model_name)
        step.model_version = -1
    if config.backend == CPP_BACKEND:
        point_at_repository(config, folder, model)
    for key in list(config.parameters):
        text = config.parameters[key].string_value
        if text and key.endswith(("_path", "_dir")) and (folder / text).exists():
            config.parameters[key].string_value = str(folder / text)
    source = "".join(
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted((folder / model).glob("*/*.py"))
    )
    if not _CALLS.search(source):
        return
    known = [key for key in _NAME_PARAMETERS if key in source]
    if "tensorrt_llm_model_name" not in known or (
        '"preprocessing"' in source and "preprocessing_model_name" not in known
    ):
        what = f"model {model} of {folder} calls other models by names that are built into it"
        why = "such a repository cannot be served beside another one or beside a version of itself"
        raise ServerError(what, why=why, hint="build it again with this forge")
    for key in known:
        called = config.parameters[key].string_value if key in config.parameters else ""
        called = called or key.removesuffix("_model_name")
        config.parameters[key].string_value = names.get(called, called)


def _alias(config: Any, name: str) -> Any:
    """Return an ensemble of one step, which gives a model another name.

    In an ensemble each name is one tensor: an output with the name of an input is dropped.
    """
    inputs = {tensor.name for tensor in config.input}
    alias = type(config)(name=name, platform="ensemble", max_batch_size=config.max_batch_size)
    alias.input.extend(config.input)
    alias.output.extend(tensor for tensor in config.output if tensor.name not in inputs)
    for tensor in (*alias.input, *alias.output):
        tensor.ClearField("reshape")  # an ensemble forwards what the model declares
    step = alias.ensemble_scheduling.step.add(model_name=config.name, model_version=-1)
    for tensor in config.input:
        step.input_map[tensor.name] = tensor.name
    for tensor in alias.output:
        step.output_map[tensor.name] = tensor.name
    return alias


def _links(model_dir: Path, version: int) -> Mapping[str, Path]:
    """Return the content of a model's folder, with its version renumbered unless 1.

    Files in a version are linked one by one, so that new files there change nothing.
    """
    entries = {path.name: path.resolve() for path in sorted(model_dir.iterdir())}
    entries.pop(CONFIG_NAME)
    versions = {name: path for name, path in entries.items() if _VERSION.fullmatch(name)}
    if version > 1:
        latest = str(max(map(int, versions), default=1))
        versions = {str(version): versions.get(latest, model_dir / latest)}
    links = {name: path for name, path in entries.items() if not _VERSION.fullmatch(name)}
    for name, folder in versions.items():
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.name != _BYTECODE:
                links[f"{name}/{path.name}"] = path.resolve()
    return links


def _files(model_dir: Path, version: int, config: Any) -> Mapping[str, str]:
    """Return the files of a model's served folder.

    Triton treats a model as changed once its folder gets a ``__pycache__``, and reloads it with
    an ensemble that calls it. A file of that name keeps Python from creating the folder.
    """
    from google.protobuf import text_format

    own = [path.name for path in model_dir.iterdir() if _VERSION.fullmatch(path.name)]
    versions = own if version == 1 else [str(version)]
    return {
        CONFIG_NAME: text_format.MessageToString(config),
        **{f"{name}/{_BYTECODE}": "" for name in versions},
    }
