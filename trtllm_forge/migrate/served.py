"""Which model a repository serves, and whether the flow it is to go to takes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.checkpoint.contents import read_checkpoint_config
from trtllm_forge.errors import ConfigError, ForgeError
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.triton.repository.names import PREPROCESSING

if TYPE_CHECKING:
    from trtllm_forge.checkpoint.architectures import Architecture
    from trtllm_forge.config.settings import Settings
    from trtllm_forge.migrate.source import SourceRepository
    from trtllm_forge.releases.catalogue import Flow, Release
    from trtllm_forge.reporter import Reporter


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What is served, as far as it is known; each field may be empty.

    Attributes:
        model: What ``forge build`` takes for it.
        revision: Its commit on the Hub.
        folder: Where its checkpoint is on this machine.
        architecture: As its ``config.json`` spells it.
    """

    model: str = ""
    revision: str = ""
    folder: Path | None = None
    architecture: str = ""


def find_served_model(
    source: SourceRepository, stated: str | None, settings: Settings, reporter: Reporter
) -> ServedModel:
    """Return what the user, the manifest, the engine or the tokenizer's folder say.

    Raises:
        ForgeError: The model that was named is not there, or not known.
    """
    if stated:
        return _resolve(stated, settings, reporter)
    folder = _tokenizer_checkpoint(source)
    architecture = source.engine.architecture
    if folder is not None and not architecture:
        architecture = read_checkpoint_config(folder).architecture
    if source.manifest is None:
        model = str(folder) if folder else ""
        return ServedModel(model=model, folder=folder, architecture=architecture)
    checkpoint = source.manifest.checkpoint
    if checkpoint.origin == "local":
        return ServedModel(architecture=architecture)
    revision = checkpoint.revision if checkpoint.origin == "hub" else ""
    if not architecture:
        resolved = _resolve(checkpoint.repo_id, settings, reporter, revision=revision or None)
        architecture = resolved.architecture
    return ServedModel(model=checkpoint.repo_id, revision=revision, architecture=architecture)


def require_flow(served: ServedModel, flow: Flow, release: Release, *, again: str) -> None:
    """Raise unless ``release`` takes the model through ``flow``.

    Args:
        served: What is served.
        flow: ``llmapi``, or ``engine``, which takes a model that is not known, too.
        release: Of TensorRT-LLM.
        again: The command without ``--to``, for the hint.

    Raises:
        ConfigError: It does not, or for the LLM API the model is not known.
        CheckpointError: Its architecture is not known.
    """
    if not served.architecture:
        if flow == "engine":
            return
        what = "which model the repository serves is not known"
        why = "neither its manifest nor its engine nor its tokenizer's folder says it"
        raise ConfigError(what, why=why, hint=f"{again} --to llmapi --model MODEL")
    architecture = find_architecture(served.architecture, model=served.model or "the repository")
    if architecture.has_flow(flow, release):
        return
    if flow == "engine":
        raise _no_engine(architecture, release, again)
    if architecture.pytorch_backend:
        since = architecture.pytorch_since
        what = f"the LLM API takes {architecture.name} from TensorRT-LLM {since} on"
        version = _newest(architecture, "llmapi")
        hint = f"{again} --to llmapi --trtllm-version {version}" if version else ""
        raise ConfigError(what, why=f"{release.version} was asked for", hint=hint)
    what = f"the LLM API does not take {architecture.name}"
    why = "no release of TensorRT-LLM has a class for it in its PyTorch backend"
    last = _newest(architecture, "engine")
    if last:
        why += f"; {last} is the last that builds an engine of it"
        raise ConfigError(what, why=why, hint=f"{again} --to {last}")
    raise ConfigError(what, why=why)


def _resolve(
    model: str, settings: Settings, reporter: Reporter, *, revision: str | None = None
) -> ServedModel:
    from trtllm_forge.build.stages.download import resolve_checkpoint

    checkpoint = resolve_checkpoint(
        model, settings=settings, reporter=reporter, revision=revision, planning=True
    )
    is_hub = checkpoint.source.origin == "hub"
    return ServedModel(
        model=checkpoint.source.repo_id if is_hub else model,
        revision=(checkpoint.source.revision or "") if is_hub else "",
        folder=checkpoint.reference.folder,
        architecture=checkpoint.config.architecture,
    )


def _no_engine(architecture: Architecture, release: Release, again: str) -> ConfigError:
    what = f"TensorRT-LLM {release.version} builds no engine of {architecture.name}"
    since = architecture.engine_since
    last = _newest(architecture, "engine")
    if architecture.engine_flow and last:
        return ConfigError(what, why=f"it does since {since}", hint=f"{again} --to {last}")
    return ConfigError(what, why="no release does", hint=f"{again} --to llmapi")


def _newest(architecture: Architecture, flow: Flow) -> str:
    fitting = [r for r in read_catalogue().releases.values() if architecture.has_flow(flow, r)]
    with_image = [release for release in fitting if release.image]
    return next((release.version for release in reversed(with_image or fitting)), "")


def _tokenizer_checkpoint(source: SourceRepository) -> Path | None:
    """Return the checkpoint that ``tokenizer_dir`` names, as upstream's examples do."""
    stated = source.parameter(PREPROCESSING, "tokenizer_dir")
    if not stated or not Path(stated).is_absolute():
        return None
    folder = Path(stated)
    try:
        read_checkpoint_config(folder)
    except ForgeError:
        return None
    return folder


def shell(text: str | Path) -> str:
    """Return a word as a shell takes it."""
    return shlex.quote(str(text))
