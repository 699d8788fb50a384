"""``forge verify``: whether a repository is still what was built."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import JsonOption, QuietOption, VerboseOption

if TYPE_CHECKING:
    from trtllm_forge.delivery.verification import Verification

RepositoryArgument = Annotated[
    str,
    typer.Argument(metavar="DIR", help="Model repository, or its name in model_repos."),
]


def verify(
    repository: RepositoryArgument,
    *,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Read every file and compare its digest with the manifest's."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.delivery.manifest import read_manifest
        from trtllm_forge.delivery.verification import verify_files
        from trtllm_forge.errors import CheckpointError
        from trtllm_forge.serving.plan.repositories import find_repository
        from trtllm_forge.triton.repository.names import MANIFEST_NAME

        settings = read_settings()
        folder = find_repository(
            repository, settings.model_repos_dir, console, command="forge verify"
        )
        manifest = read_manifest(folder)
        if manifest is None:
            what = f"{folder} has no {MANIFEST_NAME}"
            raise CheckpointError(
                what, why="it was made by hand, or by a forge that wrote no manifests"
            )
        found = verify_files(
            folder, manifest, depth="full", cache_dir=settings.cache_dir, reporter=console
        )
        if not json and not found.is_as_built:
            counts = (f"{len(found.changed)} changed", f"{len(found.missing)} missing")
            what = f"{folder} is not what was built: {', '.join(counts)}, {len(found.added)} added"
            raise CheckpointError(what, why="\n".join(found.lines()))
        console.result(_text(folder, found), _document(folder, found))
        if not found.is_as_built:
            raise typer.Exit(CheckpointError.exit_code)
        console.next_step(f"forge serve {shlex.quote(repository)}")


def _text(folder: Path, found: Verification) -> str:
    return f"verified: {folder}, {found.files} files, {found.size_bytes} bytes"


def _document(folder: Path, found: Verification) -> dict[str, object]:
    return {
        "schema": 1,
        "repository": str(folder),
        "ok": found.is_as_built,
        "files": found.files,
        "size_bytes": found.size_bytes,
        "changed": list(found.changed),
        "missing": list(found.missing),
        "added": list(found.added),
    }
