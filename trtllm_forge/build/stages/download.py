"""The ``download`` stage: the complete, verified checkpoint as a folder of links.

The weights stay where they are, in the Hugging Face cache or in the user's folder; the artifact
links to them and adds ``checkpoint.json``::

    {"schema": 1, "repo_id": "bigcode/starcoder2-3b", "revision": "733247c5...", "origin": "hub",
     "family": "starcoder2", "licence": "bigcode-openrail-m",
     "files": [{"path": "config.json", "size_bytes": 1, "sha256": "..."}]}
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.checkpoint.contents import (
    CheckpointConfig,
    CheckpointSource,
    parse_checkpoint_config,
    read_checkpoint_config,
    verify_checkpoint,
)
from trtllm_forge.checkpoint.files import (
    CheckpointFile,
    choose_files,
    indexed_bytes,
    is_weight,
    require_tokenizer,
)
from trtllm_forge.checkpoint.presets import ModelReference, Preset, resolve_model, shipped_config
from trtllm_forge.errors import CheckpointError, ForgeError, PrerequisiteError
from trtllm_forge.files.digest import canonical_json, sha256_file, sha256_text
from trtllm_forge.files.known_digests import digest_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.checkpoint.hub_access import HubAccess
    from trtllm_forge.config.settings import Settings
    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.reporter import Reporter

CHECKPOINT_NAME = "checkpoint.json"
CHECKPOINT_SCHEMA = 1

_READ_FIRST = ("config.json", "generation_config.json")
# HTTP statuses for: no valid token, no access, too many requests.
_NO_ANSWER = (401, 403, 429)


@dataclass(frozen=True, kw_only=True)
class ResolvedCheckpoint:
    """A checkpoint whose config and files are known, before its weights are fetched.

    Attributes:
        reference: What the user asked for.
        source: Where it comes from, with the commit its revision resolved to.
        preset: The matching preset, if any.
        config: Its ``config.json``.
        files: The files a build needs, with their digests.
        allow_pickle: Whether pickle weights are accepted.
        weights_bytes: Size of the weights, from their files or their index; None if unknown.
        access: How to reach the Hub; None for a folder and for the sample.
        has_weights: Whether ``files`` includes the weights.
        notes: Caveats of a plan that was made without its ``config.json``.
    """

    reference: ModelReference
    source: CheckpointSource
    preset: Preset | None
    config: CheckpointConfig
    files: tuple[CheckpointFile, ...]
    allow_pickle: bool
    weights_bytes: int | None = None
    access: HubAccess | None = None
    has_weights: bool = True
    notes: tuple[str, ...] = ()

    def without_weights(self) -> ResolvedCheckpoint:
        """Return the same checkpoint with only its small files, for builds without an engine."""
        files = tuple(file for file in self.files if not is_weight(file.path))
        return replace(self, files=files, has_weights=False)

    @property
    def size_bytes(self) -> int:
        """Return the size of all its files."""
        return sum(file.size_bytes for file in self.files)


def resolve_checkpoint(
    model: str,
    *,
    settings: Settings,
    reporter: Reporter,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    access: HubAccess | None = None,
    planning: bool = False,
) -> ResolvedCheckpoint:
    """Resolve MODEL to its commit, its files and its config, without its weights.

    For a model on the Hub only the small config files are fetched, into the HF cache. A folder is
    hashed once and its digests are remembered. While the Hub is out of reach, a plan for a preset
    uses the numbers that ship with forge.

    Args:
        model: A preset, a Hub id, a folder or ``sample``.
        settings: Where forge keeps its files.
        reporter: Receives progress.
        revision: A branch, tag or commit of a Hub model; None for the newest of its main branch.
        allow_pickle: Accept pickle weights if there are no safetensors.
        trust_remote_code: Also take the checkpoint's own Python files.
        access: How to reach the Hub; None to read it from the environment.
        planning: Nothing will be built, so a folder may lack weights and tokenizer, and the Hub
            may be out of reach for a preset.

    Raises:
        ConfigError: MODEL is not a preset, a Hub id or a folder.
        CheckpointError: The checkpoint does not exist, is incomplete or is of an unknown kind.
        PrerequisiteError: It needs a token, or one with more rights.
    """
    reference = resolve_model(model, revision=revision)
    if reference.folder is not None:
        return _resolve_folder(
            reference,
            reference.folder,
            settings=settings,
            reporter=reporter,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
            planning=planning,
        )
    # Imported here because the Hub's library takes 0.2 s to load and a folder does not need it.
    from trtllm_forge.checkpoint.hub import read_hub_access

    return _resolve_hub(
        reference,
        access or read_hub_access(),
        reporter=reporter,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        planning=planning,
    )


def _resolve_hub(
    reference: ModelReference,
    access: HubAccess,
    *,
    reporter: Reporter,
    allow_pickle: bool,
    trust_remote_code: bool,
    planning: bool,
) -> ResolvedCheckpoint:
    from trtllm_forge.checkpoint.hub import fetch_files, list_files

    may_ship = planning and reference.preset is not None
    try:
        listing = list_files(access, reference)
        names = choose_files(
            [file.path for file in listing.files],
            model=reference.text,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        require_tokenizer(names, model=reference.text)
    except (CheckpointError, PrerequisiteError) as error:
        if may_ship and _is_unanswered(error, access):
            return _from_shipped(reference, access, reporter, error)
        raise
    files = tuple(sorted((f for f in listing.files if f.path in names), key=lambda file: file.path))
    small = [file for file in files if file.path in _READ_FIRST]
    try:
        snapshot_dir = fetch_files(
            access, reference, commit=listing.commit, files=small, reporter=reporter
        )
    except (CheckpointError, PrerequisiteError) as error:
        # The Hub lists a gated model to everyone, but serves its files only to those with access.
        if may_ship and _is_unanswered(error, access):
            return _from_shipped(reference, access, reporter, error, listing.commit, files)
        raise
    config = read_checkpoint_config(snapshot_dir)
    find_architecture(config.architecture, model=reference.text)
    return ResolvedCheckpoint(
        reference=reference,
        source=CheckpointSource(
            origin="hub",
            repo_id=reference.repo_id,
            revision=listing.commit,
            family=reference.preset.family if reference.preset else config.model_type,
        ),
        preset=reference.preset,
        config=config,
        files=files,
        allow_pickle=allow_pickle,
        weights_bytes=_weights_bytes(files),
        access=access,
    )


def _is_unanswered(error: ForgeError, access: HubAccess) -> bool:
    """Return whether the Hub is out of reach or needs a token; a 404 counts as an answer."""
    import httpx

    links: list[BaseException] = []
    link = error.__cause__
    while link is not None:
        links.append(link)
        link = link.__cause__
    if not links:
        return access.offline
    responses = [getattr(link, "response", None) for link in links]
    status = next((response.status_code for response in responses if response is not None), None)
    if status is None:
        return any(isinstance(link, httpx.TransportError) for link in links)
    return status in _NO_ANSWER or status >= 500


def _from_shipped(
    reference: ModelReference,
    access: HubAccess,
    reporter: Reporter,
    error: ForgeError,
    commit: str | None = None,
    files: tuple[CheckpointFile, ...] = (),
) -> ResolvedCheckpoint:
    """Return a preset from its shipped config, with what the Hub listed if it did."""
    preset = reference.preset
    assert preset is not None
    shipped = shipped_config(preset)
    planned = "planned with the numbers that ship with forge"
    notes = (
        f"config.json is not available from the Hub ({error.what}): {planned}",
        *shipped.caveats,
    )
    for note in notes:
        reporter.warning(note)
    return ResolvedCheckpoint(
        reference=reference,
        source=CheckpointSource(
            origin="hub", repo_id=reference.repo_id, revision=commit, family=preset.family
        ),
        preset=preset,
        config=parse_checkpoint_config(shipped.document),
        files=files,
        allow_pickle=False,
        weights_bytes=_weights_bytes(files),
        access=access,
        notes=notes,
    )


def _resolve_folder(
    reference: ModelReference,
    folder: Path,
    *,
    settings: Settings,
    reporter: Reporter,
    allow_pickle: bool,
    trust_remote_code: bool,
    planning: bool,
) -> ResolvedCheckpoint:
    names = choose_files(
        [path.name for path in folder.iterdir() if path.is_file()],
        model=reference.text,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        require_weights=not planning,
    )
    if planning:
        config = read_checkpoint_config(folder)
        find_architecture(config.architecture, model=reference.text)
    else:
        config = verify_checkpoint(folder, allow_pickle=allow_pickle, model=reference.text)
    digests = digest_files([folder / name for name in names], settings.cache_dir, reporter)
    files = tuple(
        CheckpointFile(
            path=name,
            size_bytes=(folder / name).stat().st_size,
            sha256=digests[folder / name],
        )
        for name in names
    )
    return ResolvedCheckpoint(
        reference=reference,
        source=CheckpointSource(
            origin="sample" if reference.kind == "sample" else "local",
            repo_id=reference.repo_id,
            revision=sha256_text(canonical_json({file.path: file.digest for file in files})),
            family=config.model_type,
        ),
        preset=None,
        config=config,
        files=files,
        allow_pickle=allow_pickle,
        weights_bytes=_weights_bytes(files) or indexed_bytes(folder),
    )


def _weights_bytes(files: Sequence[CheckpointFile]) -> int | None:
    sizes = [file.size_bytes for file in files if is_weight(file.path)]
    return sum(sizes) or None


class DownloadStage:
    """Fetches a checkpoint and checks that it is complete."""

    name = "download"
    tool_versions: Mapping[str, str] = {}

    def __init__(self, checkpoint: ResolvedCheckpoint, settings: Settings) -> None:
        self.checkpoint = checkpoint
        self._settings = settings

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """Return the model, its commit and the digests of its files, without local paths."""
        checkpoint = self.checkpoint
        return {
            "schema": CHECKPOINT_SCHEMA,
            "origin": checkpoint.source.origin,
            "repo_id": checkpoint.source.repo_id,
            "revision": checkpoint.source.revision,
            "family": checkpoint.source.family,
            "licence": checkpoint.preset.licence if checkpoint.preset else None,
            "files": {file.path: file.digest for file in checkpoint.files},
        }

    @property
    def outputs(self) -> Sequence[str]:
        """Return ``checkpoint.json`` and every file of the checkpoint."""
        return (CHECKPOINT_NAME, *(file.path for file in self.checkpoint.files))

    def commands(self, work_dir: Path, inputs: Mapping[str, Path]) -> Sequence[Command]:
        """Return nothing: the download runs in forge's own process."""
        return ()

    def run(self, work_dir: Path, inputs: Mapping[str, Path], reporter: Reporter) -> None:
        """Fetch the missing files, verify all and link them into ``work_dir``."""
        checkpoint = self.checkpoint
        source_dir = self._require_files(reporter)
        if checkpoint.has_weights:
            verify_checkpoint(
                source_dir,
                allow_pickle=checkpoint.allow_pickle,
                model=checkpoint.reference.text,
            )
        files = []
        for file in checkpoint.files:
            (work_dir / file.path).symlink_to(source_dir / file.path)
            # The Hub publishes a SHA-256 only for large files; the others are quick to read.
            files.append(replace(file, sha256=file.sha256 or sha256_file(source_dir / file.path)))
        parameters = self.parameters
        document = {
            **{key: value for key, value in parameters.items() if key != "files"},
            "files": [
                {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256}
                for file in files
            ],
        }
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (work_dir / CHECKPOINT_NAME).write_text(text, encoding="utf-8")

    def _require_files(self, reporter: Reporter) -> Path:
        """Return the folder with every file, unchanged since the checkpoint was resolved."""
        checkpoint = self.checkpoint
        reference, access = checkpoint.reference, checkpoint.access
        if access is not None:
            from trtllm_forge.checkpoint.hub import (
                drop_damaged_files,
                fetch_files,
                remember_revision,
            )

            drop_damaged_files(
                access,
                reference,
                checkpoint.files,
                digest_cache_dir=self._settings.cache_dir,
                reporter=reporter,
            )
            commit = checkpoint.source.revision
            assert commit is not None, "a plan made without the Hub is never run"
            folder = fetch_files(
                access, reference, commit=commit, files=checkpoint.files, reporter=reporter
            )
            remember_revision(access, reference, commit)
            return folder
        assert reference.folder is not None
        paths = [reference.folder / file.path for file in checkpoint.files]
        digests = digest_files(paths, self._settings.cache_dir, reporter)
        for file, path in zip(checkpoint.files, paths, strict=True):
            if digests[path] != file.sha256:
                what = f"{path} changed during the build"
                why = f"its sha256 was {file.sha256} and is now {digests[path]}"
                raise CheckpointError(
                    what, why=why, hint=f"forge build {shlex.quote(reference.text)}"
                )
        return reference.folder
