"""Reads from a repository's engines how many ranks they run on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trtllm_forge.delivery.manifest import read_manifest
from trtllm_forge.errors import CheckpointError
from trtllm_forge.triton.launch.rank_layout import EngineRanks
from trtllm_forge.triton.repository.mount import cpp_models, engine_dir
from trtllm_forge.triton.repository.names import MANIFEST_NAME, MEETING_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_ENGINE_SIZES = ("tp_size", "pp_size", "cp_size")
_LLMAPI_SIZES = ("tensor_parallel_size", "pipeline_parallel_size")


def read_engine_ranks(repository_dir: Path) -> tuple[EngineRanks, ...]:
    """Return the ranks of each engine model, by name; models without an engine are left out.

    Raises:
        CheckpointError: An engine lacks some rank files, or has invalid parallel sizes.
    """
    found = [*_tensorrt(repository_dir), *_llmapi(repository_dir), *_twins(repository_dir)]
    return tuple(sorted(found, key=lambda engine: engine.model))


def _tensorrt(repository_dir: Path) -> Iterator[EngineRanks]:
    for model, config in cpp_models(repository_dir).items():
        folder = engine_dir(config, repository_dir, model)
        world_size, source = _engine_size(folder) or _recipe_size(repository_dir) or (1, "")
        _require_rank_files(folder, world_size)
        yield EngineRanks(
            model=model,
            kind="trtllm",
            world_size=world_size,
            source=source,
            participants=_participants(config),
        )


def _engine_size(folder: Path | None) -> tuple[int, str] | None:
    """Return the world size of an engine folder, and where it is recorded."""
    if folder is None:
        return None
    mapping = json_object(folder / "config.json").get("pretrained_config", {}).get("mapping")
    if isinstance(mapping, dict):
        return _product(mapping, _ENGINE_SIZES, str(folder / "config.json"))
    described = json_object(folder / "engine.json")
    if "tp_size" in described:
        return _product(described, _ENGINE_SIZES, str(folder / "engine.json"))
    ranks = len(list(folder.glob("rank*.engine")))
    return (ranks, f"{ranks} rank files in {folder}") if ranks else None


def _recipe_size(repository_dir: Path) -> tuple[int, str] | None:
    """Return what a repository without its engine was rendered for."""
    manifest = read_manifest(repository_dir)
    build = manifest.recipe.get("build") if manifest else None
    if not isinstance(build, dict) or "tp_size" not in build:
        return None
    return _product(build, _ENGINE_SIZES, str(repository_dir / MANIFEST_NAME))


def _require_rank_files(folder: Path | None, world_size: int) -> None:
    there = {path.name for path in folder.glob("rank*.engine")} if folder else set()
    missing = [rank for rank in range(world_size) if f"rank{rank}.engine" not in there]
    if there and missing:
        what = f"the engine has {world_size - len(missing)} of {world_size} rank files"
        names = ", ".join(f"rank{rank}.engine" for rank in missing)
        raise CheckpointError(what, why=f"{folder} has no {names}")


def _participants(config: Any) -> tuple[int, ...]:
    if "participant_ids" not in config.parameters:
        return ()
    text = config.parameters["participant_ids"].string_value
    # Semicolons separate instances; an unfilled placeholder names no ranks.
    words = text.replace(";", ",").split(",") if "${" not in text else []
    return tuple(int(word) for word in words if word.strip().isdigit())


def _llmapi(repository_dir: Path) -> Iterator[EngineRanks]:
    paths = {path.parent.parent.name: path for path in repository_dir.glob("*/[0-9]*/model.yaml")}
    for model, path in paths.items():
        import yaml

        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        sizes = document if isinstance(document, dict) else {}
        world_size, source = _product(sizes, _LLMAPI_SIZES, str(path))
        yield EngineRanks(model=model, kind="llmapi", world_size=world_size, source=source)


def _twins(repository_dir: Path) -> Iterator[EngineRanks]:
    for path in repository_dir.glob(f"*/1/{MEETING_FILE}"):
        model = path.parent.parent.name
        yield EngineRanks(model=model, kind="twin", world_size=1, source="the twin has one rank")


def _product(values: Mapping[str, Any], names: tuple[str, ...], path: str) -> tuple[int, str]:
    """Return the product of some sizes, each 1 by default, and their text."""
    sizes = {name: values[name] for name in names if values.get(name) is not None}
    world_size = 1
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            what = f"{name} is {size}, not a whole number of ranks from 1 on"
            raise CheckpointError(what, why=path)
        world_size *= size
    shown = " and ".join(f"{name} {size}" for name, size in sizes.items()) or "no parallel sizes"
    return world_size, f"{shown} in {path}"


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if it cannot be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
