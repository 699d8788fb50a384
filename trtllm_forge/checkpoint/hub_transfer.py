"""Fetch one large file from the Hub into the HF cache, resuming an interrupted download.

The bytes received so far are in ``blobs/<etag>.forge.incomplete``, beside the blob they become,
until size and SHA-256 are right. Repositories stored in Xet are also fetched by plain HTTP with
``Range``: the Hub serves them that way too, and the Xet client keeps nothing to resume from.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trtllm_forge.checkpoint.hub_errors import retry_after_s
from trtllm_forge.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.checkpoint.files import CheckpointFile
    from trtllm_forge.checkpoint.hub_access import HubAccess
    from trtllm_forge.checkpoint.presets import ModelReference
    from trtllm_forge.reporter import Reporter

MAX_ATTEMPTS = 5
"""Attempts in a row with less than ``_PROGRESS_BYTES`` received before a transfer gives up."""

_PROGRESS_BYTES = 1 << 20
_LONGEST_WAIT_S = 60.0
_READ_BYTES = 1 << 20


class ByteProgress:
    """Counts the bytes of a whole download and reports them about once a megabyte."""

    def __init__(self, reporter: Reporter, name: str, *, done: int, total: int) -> None:
        self._reporter = reporter
        self._name = name
        self._done = done
        self._total = total
        self._told = -_PROGRESS_BYTES

    def advance(self, size_bytes: int) -> None:
        """Add ``size_bytes``, which may be negative, to the count."""
        self._done += size_bytes
        if self._done - self._told >= _PROGRESS_BYTES or self._done >= self._total:
            self._told = self._done
            self._reporter.progress(self._name, self._done, self._total, "bytes")


def partial_path_of(blobs_dir: Path, sha256: str) -> Path:
    """Return the path of a partly received blob."""
    return blobs_dir / f"{sha256}.forge.incomplete"


def partial_size_bytes(blobs_dir: Path, file: CheckpointFile) -> int:
    """Return how many bytes of a file an earlier run left, at most its size."""
    path = partial_path_of(blobs_dir, str(file.sha256))
    return min(path.stat().st_size, file.size_bytes) if path.exists() else 0


def fetch_blob(
    access: HubAccess,
    reference: ModelReference,
    *,
    commit: str,
    file: CheckpointFile,
    progress: ByteProgress,
) -> None:
    """Fetch ``file`` into the cache, as the blob named by its SHA-256.

    One process at a time: the lock is the one ``huggingface_hub`` takes for the same blob.

    Raises:
        CheckpointError: The received bytes have another digest; they were removed.
        httpx.HTTPError: The Hub refused, or the connection broke too often.
        OSError: The disk is full.
    """
    from huggingface_hub.utils import WeakFileLock

    sha256 = str(file.sha256)
    folder = f"models--{reference.repo_id.replace('/', '--')}"
    blobs_dir = access.cache_dir / folder / "blobs"
    lock_path = access.cache_dir / ".locks" / folder / f"{sha256}.lock"
    blobs_dir.mkdir(parents=True, exist_ok=True)
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock_path):
        if (blobs_dir / sha256).exists():
            return
        partial_path = partial_path_of(blobs_dir, sha256)
        _Transfer(access, reference, commit, file, partial_path, progress).run()
        _verify(partial_path, file, reference)
        partial_path.replace(blobs_dir / sha256)


class _Transfer:
    def __init__(
        self,
        access: HubAccess,
        reference: ModelReference,
        commit: str,
        file: CheckpointFile,
        partial_path: Path,
        progress: ByteProgress,
    ) -> None:
        self._access = access
        self._reference = reference
        self._commit = commit
        self._file = file
        self._partial_path = partial_path
        self._progress = progress

    def run(self) -> None:
        """Append until the file has its full size, retrying temporary failures."""
        import httpx
        from huggingface_hub.errors import HfHubHTTPError

        attempt = 0
        best = self._size_bytes()
        while self._size_bytes() < self._file.size_bytes:
            wait_s = min(self._access.retry_delay_s * 2**attempt, _LONGEST_WAIT_S)
            try:
                self._append()
                continue
            except httpx.TransportError:
                if attempt + 1 >= MAX_ATTEMPTS:
                    raise
            except (httpx.HTTPStatusError, HfHubHTTPError) as error:
                asked = _wait_for(error.response)
                if asked is None or asked > _LONGEST_WAIT_S or attempt + 1 >= MAX_ATTEMPTS:
                    raise
                wait_s = max(wait_s, asked)
            attempt += 1
            if self._size_bytes() - best >= _PROGRESS_BYTES:
                best, attempt = self._size_bytes(), 0
            time.sleep(wait_s)

    def _append(self) -> None:
        import httpx
        from huggingface_hub import constants
        from huggingface_hub.utils import hf_raise_for_status

        location, headers = self._locate()
        start = self._size_bytes()
        headers["Accept-Encoding"] = "identity"
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = httpx.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        with (
            httpx.Client(follow_redirects=True, timeout=timeout) as client,
            client.stream("GET", location, headers=headers) as response,
        ):
            hf_raise_for_status(response)
            if start and response.status_code != 206:
                # The server does not support ranges and sends the whole file again.
                self._progress.advance(-start)
                os.truncate(self._partial_path, 0)
            with self._partial_path.open("ab") as stream:
                for chunk in response.iter_raw():
                    stream.write(chunk)
                    self._progress.advance(len(chunk))
        if self._size_bytes() < self._file.size_bytes:
            message = f"received {self._size_bytes()} of {self._file.size_bytes} bytes"
            raise httpx.RemoteProtocolError(message)

    def _locate(self) -> tuple[str, dict[str, str]]:
        """Return where the bytes are now, and the headers that may be sent there.

        Asked again before each attempt, because the addresses that the Hub signs expire.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(
            self._reference.repo_id,
            self._file.path,
            revision=self._commit,
            endpoint=self._access.endpoint,
        )
        token = self._access.token or False
        metadata = get_hf_file_metadata(url, token=token, endpoint=self._access.endpoint)
        same_host = urlsplit(metadata.location).netloc == urlsplit(url).netloc
        headers = build_hf_headers(token=token if same_host else False)
        return metadata.location, dict(headers)

    def _size_bytes(self) -> int:
        return self._partial_path.stat().st_size if self._partial_path.exists() else 0


def _wait_for(response: object) -> float | None:
    """Return how many seconds to wait before a retry, or None if a retry is pointless."""
    status = int(getattr(response, "status_code", 0))
    if status == 429:
        return float(retry_after_s(getattr(response, "headers", None)) or 0)
    return 0.0 if status in (408, 500, 502, 503, 504) else None


def _verify(path: Path, file: CheckpointFile, reference: ModelReference) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    size, found = path.stat().st_size, digest.hexdigest()
    if (size, found) != (file.size_bytes, file.sha256):
        path.unlink()
        what = f"{file.path} of {reference.repo_id} has the wrong digest"
        raise CheckpointError(
            what,
            why=f"the Hub publishes sha256 {file.sha256} ({file.size_bytes} bytes), received "
            f"{found} ({size} bytes); it was removed",
            hint=f"forge build {shlex.quote(reference.text)}",
        )
