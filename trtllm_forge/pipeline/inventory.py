"""What a store holds, who uses it, and which of it can go: behind ``forge cache``.

An entry is used when the lock of a repository names its key: of those in the folder where
repositories are built, and of those that were ever published to and are still there.
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
        state: ``unfinished`` is what a killed build left, or a running one writes.
        size_bytes: Of its files; of links those they lead to do not count.
        made_s: When it was made, in seconds since the epoch.
        used_s: When a build needed it last, likewise.
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
    """What a store takes on disk, each file counted once however many names it has.

    Attributes:
        stages: Bytes by stage; a file that two stages share counts for the first.
        other_bytes: Of what is no entry: timing caches, digests, locks.
    """

    stages: dict[str, int]
    other_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return the sum."""
        return sum(self.stages.values()) + self.other_bytes


@dataclass(frozen=True, kw_only=True)
class PruneRule:
    """Which entries are to go; every condition that is set has to hold.

    Attributes:
        older_than_s: They were used last longer ago than this.
        keep_last: They are not among this many of their stage that were used last.
        stage: They are of this stage.
        including_used: Also those that a repository's lock names.
    """

    older_than_s: float | None = None
    keep_last: int = 0
    stage: str | None = None
    including_used: bool = False


def require_store(store: Store) -> None:
    """Raise unless the folder is a store of forge's, or not there at all.

    Raises:
        ConfigError: It is a folder without forge's ``CACHEDIR.TAG``.
    """
    if not store.root.exists():
        return
    try:
        is_tagged = (store.root / TAG_NAME).read_text().startswith(_TAG_SIGNATURE)
    except (OSError, UnicodeDecodeError):
        is_tagged = False
    if not is_tagged and (not store.root.is_dir() or any(store.root.iterdir())):
        what = f"{store.root} is no cache of forge"
        why = f"it has no {TAG_NAME}, so that nothing in it is touched; FORGE_CACHE_DIR names it"
        raise ConfigError(what, why=why)


def list_entries(store: Store, model_repos_dir: Path) -> tuple[StoredEntry, ...]:
    """Return every entry, by stage and then by last use, the latest first."""
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
            # A build or another prune moved it meanwhile.
            continue
        entries.append(entry)
    return tuple(sorted(entries, key=lambda e: (e.stage, -e.used_s, e.key, e.state)))


def disk_use(store: Store) -> DiskUse:
    """Return what the store takes on disk."""
    seen: set[tuple[int, int]] = set()
    stages: dict[str, int] = {}
    folders = list(_folders(store))
    for stage, _, folder in folders:
        stages[stage] = stages.get(stage, 0) + _disk_bytes(folder, seen)
    return DiskUse(stages=stages, other_bytes=_disk_bytes(store.root, seen))


def choose_to_prune(
    entries: Sequence[StoredEntry], rule: PruneRule, *, now_s: float
) -> tuple[StoredEntry, ...]:
    """Return the entries that a rule lets go; damaged ones and leftovers always may."""
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
    """Remove the notes of published folders that are no repositories any more."""
    for note_path, repository_dir in _notes(store):
        if not (repository_dir / LOCK_NAME).exists():
            note_path.unlink(missing_ok=True)


def _folders(store: Store) -> Iterator[tuple[str, str, Path]]:
    """Give stage, key and folder of everything that is an entry or is to become one."""
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
            # Counted in blocks of 512 bytes whatever the file system's own, and sparse files less.
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
            # What it needs cannot be known.
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
