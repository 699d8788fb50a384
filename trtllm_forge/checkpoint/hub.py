"""List a model's files on the Hugging Face Hub and fetch them into the HF cache.

``huggingface_hub`` reads ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and the
like, keeps the cache and finds files. ``hub_transfer`` fetches the large ones, because the library
has not resumed across runs since its release 1.18 (huggingface/huggingface_hub#4196).
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.checkpoint.files import CheckpointFile
from trtllm_forge.checkpoint.hub_access import HubAccess
from trtllm_forge.checkpoint.hub_errors import explain_hub_error, hub_error_classes
from trtllm_forge.checkpoint.hub_transfer import ByteProgress, fetch_blob, partial_size_bytes
from trtllm_forge.errors import CheckpointError
from trtllm_forge.files.known_digests import digest_files
from trtllm_forge.files.staging import write_whole
from trtllm_forge.text.quantities import show_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.checkpoint.presets import ModelReference
    from trtllm_forge.reporter import Reporter

_API_TIMEOUT_S = 30.0
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class HubListing:
    """The files of a model at one commit.

    Attributes:
        commit: The full commit hash.
        files: All its files.
    """

    commit: str
    files: tuple[CheckpointFile, ...]


def read_hub_access() -> HubAccess:
    """Return the access described by the user's environment, as ``huggingface_hub`` reads it."""
    from huggingface_hub import constants, get_token

    return HubAccess(
        endpoint=constants.ENDPOINT,
        cache_dir=Path(constants.HF_HUB_CACHE),
        offline=constants.HF_HUB_OFFLINE,
        token=None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token(),
    )


def list_files(access: HubAccess, reference: ModelReference) -> HubListing:
    """Return a model's files and the commit its revision resolves to now.

    Raises:
        CheckpointError: The Hub does not have it, refuses it or cannot be reached; or, offline,
            the cache does not have it.
        PrerequisiteError: It needs a token, or one with more rights.
    """
    if access.offline:
        return _list_cached_files(access, reference)
    from huggingface_hub import HfApi

    _silence_library()
    try:
        info = HfApi(endpoint=access.endpoint, token=access.token or False).model_info(
            reference.repo_id,
            revision=reference.revision,
            files_metadata=True,
            timeout=_API_TIMEOUT_S,
        )
    except hub_error_classes() as error:
        raise explain_hub_error(error, access, reference) from error
    return HubListing(
        commit=str(info.sha),
        files=tuple(_file_of(sibling) for sibling in info.siblings or ()),
    )


def fetch_files(
    access: HubAccess,
    reference: ModelReference,
    *,
    commit: str,
    files: Sequence[CheckpointFile],
    reporter: Reporter,
) -> Path:
    """Fetch exactly ``files`` into the HF cache and return their snapshot folder.

    Files that are already there are kept. An interrupted download resumes, in this run and in the
    next.

    Raises:
        CheckpointError: Too little disk space, a broken connection, a wrong digest.
        PrerequisiteError: It needs a token, or one with more rights.
    """
    snapshot_dir = repo_dir(access, reference.repo_id) / "snapshots" / commit
    missing = [file for file in files if not (snapshot_dir / file.path).exists()]
    if missing and access.offline:
        raise _not_cached(access, reference, [file.path for file in missing])
    to_come = [_remaining_bytes(access, reference.repo_id, file) for file in missing]
    _require_disk(access, reference, sum(to_come))
    _silence_library()
    total = sum(file.size_bytes for file in missing)
    progress = ByteProgress(reporter, "download", done=total - sum(to_come), total=total)
    for file in missing:
        try:
            if file.sha256 is not None:
                fetch_blob(access, reference, commit=commit, file=file, progress=progress)
            _place(access, reference.repo_id, commit, file)
        except hub_error_classes() as error:
            raise explain_hub_error(error, access, reference, file=file.path) from error
        if file.sha256 is None:
            _verify_git_blob(snapshot_dir / file.path, file, reference)
            progress.advance(file.size_bytes)
    return snapshot_dir


def repo_dir(access: HubAccess, repo_id: str) -> Path:
    """Return a model's folder in the HF cache.

    Source: huggingface_hub documentation, "Understand caching".
    """
    return access.cache_dir / f"models--{repo_id.replace('/', '--')}"


def drop_damaged_files(
    access: HubAccess,
    reference: ModelReference,
    files: Sequence[CheckpointFile],
    *,
    digest_cache_dir: Path,
    reporter: Reporter,
) -> None:
    """Remove large files from the HF cache whose bytes are not what the Hub publishes.

    Each file is read once, whichever tool put it there; ``digest_cache_dir`` remembers its digest.
    """
    blobs_dir = repo_dir(access, reference.repo_id) / "blobs"
    kept = [blobs_dir / file.sha256 for file in files if file.sha256]
    kept = [path for path in kept if path.exists()]
    for path, found in digest_files(kept, digest_cache_dir, reporter).items():
        if found != path.name:
            reporter.warning(
                f"{path} is damaged: its sha256 is {found}; removed, downloading it again"
            )
            path.unlink()


