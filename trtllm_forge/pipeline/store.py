"""The content-keyed store of artifacts.

Layout, below the cache folder::

    CACHEDIR.TAG                              backup tools skip the folder
    <stage>/<first two hex>/<key>/entry.json  what the entry holds: sizes, times and digests
    <stage>/<first two hex>/<key>/files/      the artifact
    <stage>/<first two hex>/.<key>.work/      a build in progress, or what a killed one left
    locks/<stage>-<key>.lock                  held by the one process that writes the key
    locks/<stage>-<key>.use                   held, shared, by builds that use the entry
    repositories/<16 hex>                     the path of a folder that was published to

An entry appears by one rename, so it is either complete or absent. The modification time of its
folder is when it was last used, that of ``entry.json`` when it was made.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError, reason_of
from trtllm_forge.files.digest import canonical_json, sha256_file, sha256_text
from trtllm_forge.files.lock import HeldError, exclusive, exclusive_now, shared
from trtllm_forge.files.staging import remove_tree, staging

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.reporter import Reporter

ENTRY_SCHEMA = 1
TAG_NAME = "CACHEDIR.TAG"
LOCKS_DIR = "locks"
REPOSITORIES_DIR = "repositories"

_TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# Artifacts of TRT-LLM Forge; safe to delete. See https://bford.info/cachedir/\n"
)


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """One file of an artifact: its path in the artifact, its size and its SHA-256 in hex."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A published artifact.

    Attributes:
        stage: The stage that made it.
        key: Its key, in hex.
        files_dir: The artifact itself.
        outputs: All its files, by path.
        input_digests: The digest of each earlier artifact it was made from, by stage.
        seconds: How long it took to make.
        peak_rss_bytes: Peak resident memory of the largest child process, 0 if none ran.
    """

    stage: str
    key: str
    files_dir: Path
    outputs: tuple[OutputFile, ...]
    input_digests: Mapping[str, str]
    seconds: float
    peak_rss_bytes: int

    @property
    def digest(self) -> str:
        """Return a SHA-256 over the paths and digests of its files."""
        return sha256_text(canonical_json({output.path: output.sha256 for output in self.outputs}))


class Store:
    """Finds, writes and removes entries below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry_dir(self, stage: str, key: str) -> Path:
        """Return the folder of the entry of ``key``, whether it exists or not."""
        return self.root / stage / key[:2] / key

    def work_dir(self, stage: str, key: str) -> Path:
        """Return the scratch folder of ``key``, beside its entry so that a rename publishes it."""
        return self.root / stage / key[:2] / f".{key}.work"

    def find(self, stage: str, key: str) -> Entry | None:
        """Return the entry of ``key``, or None if it is missing or damaged.

        Compares sizes and modification times, so an entry of 30 GB is found without reading it.
        A file that was touched is read, and its digest decides. The target of a symbolic link
        belongs to the user; another time is enough there, and its stage checks the file itself.
        """
        entry_dir = self.entry_dir(stage, key)
        try:
            document = json.loads((entry_dir / "entry.json").read_text())
            if document["schema"] != ENTRY_SCHEMA:
                return None
            outputs = tuple(OutputFile(**output) for output in document["outputs"])
            files_dir = entry_dir / "files"
            if any((files_dir / o.path).stat().st_size != o.size_bytes for o in outputs):
                return None
            if _link_times(files_dir, outputs) != document.get("link_mtimes_ns", {}):
                return None
            # Entries written by forge's first version have no times.
            touched = _touched(files_dir, outputs, document.get("mtimes_ns", {}))
            if any(sha256_file(files_dir / output.path) != output.sha256 for output in touched):
                return None
            if touched:
                _remember_times(entry_dir, document, touched)
            return Entry(
                stage=stage,
                key=key,
                files_dir=files_dir,
                outputs=outputs,
                input_digests=dict(document["input_digests"]),
                seconds=document["seconds"],
                peak_rss_bytes=document["peak_rss_bytes"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_damaged(self, stage: str, key: str) -> bool:
        """Return whether the entry of ``key`` exists but cannot be used."""
        return self.entry_dir(stage, key).exists() and self.find(stage, key) is None

    @contextmanager
    def using(self, keys: Mapping[str, str]) -> Iterator[None]:
        """Protect the entries of these keys, by stage, from being pruned.

        Several builds may use an entry. In a store that cannot be written, an entry cannot be
        marked as in use, but nothing can be pruned either.
        """
        with ExitStack() as stack:
            for stage, key in keys.items():
                with suppress(OSError):
                    (self.root / LOCKS_DIR).mkdir(parents=True, exist_ok=True)
                    stack.enter_context(shared(self.use_path(stage, key)))
                    # The time of its folder is when it was last used.
                    os.utime(self.entry_dir(stage, key))
            yield

    @contextmanager
    def writer(self, stage: str, key: str, reporter: Reporter) -> Iterator[Path]:
        """Yield an empty scratch folder to the only process that may write ``key``.

        Waits while another process holds the key, and reports its name. Removes what a killed
        build left first, and the folder at the end unless ``publish`` took it.

        Raises:
            PrerequisiteError: The store cannot be written.
        """

        def waiting(holder: str) -> None:
            holder = holder or "another process"
            reporter.note(f"{stage}: waiting for {holder}, which is building the same artifact")

        self._make_folders(stage, key)
        name = f"process {os.getpid()} on {socket.gethostname()}"
        with exclusive(self.lock_path(stage, key), name=name, waiting=waiting):
            work_dir = self.work_dir(stage, key)
            try:
                remove_tree(work_dir)
                work_dir.mkdir(parents=True)
                yield work_dir
            finally:
                remove_tree(work_dir)

    def publish(
        self,
        work_dir: Path,
        stage: str,
        key: str,
        *,
        inputs: Mapping[str, JsonValue],
        input_digests: Mapping[str, str],
        seconds: float,
        peak_rss_bytes: int,
    ) -> Entry:
        """Turn a filled scratch folder into the entry of ``key``, by one rename."""
        outputs, file_times, link_times = _describe(work_dir)
        staged_dir = self._staged_dir(stage, key)
        remove_tree(staged_dir)
        staged_dir.mkdir()
        try:
            work_dir.rename(staged_dir / "files")
            document = {
                "schema": ENTRY_SCHEMA,
                "stage": stage,
                "key": key,
                "inputs": inputs,
                "input_digests": dict(input_digests),
                "outputs": [asdict(output) for output in outputs],
                "link_mtimes_ns": link_times,
                "mtimes_ns": file_times,
                "seconds": round(seconds, 3),
                "peak_rss_bytes": peak_rss_bytes,
            }
            text = json.dumps(document, indent=2, sort_keys=True) + "\n"
            (staged_dir / "entry.json").write_text(text)
            entry_dir = self.entry_dir(stage, key)
            remove_tree(entry_dir)
            staged_dir.rename(entry_dir)
        finally:
            remove_tree(staged_dir)
        return Entry(
            stage=stage,
            key=key,
            files_dir=self.entry_dir(stage, key) / "files",
            outputs=outputs,
            input_digests=input_digests,
            seconds=seconds,
            peak_rss_bytes=peak_rss_bytes,
        )

    def remove_unused(self, stage: str, key: str, *, leftovers_only: bool = False) -> str:
        """Remove the entry of ``key`` unless it is in use; return why not, or ``""``.

        Also removes what a killed build left of the key; with ``leftovers_only``, nothing else.
        """
        with ExitStack() as held:
            try:
                held.enter_context(exclusive_now(self.lock_path(stage, key)))
            except HeldError as error:
                return f"being written by {error.holder or 'another process'}"
            try:
                held.enter_context(exclusive_now(self.use_path(stage, key)))
            except HeldError:
                return "in use by a build"
            staged_dir = self._staged_dir(stage, key)
            remove_tree(staged_dir)
            if not leftovers_only and self.entry_dir(stage, key).exists():
                # Renamed first, so that an interrupted removal does not leave half an entry.
                self.entry_dir(stage, key).rename(staged_dir)
                remove_tree(staged_dir)
            remove_tree(self.work_dir(stage, key))
        return ""

    def lock_path(self, stage: str, key: str) -> Path:
        """Return the file whose lock the writer of ``key`` holds."""
        return self.root / LOCKS_DIR / f"{stage}-{key}.lock"

    def use_path(self, stage: str, key: str) -> Path:
        """Return the file whose lock is shared by the builds that use ``key``."""
        return self.root / LOCKS_DIR / f"{stage}-{key}.use"

    def remember_repository(self, repository_dir: Path) -> None:
        """Record a folder that was published to, so that pruning keeps what its lock names."""
        path = str(repository_dir.resolve())
        # If the record cannot be written, nothing in this store can be pruned either.
        with suppress(OSError):
            (self.root / REPOSITORIES_DIR).mkdir(parents=True, exist_ok=True)
            note_path = self.root / REPOSITORIES_DIR / sha256_text(path)[:16]
            if not note_path.exists():
                note_path.write_text(path, encoding="utf-8")

    def _staged_dir(self, stage: str, key: str) -> Path:
        return self.root / stage / key[:2] / f".{key}.staged"

    def _make_folders(self, stage: str, key: str) -> None:
        """Create the folders and the lock file of ``key``."""
        try:
            (self.root / LOCKS_DIR).mkdir(parents=True, exist_ok=True)
            tag_path = self.root / TAG_NAME
            if not tag_path.exists():
                tag_path.write_text(_TAG_TEXT)
            self.entry_dir(stage, key).parent.mkdir(parents=True, exist_ok=True)
            self.lock_path(stage, key).open("a").close()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            what = f"the store {self.root} cannot be written"
            why = reason_of(error, self.root)
            hint = "FORGE_CACHE_DIR=/writable/folder forge build ..."
            raise PrerequisiteError(what, why=why, hint=hint) from error


def _describe(
    root: Path,
) -> tuple[tuple[OutputFile, ...], dict[str, int], dict[str, int]]:
    """Return every file below ``root``, and the modification times of files and link targets."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    # Taken before the files are read, so that a file written to meanwhile differs next time.
    times = {path: path.stat().st_mtime_ns for path in paths}
    outputs = tuple(
        OutputFile(
            path=path.relative_to(root).as_posix(),
            size_bytes=path.stat().st_size,
            sha256=sha256_file(path),
        )
        for path in paths
    )
    files = {p.relative_to(root).as_posix(): ns for p, ns in times.items() if not p.is_symlink()}
    links = {p.relative_to(root).as_posix(): ns for p, ns in times.items() if p.is_symlink()}
    return outputs, files, links


def _touched(
    files_dir: Path, outputs: Sequence[OutputFile], times: Mapping[str, int]
) -> list[OutputFile]:
    """Return the files whose time shows that they were written or copied since."""
    return [
        output
        for output in outputs
        if output.path in times
        and (files_dir / output.path).stat().st_mtime_ns != times[output.path]
    ]


def _remember_times(entry_dir: Path, document: Any, touched: Sequence[OutputFile]) -> None:
    """Record the times of files that were read and found unchanged."""
    path = entry_dir / "entry.json"
    for output in touched:
        state = (entry_dir / "files" / output.path).stat()
        document["mtimes_ns"][output.path] = state.st_mtime_ns
    # Without the record they are read again next time.
    with suppress(OSError), staging(path, "part") as scratch_path:
        made_ns = path.stat().st_mtime_ns
        scratch_path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        os.utime(scratch_path, ns=(made_ns, made_ns))
        scratch_path.replace(path)


def _link_times(files_dir: Path, outputs: Sequence[OutputFile]) -> dict[str, int]:
    paths = {output.path: files_dir / output.path for output in outputs}
    return {name: path.stat().st_mtime_ns for name, path in paths.items() if path.is_symlink()}
