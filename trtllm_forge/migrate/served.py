"""Find the model a repository serves, and check that the target flow supports it."""

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
    """The served model, as far as known; each field may be empty.

    Attributes:
        model: Its MODEL for ``forge build``.
        revision: Its commit on the Hub.
        folder: Its checkpoint on this machine.
        architecture: As its ``config.json`` spells it.
    """

    model: str = ""
    revision: str = ""
    folder: Path | None = None
    architecture: str = ""


def find_served_model(
    source: SourceRepository, stated: str | None, settings: Settings, reporter: Reporter
) -> ServedModel:
    """Return the model stated by the user, the manifest, the engine or the tokenizer's folder.

    Raises:
        ForgeError: The named model does not exist or is unknown.
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
    """Check that ``release`` supports the model through ``flow``.

    Args:
        served: The served model.
        flow: ``llmapi`` or ``engine``; with ``engine`` the model may be unknown.
        release: The TensorRT-LLM release.
        again: The command without ``--to``, for the hint.

    Raises:
        ConfigError: It does not, or the model is unknown and ``flow`` is ``llmapi``.
        CheckpointError: Its architecture is unknown.
    """
    if not served.architecture:
        if flow == "engine":
            return
        what = "it is not known which model the repository serves"
        why = "neither its manifest, its engine nor its tokenizer's folder says so"
        raise ConfigError(what, why=why, hint=f"{again} --to llmapi --model MODEL")
    architecture = find_architecture(served.architecture, model=served.model or "the repository")
    if architecture.has_flow(flow, release):
        return
    if flow == "engine":
        raise _no_engine(architecture, release, again)
    if architecture.pytorch_backend:
        since = architecture.pytorch_since
        what = f"the LLM API supports {architecture.name} since TensorRT-LLM {since}"
        version = _newest(architecture, "llmapi")
        hint = f"{again} --to llmapi --trtllm-version {version}" if version else ""
        raise ConfigError(what, why=f"{release.version} was requested", hint=hint)
    what = f"the LLM API does not support {architecture.name}"
    why = "no release of TensorRT-LLM has a class for it in its PyTorch backend"
    last = _newest(architecture, "engine")
    if last:
        why += f"; {last} is the last that can build an engine for it"
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
    what = f"TensorRT-LLM {release.version} cannot build an engine for {architecture.name}"
    since = architecture.engine_since
    last = _newest(architecture, "engine")
    if architecture.engine_flow and last:
        why = f"the first release that can is {since}"
        return ConfigError(what, why=why, hint=f"{again} --to {last}")
    return ConfigError(what, why="no release can", hint=f"{again} --to llmapi")


def _newest(architecture: Architecture, flow: Flow) -> str:
    fitting = [r for r in read_catalogue().releases.values() if architecture.has_flow(flow, r)]
    with_image = [release for release in fitting if release.image]
    return next((release.version for release in reversed(with_image or fitting)), "")


def _tokenizer_checkpoint(source: SourceRepository) -> Path | None:
    """Return the checkpoint named by ``tokenizer_dir``, as in upstream's examples, or None."""
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
    """Return a word quoted for a shell."""
    return shlex.quote(str(text))
