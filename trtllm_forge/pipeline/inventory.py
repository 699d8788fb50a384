"""List the entries of a store, their users and which may be removed: ``forge cache``.

An entry is in use if the lock of a repository names its key. Forge looks at the repositories in
its own output folder and at every other folder that it ever published to and that still exists.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import ConfigError, ForgeError
from trtllm_forge.pipeline.lock import LOCK_NAME, read_lock
from trtllm_forge.pipeline.store import REPOSITORIES_DIR, TAG_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trtllm_forge.pipeline.store import Store

State = Literal["whole", "damaged", "unfinished"]

_TAG_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"
_KEY = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = re.compile(r"\.([0-9a-f]{64})\.(?:work|staged)")


@dataclass(frozen=True, kw_only=True)
class StoredEntry:
    """One entry of a store.

    Attributes:
        stage: The stage that made it.
        key: Its key, in hex.
        state: ``unfinished`` was left by a killed build, or is being written by a running one.
        size_bytes: Size of its files; the targets of links do not count.
        made_s: When it was made, in seconds since the epoch.
        used_s: When a build last needed it, in seconds since the epoch.
        used_by: The repositories whose lock names it.
    """

    stage: str
    key: str
    state: State
    size_bytes: int
    made_s: float
    used_s: float
    used_by: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """Disk use of a store; a file with several names counts once.

    Attributes:
        stages: Bytes by stage; a file shared by two stages counts for the first.
        other_bytes: Bytes outside the entries: timing caches, digests, locks.
    """

    stages: dict[str, int]
    other_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return the sum."""
        return sum(self.stages.values()) + self.other_bytes


@dataclass(frozen=True, kw_only=True)
class PruneRule:
    """Which entries to remove; all conditions that are set must hold.

    Attributes:
        older_than_s: Last used longer ago than this.
        keep_last: Not among this many most recently used entries of their stage.
        stage: Made by this stage.
        including_used: Also remove entries named by a repository's lock.
    """

    older_than_s: float | None = None
    keep_last: int = 0
    stage: str | None = None
    including_used: bool = False


def require_store(store: Store) -> None:
    """Check that the folder is one of forge's stores, or does not exist.

    Raises:
        ConfigError: The folder has no ``CACHEDIR.TAG`` written by forge.
    """
    if not store.root.exists():
        return
    try:
        is_tagged = (store.root / TAG_NAME).read_text().startswith(_TAG_SIGNATURE)
    except (OSError, UnicodeDecodeError):
        is_tagged = False
    if not is_tagged and (not store.root.is_dir() or any(store.root.iterdir())):
        what = f"{store.root} is not a forge cache"
        why = f"it has no {TAG_NAME}, so nothing in it was touched; FORGE_CACHE_DIR points to it"
        raise ConfigError(what, why=why)


def list_entries(store: Store, model_repos_dir: Path) -> tuple[StoredEntry, ...]:
    """Return every entry, by stage, the most recently used first."""
    users = _users(store, model_repos_dir)
    entries = []
    for stage, key, folder in _folders(store):
        is_finished = folder.name == key
        made = folder / "entry.json" if is_finished else folder
        artifact = folder / "files" if is_finished else folder
        try:
            entry = StoredEntry(
                stage=stage,
                key=key,
                state=_state(store, stage, key) if is_finished else "unfinished",
                size_bytes=sum(path.stat().st_size for path in _own_files(artifact)),
                made_s=made.stat().st_mtime if made.exists() else folder.stat().st_mtime,
                used_s=folder.stat().st_mtime,
                used_by=users.get((stage, key), ()),
            )
        except FileNotFoundError:
            # A build or another prune has moved it since.
            continue
        entries.append(entry)
    return tuple(sorted(entries, key=lambda e: (e.stage, -e.used_s, e.key, e.state)))


def disk_use(store: Store) -> DiskUse:
    """Return the store's disk use."""
    seen: set[tuple[int, int]] = set()
    stages: dict[str, int] = {}
    folders = list(_folders(store))
    for stage, _, folder in folders:
        stages[stage] = stages.get(stage, 0) + _disk_bytes(folder, seen)
    return DiskUse(stages=stages, other_bytes=_disk_bytes(store.root, seen))


def choose_to_prune(
    entries: Sequence[StoredEntry], rule: PruneRule, *, now_s: float
) -> tuple[StoredEntry, ...]:
    """Return the entries to remove by a rule; damaged and unfinished ones always match it."""
    kept: dict[str, int] = {}
    chosen = []
    for entry in entries:
        if entry.state != "whole":
            if rule.stage in (None, entry.stage):
                chosen.append(entry)
            continue
        kept[entry.stage] = kept.get(entry.stage, 0) + 1
        is_young = rule.older_than_s is not None and now_s - entry.used_s <= rule.older_than_s
        if (
            rule.stage in (None, entry.stage)
            and kept[entry.stage] > rule.keep_last
            and not is_young
            and (rule.including_used or not entry.used_by)
        ):
            chosen.append(entry)
    return tuple(chosen)


def forget_gone_repositories(store: Store) -> None:
    """Remove the records of published folders that no longer hold a repository."""
    for note_path, repository_dir in _notes(store):
        if not (repository_dir / LOCK_NAME).exists():
            note_path.unlink(missing_ok=True)


def _folders(store: Store) -> Iterator[tuple[str, str, Path]]:
    """Yield stage, key and folder of every finished and unfinished entry."""
    for shard in sorted(store.root.glob("*/[0-9a-f][0-9a-f]")):
        for folder in sorted(shard.iterdir()) if shard.is_dir() else ():
            unfinished = _UNFINISHED.fullmatch(folder.name)
            key = unfinished.group(1) if unfinished else folder.name
            if _KEY.fullmatch(key) and key.startswith(shard.name):
                yield shard.parent.name, key, folder


def _state(store: Store, stage: str, key: str) -> State:
    return "damaged" if store.find(stage, key) is None else "whole"


def _own_files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                yield path


def _disk_bytes(folder: Path, seen: set[tuple[int, int]]) -> int:
    total = 0
    for path in _own_files(folder):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        if (state.st_dev, state.st_ino) not in seen:
            seen.add((state.st_dev, state.st_ino))
            # st_blocks counts 512 bytes on every file system, and only what a sparse file uses.
            total += state.st_blocks * 512
    return total


def _users(store: Store, model_repos_dir: Path) -> dict[tuple[str, str], tuple[Path, ...]]:
    folders = {path.parent.resolve() for path in model_repos_dir.glob(f"*/{LOCK_NAME}")}
    folders |= {repository_dir for _, repository_dir in _notes(store)}
    users: dict[tuple[str, str], tuple[Path, ...]] = {}
    for folder in sorted(folders):
        try:
            lock = read_lock(folder)
        except ForgeError:
            # A lock that cannot be read protects nothing.
            continue
        for stage, locked in lock.stages.items() if lock else ():
            users[stage, locked.key] = (*users.get((stage, locked.key), ()), folder)
    return users


def _notes(store: Store) -> Iterator[tuple[Path, Path]]:
    folder = store.root / REPOSITORIES_DIR
    for note_path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            text = note_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        yield note_path, Path(text)
