"""A model repository, read once: what every rule looks at.

Nothing large is read: engines and weights count by name and size, ``config.json`` and the
``config.pbtxt`` files are small. What is costly is read when the first rule asks for it.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from trtllm_forge.check.engine_folder import EngineFolder, read_engine_folder
from trtllm_forge.check.files import ResolvedPath
from trtllm_forge.check.model import Model, read_model
from trtllm_forge.check.model_yaml import ModelYaml, read_model_yaml
from trtllm_forge.check.tokenizer_folder import TokenizerFolder, read_tokenizer_folder
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.text.spelling import nearest
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping


_LARGEST_RECORD_BYTES = 16 << 20
_MOST_FILES = 5000
_MODEL_FOLDER = "$$TRITON_MODEL_DIRECTORY"
_NOT_SERVED = (".git", "__pycache__")
_TOP_LEVEL = 2
_SIMILAR = 0.75


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What is known of the server that the repository is for.

    Attributes:
        trtllm_version: Its TensorRT-LLM.
        mount_root: Where the repository is mounted there.
        gpu: The short name of its GPU.
        world_size: The ranks it will start.
        shm_bytes: Its shared memory.
        has_other_mounts: Whether other folders may be mounted below ``mount_root``.
    """

    trtllm_version: str | None = None
    mount_root: str | None = None
    gpu: str | None = None
    world_size: int | None = None
    shm_bytes: int | None = None
    has_other_mounts: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class RepositoryView:
    """All models of a repository, and the records that forge leaves beside them."""

    root: Path
    options: CheckOptions
    models: tuple[Model, ...]
    stray_folders: tuple[str, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Model]:
        """Return the models by the name Triton knows them by, which is their folder's."""
        return {model.folder: model for model in self.models}

    def of_role(self, *roles: str) -> list[Model]:
        """Return the models that play a part in the chain."""
        return [model for model in self.models if model.role in roles]

    @cached_property
    def files(self) -> tuple[tuple[Path, str], ...]:
        """Return the files and their paths in the repository, the first few thousand of them."""
        found: list[tuple[Path, str]] = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if name not in _NOT_SERVED)
            inside = Path(folder).relative_to(self.root)
            for name in sorted(names):
                found.append((Path(folder) / name, (inside / name).as_posix()))
                if len(found) == _MOST_FILES:
                    return tuple(found)
        return tuple(found)

    @cached_property
    def lock(self) -> Mapping[str, Any]:
        """Return the stages' parameters of ``forge.lock`` by stage, empty without one."""
        stages = self._record(LOCK_NAME).get("stages")
        if not isinstance(stages, dict):
            return {}
        return {n: s.get("parameters", {}) for n, s in stages.items() if isinstance(s, dict)}

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """Return the configuration that ``forge.manifest.json`` keeps, empty without one."""
        recipe = self._record(MANIFEST_NAME).get("recipe")
        return recipe if isinstance(recipe, dict) else {}

    @cached_property
    def mount_root(self) -> str | None:
        """Return where the repository is mounted when it serves, if anything tells."""
        if self.options.mount_root is not None:
            return self.options.mount_root.rstrip("/") or "/"
        for record in (self.recipe, self.lock.get("render", {})):
            repository = record.get("repository")
            root = repository.get("mount_root") if isinstance(repository, dict) else None
            if isinstance(root, str):
                return root.rstrip("/")
        for model in self.models:
            for parameter in model.path_parameters:
                root = self._implied_mount_root(parameter.value)
                if root is not None:
                    return root
        return None

    @cached_property
    def engines(self) -> Mapping[str, EngineFolder]:
        """Return the engine folder that each model names, by the model's folder."""
        found = {}
        for model in self.of_role("tensorrt_llm"):
            parameter = model.parameters.get("gpt_model_path")
            if parameter is not None and parameter.is_set:
                found[model.folder] = read_engine_folder(self.resolve(parameter.value, model))
        return found

    @cached_property
    def tokenizers(self) -> Mapping[str, TokenizerFolder]:
        """Return the tokenizer folder that each model names, by the model's folder."""
        found: dict[str, TokenizerFolder] = {}
        read: dict[Path | None, TokenizerFolder] = {}
        for model in self.models:
            parameter = model.parameters.get("tokenizer_dir")
            if parameter is None or not parameter.is_set:
                continue
            resolved = self.resolve(parameter.value, model)
            if resolved.local not in read or resolved.local is None:
                read[resolved.local] = read_tokenizer_folder(resolved)
            found[model.folder] = read[resolved.local]
        return found

    @cached_property
    def model_yamls(self) -> Mapping[str, ModelYaml]:
        """Return the ``model.yaml`` of each model over the LLM API, by the model's folder."""
        return {m.folder: read_model_yaml(self.root, m) for m in self.of_role("llmapi")}

    def resolve(self, written: str, model: Model) -> ResolvedPath:
        """Return where a path of a configuration is on this machine."""
        if written.startswith(_MODEL_FOLDER):
            # Triton's own word for the folder of the model, which it fills in when it loads it.
            local = self.root / model.folder / written.removeprefix(_MODEL_FOLDER).lstrip("/")
            return ResolvedPath(written=written, local=local, is_inside=True, is_expected=True)
        path = PurePosixPath(written)
        if not path.is_absolute():
            inside = [self.root / path, self.root / model.folder / path]
            local = next((p for p in inside if p.exists()), inside[0])
            known = local.exists() or (path.parts[:1] or ("",))[0] in self.by_name
            return ResolvedPath(written=written, local=local, is_inside=known, is_expected=known)
        mount_root = self.mount_root
        if mount_root is not None and path.is_relative_to(mount_root):
            inner = path.relative_to(mount_root)
            local = self.root / inner
            if local.exists() or not Path(written).exists():
                is_ours = self._is_in_the_repository(inner)
                return ResolvedPath(
                    written=written, local=local, is_inside=is_ours, is_expected=is_ours
                )
        local = Path(written)
        return ResolvedPath(
            written=written,
            local=local,
            is_inside=local.is_relative_to(self.root.resolve()),
            is_expected=self._is_this_machines(local),
        )

    def _is_in_the_repository(self, path: PurePosixPath) -> bool:
        """Return whether a path below the mount has to be part of the repository."""
        if self.options.mount_root is not None and not self.options.has_other_mounts:
            return True
        first = path.parts[0] if path.parts else ""
        near = nearest(first, self.by_name, cutoff=_SIMILAR)
        return near is not None or (self.root / first).exists()

    def _is_this_machines(self, path: Path) -> bool:
        """Return whether a path that is not here was meant for this machine.

        Either the folder around it is here, or another path of the repository is.
        """
        if path.exists():
            return True
        parent = path.parent
        return (len(parent.parts) > _TOP_LEVEL and parent.is_dir()) or self._has_local_paths

    @cached_property
    def _has_local_paths(self) -> bool:
        values = [p.value for model in self.models for p in model.path_parameters]
        return any(value.startswith("/") and Path(value).is_dir() for value in values)

    def _implied_mount_root(self, written: str) -> str | None:
        """Return the part of a path before the first folder that is one of the models."""
        if not written.startswith("/") or Path(written).exists():
            return None
        parts = PurePosixPath(written).parts
        for index in range(2, len(parts)):
            if parts[index] in self.by_name:
                return str(PurePosixPath(*parts[:index]))
        return None

    def _record(self, name: str) -> dict[str, Any]:
        path = self.root / name
        try:
            if path.stat().st_size > _LARGEST_RECORD_BYTES:
                return {}
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}


def read_repository(root: Path, options: CheckOptions) -> RepositoryView:
    """Return a view of the repository in ``root``."""
    models, strays = [], []
    for folder in sorted(root.iterdir()):
        if not folder.is_dir():
            continue
        if _is_model(folder):
            models.append(read_model(folder))
        else:
            strays.append(folder.name)
    return RepositoryView(
        root=root, options=options, models=tuple(models), stray_folders=tuple(strays)
    )


def _is_model(folder: Path) -> bool:
    if (folder / "config.pbtxt").exists():
        return True
    return any(re.fullmatch(r"\d+", child.name) for child in folder.iterdir() if child.is_dir())
