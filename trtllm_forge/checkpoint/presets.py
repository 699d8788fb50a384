"""What MODEL may be on the command line: a preset, a Hub id, a folder or ``sample``.

Presets and FIM templates come from ``data/presets.yaml``. The part of a preset's ``config.json``
that a plan needs while the Hub is out of reach comes from ``data/preset_configs.json``. Both files
document their fields.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.checkpoint.fim import FimTemplate
from trtllm_forge.errors import CheckpointError, ConfigError, unreadable
from trtllm_forge.files.resources import data_path, read_yaml, sample_checkpoint_dir
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLE_NAME = "sample"

ModelKind = Literal["sample", "preset", "directory", "hub"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model with a short name.

    Attributes:
        name: The short name.
        repo_id: Its Hugging Face name.
        family: Forge's name for its family, finer than Hugging Face's ``model_type``.
        fim: Its FIM template, or None if it was not trained for FIM.
        licence: The Hub's name for its licence.
        gated: Whether the Hub requires an accepted licence and a token.
        kv_cache_free_gpu_mem_fraction: Its own default, or None for the general one.
    """

    name: str
    repo_id: str
    family: str
    fim: FimTemplate | None
    licence: str
    gated: bool
    kv_cache_free_gpu_mem_fraction: float | None


@dataclass(frozen=True, kw_only=True)
class ShippedConfig:
    """The part of a preset's ``config.json`` that ships with forge.

    Attributes:
        document: The keys that a plan needs, as in the ``config.json``.
        evidence: ``exact`` if a source confirms every key, otherwise ``memory``.
        sources: Files of public repositories, ``repository@commit:path``.
        unchecked: Keys written from memory.
    """

    document: Mapping[str, Any]
    evidence: Literal["exact", "memory"]
    sources: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def caveats(self) -> tuple[str, ...]:
        """Return what to know before relying on it, one sentence each."""
        if not self.unchecked:
            return ()
        return (f"these numbers were not checked against a source: {', '.join(self.unchecked)}",)


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """What the user's MODEL refers to.

    Attributes:
        kind: Which of the four it is; ``preset`` and ``hub`` are both on the Hub.
        text: MODEL as the user typed it, for hints.
        name: Short name for the repository built from it.
        repo_id: Hugging Face name; the folder's name for a folder, ``sample`` for the sample.
        revision: The requested revision, unresolved; None for the newest.
        preset: The preset, if its name or its Hub id was given.
        folder: The checkpoint's folder, if it is already on this machine.
    """

    kind: ModelKind
    text: str
    name: str
    repo_id: str
    revision: str | None = None
    preset: Preset | None = None
    folder: Path | None = None


def all_presets() -> tuple[Preset, ...]:
    """Return every preset, in the order of the data file."""
    return tuple(_load().presets.values())


def find_preset(name: str) -> Preset | None:
    """Return the preset with that name, ignoring case, or None."""
    return _load().presets.get(name.lower())


def shipped_config(preset: Preset) -> ShippedConfig:
    """Return the shipped part of a preset's ``config.json``; every preset has one."""
    entry = _load_configs()[preset.name]
    return ShippedConfig(
        document=entry["config"],
        evidence=entry["evidence"],
        sources=tuple(entry["sources"]),
        unchecked=tuple(entry["unchecked"]),
    )


def nearest_preset(name: str) -> str | None:
    """Return the preset closest to ``name``, which may be a typo or a Hub id, or None."""
    names = {known.name: known.name for known in all_presets()} | {SAMPLE_NAME: SAMPLE_NAME}
    for known in all_presets():
        names[known.repo_id.lower()] = known.name
        names[known.repo_id.lower().split("/")[1]] = known.name
    wanted = name.lower()
    for candidate in (wanted, wanted.rsplit("/", 1)[-1]):
        close = nearest(candidate, names)
        if close is not None:
            return names[close]
    return None


def resolve_model(model: str, *, revision: str | None = None) -> ModelReference:
    """Return what ``model`` refers to, without touching the network.

    A preset wins over a folder with the same name; ``./name`` always means the folder.

    Raises:
        ConfigError: It is none of the four kinds, or a revision was given for a folder.
        CheckpointError: It is a path to a file.
    """
    if model == SAMPLE_NAME:
        _refuse_revision(model, revision, "the sample ships with forge and has no revisions")
        folder = sample_checkpoint_dir()
        return ModelReference(
            kind="sample", text=model, name=SAMPLE_NAME, repo_id=SAMPLE_NAME, folder=folder
        )
    preset = find_preset(model)
    if preset is not None:
        return ModelReference(
            kind="preset",
            text=model,
            name=preset.name,
            repo_id=preset.repo_id,
            revision=revision,
            preset=preset,
        )
    path = Path(model).expanduser()
    if path.exists():
        return _local_reference(model, path, revision)
    if _HUB_ID.fullmatch(model):
        preset = next((p for p in all_presets() if p.repo_id.lower() == model.lower()), None)
        return ModelReference(
            kind="hub",
            text=model,
            name=preset.name if preset else model.split("/")[1].lower(),
            repo_id=preset.repo_id if preset else model,
            revision=revision,
            preset=preset,
        )
    raise _unknown_model(model)