def remember_revision(access: HubAccess, reference: ModelReference, commit: str) -> None:
    """Record in the HF cache which commit the revision is, so that it is found offline."""
    revision = reference.revision or "main"
    if revision == commit:
        return
    ref_path = repo_dir(access, reference.repo_id) / "refs" / revision
    if ref_path.is_file() and ref_path.read_text() == commit:
        return
    ref_path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(ref_path, commit)


def _place(access: HubAccess, repo_id: str, commit: str, file: CheckpointFile) -> None:
    """Have the library put one file into the snapshot; it only links an existing blob."""
    from huggingface_hub import hf_hub_download

    hf_hub_download(
        repo_id,
        file.path,
        revision=commit,
        cache_dir=access.cache_dir,
        endpoint=access.endpoint,
        token=access.token or False,
    )


def _remaining_bytes(access: HubAccess, repo_id: str, file: CheckpointFile) -> int:
    blobs_dir = repo_dir(access, repo_id) / "blobs"
    if file.sha256 is None:
        return file.size_bytes
    if (blobs_dir / file.sha256).exists():
        return 0
    return file.size_bytes - partial_size_bytes(blobs_dir, file)


def _require_disk(access: HubAccess, reference: ModelReference, needed: int) -> None:
    existing = access.cache_dir
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        what = (
            f"{reference.repo_id} needs {show_size(needed)} more disk space, "
            f"{show_size(free)} is free"
        )
        raise CheckpointError(
            what,
            why=f"the Hugging Face cache is {access.cache_dir}; nothing was downloaded",
            hint=f"HF_HOME=/larger/disk forge build {shlex.quote(reference.text)}",
        )


def _file_of(sibling: Any) -> CheckpointFile:
    lfs = sibling.lfs
    return CheckpointFile(
        path=sibling.rfilename,
        size_bytes=int((lfs.size if lfs else sibling.size) or 0),
        sha256=lfs.sha256 if lfs else None,
        blob_id=None if lfs else sibling.blob_id,
    )


def _list_cached_files(access: HubAccess, reference: ModelReference) -> HubListing:
    folder = repo_dir(access, reference.repo_id)
    revision = reference.revision or "main"
    ref_path = folder / "refs" / revision
    commit = ref_path.read_text().strip() if ref_path.is_file() else revision
    snapshot_dir = folder / "snapshots" / commit
    if not snapshot_dir.is_dir():
        raise _not_cached(access, reference, [])
    files = tuple(
        _cached_file(path, path.relative_to(snapshot_dir).as_posix())
        for path in sorted(snapshot_dir.rglob("*"))
        if path.is_file()
    )
    return HubListing(commit=commit, files=files)


def _cached_file(path: Path, name: str) -> CheckpointFile:
    # A blob's name is its ETag: a SHA-256 for large files, a git object id for the others.
    blob = path.resolve().name
    size = path.stat().st_size
    if len(blob) == 64:
        return CheckpointFile(path=name, size_bytes=size, sha256=blob)
    return CheckpointFile(path=name, size_bytes=size, blob_id=_git_blob_id(path))


def _not_cached(
    access: HubAccess, reference: ModelReference, missing: Sequence[str]
) -> CheckpointError:
    wanted = f"{reference.repo_id} at revision {reference.revision or 'main'}"
    gone = f"; missing: {', '.join(missing[:3])}" if missing else ""
    return CheckpointError(
        f"{wanted} is not in the Hugging Face cache, and forge is offline",
        why=f"HF_HUB_OFFLINE is set; the cache is {access.cache_dir}{gone}",
        hint=f"HF_HUB_OFFLINE=0 forge build {shlex.quote(reference.text)}",
    )


def _verify_git_blob(path: Path, file: CheckpointFile, reference: ModelReference) -> None:
    if file.blob_id is None:
        return
    found = _git_blob_id(path)
    if found != file.blob_id:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        what = f"{file.path} of {reference.repo_id} has the wrong digest"
        why = f"the Hub publishes git object {file.blob_id}, received {found}; it was removed"
        raise CheckpointError(what, why=why, hint=f"forge build {shlex.quote(reference.text)}")


def _git_blob_id(path: Path) -> str:
    # Git's object id; no protection against forgery.
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _silence_library() -> None:
    """Keep the library's own bars and log lines off stderr; forge reports instead."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        disable_progress_bars()