def fim_template_from_tokenizer(tokenizer_dir: Path) -> FimTemplate | None:
    """Return the FIM template whose tokens the tokenizer has, or None.

    Stop strings without a token of their own are left out. The tokens show that the tokenizer
    was made for FIM, not that the weights were trained for it.
    """
    tokens = _added_tokens(tokenizer_dir)
    for known in _load().fim_templates.values():
        if known.tokens <= tokens:
            # SentencePiece keeps the space before a token as U+2581, within the token.
            spelled = {*tokens, *(token.lstrip("\u2581") for token in tokens)}
            stop = tuple(text for text in known.template.stop if text in spelled)
            return replace(known.template, stop=stop)
    return None


@dataclass(frozen=True, kw_only=True)
class _KnownTemplate:
    template: FimTemplate
    tokens: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Catalogue:
    fim_templates: dict[str, _KnownTemplate]
    presets: dict[str, Preset]


@lru_cache(maxsize=1)
def _load() -> _Catalogue:
    document = read_yaml("presets.yaml")
    templates = {
        name: _KnownTemplate(
            template=FimTemplate(
                prefix=fields["prefix"],
                suffix=fields["suffix"],
                middle=fields["middle"],
                order=fields.get("order", "psm"),
                stop=tuple(fields["stop"]),
            ),
            tokens=frozenset(fields["tokens"]),
        )
        for name, fields in document["fim_templates"].items()
    }
    presets = {
        name: Preset(
            name=name,
            repo_id=fields["repo_id"],
            family=fields["family"],
            fim=templates[fields["fim"]].template if fields["fim"] else None,
            licence=fields["licence"],
            gated=fields["gated"],
            kv_cache_free_gpu_mem_fraction=fields.get("kv_cache_free_gpu_mem_fraction"),
        )
        for name, fields in document["presets"].items()
    }
    return _Catalogue(fim_templates=templates, presets=presets)


@lru_cache(maxsize=1)
def _load_configs() -> dict[str, dict[str, Any]]:
    document = json.loads(data_path("preset_configs.json").read_text(encoding="utf-8"))
    presets: dict[str, dict[str, Any]] = document["presets"]
    return presets


def _local_reference(model: str, path: Path, revision: str | None) -> ModelReference:
    if not path.is_dir():
        what = f"{model} is a file; a checkpoint is a folder with config.json and weights"
        hint = (
            f"forge build {shlex.quote(str(path.parent))}"
            if (path.parent / "config.json").exists()
            else ""
        )
        raise CheckpointError(what, hint=hint)
    _refuse_revision(model, revision, f"{model} is a folder on this machine")
    folder = path.resolve()
    return ModelReference(
        kind="directory", text=model, name=folder.name, repo_id=folder.name, folder=folder
    )


def _refuse_revision(model: str, revision: str | None, why: str) -> None:
    if revision is not None:
        what = f"revision {revision} was requested, but only a model on the Hub has revisions"
        raise ConfigError(what, why=why, hint=f"forge build {shlex.quote(model)}")


def _unknown_model(model: str) -> ConfigError:
    if "/" in model or model.startswith("~"):
        return ConfigError(
            f"there is no folder {model}",
            why="MODEL is a preset, a Hub id such as bigcode/starcoder2-3b, a folder or sample",
        )
    nearest = nearest_preset(model)
    return ConfigError(
        f'unknown preset "{model}"',
        why=f"it is not one of the {len(all_presets())} presets, a folder or a Hub id",
        hint=f"forge build {nearest}" if nearest else f"forge build {SAMPLE_NAME}",
    )


def _added_tokens(tokenizer_dir: Path) -> frozenset[str]:
    tokens: set[str] = set()
    document = _read_object(tokenizer_dir / "tokenizer.json")
    tokens.update(str(entry["content"]) for entry in document.get("added_tokens", ()))
    document = _read_object(tokenizer_dir / "tokenizer_config.json")
    decoder = document.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        tokens.update(str(entry["content"]) for entry in decoder.values())
    tokens.update(_read_object(tokenizer_dir / "added_tokens.json"))
    return frozenset(tokens)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise unreadable(path, error, CheckpointError) from error
    return document if isinstance(document, dict) else {}
