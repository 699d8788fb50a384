"""The index of a package: every file with its size and digest, validated before use.

It is the first member of the archive, ``forge.package.json``, beside the folder with the
repository, so that the repository itself gains no file::

    {"schema": 1,
     "files": [{"path": "ensemble/config.pbtxt", "sha256": "...", "size_bytes": 1}],
     "folders": ["ensemble/1"],
     "links": [{"path": "tokenizer", "target": "preprocessing/1/tokenizer"}]}

``folders`` lists the empty ones; the others follow from the files. The index describes only the
content, so its digest identifies the content, however it was compressed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import CheckpointError
from trtllm_forge.files.digest import canonical_json, sha256_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtllm_forge.files.digest import JsonValue

INDEX_NAME = "forge.package.json"
INDEX_SCHEMA = 1
TOP_FOLDER = "model_repository"
"""Top folder of the archive's members, whatever the name of the packaged folder."""

MAX_INDEX_BYTES = 64 << 20
_MAX_PATH_BYTES = 4000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, kw_only=True, order=True)
class IndexedFile:
    """A file: its path below the repository, digest and size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, order=True)
class IndexedLink:
    """A symbolic link within the repository; its target is relative to its own folder."""

    path: str
    target: str


@dataclass(frozen=True, kw_only=True)
class PackageIndex:
    """The content of a package, each list sorted by path."""

    files: tuple[IndexedFile, ...]
    folders: tuple[str, ...] = ()
    links: tuple[IndexedLink, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Return the total size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """Return the digest that identifies the content."""
        return sha256_text(self.to_text())

    @property
    def paths(self) -> Iterator[str]:
        """Yield the path of every file, empty folder and link."""
        yield from (file.path for file in self.files)
        yield from self.folders
        yield from (link.path for link in self.links)

    def to_text(self) -> str:
        """Return the text of the index in the archive."""
        files: list[JsonValue] = [
            {"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes}
            for file in self.files
        ]
        links: list[JsonValue] = [{"path": link.path, "target": link.target} for link in self.links]
        return canonical_json(
            {
                "schema": INDEX_SCHEMA,
                "files": files,
                "folders": list(self.folders),
                "links": links,
            }
        )


def parse_index(text: bytes, *, package: str) -> PackageIndex:
    """Return the index in ``text``, all of whose paths are safe to write.

    Args:
        text: The member of the archive.
        package: The name of the package, for messages.

    Raises:
        CheckpointError: It is not an index, a newer forge wrote it, or a path leaves the folder,
            occurs twice, or equals another one on some file systems.
    """
    try:
        document = json.loads(text)
        schema = document["schema"]
        if schema != INDEX_SCHEMA:
            what = f"{package} has an index of schema {schema}, but this forge reads {INDEX_SCHEMA}"
            raise CheckpointError(what, hint="pip install --upgrade trtllm-forge")
        index = PackageIndex(
            files=tuple(_file(entry) for entry in document["files"]),
            folders=tuple(_text(entry) for entry in document["folders"]),
            links=tuple(
                IndexedLink(path=_text(entry["path"]), target=_text(entry["target"]))
                for entry in document["links"]
            ),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{package} has a damaged index"
        raise CheckpointError(what, why=f"{INDEX_NAME}: {error!r}") from error
    if obstacle := path_obstacle(index.paths):
        what = f"{package} is refused: {obstacle}"
        raise CheckpointError(what, why=f"it is in {INDEX_NAME}; nothing was written")
    for entries in (index.files, index.folders, index.links):
        if list(entries) != sorted(entries):
            what = f"{package} has a damaged index"
            raise CheckpointError(what, why=f"{INDEX_NAME} is not sorted by path")
    return index


def path_obstacle(paths: Iterable[str]) -> str:
    """Return why these paths cannot all be written below one folder, or nothing.

    Each must be relative and plain, and no two may be equal on a file system that ignores case or
    the composition of accents.
    """
    names: dict[str, str] = {}
    folders: set[str] = set()
    leaves: set[str] = set()
    for path in paths:
        if obstacle := _plain_obstacle(path):
            return obstacle
        if path in leaves:
            return f"{path} occurs twice"
        leaves.add(path)
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            prefix = "/".join(parts[:depth])
            other = names.setdefault(unicodedata.normalize("NFC", prefix).casefold(), prefix)
            if other != prefix:
                return f"{other} and {prefix} are the same name where case is ignored"
            if depth < len(parts):
                folders.add(prefix)
    clash = sorted(folders & leaves)
    return f"{clash[0]} is both a file and a folder" if clash else ""


def _plain_obstacle(path: str) -> str:
    shown = ascii(path)[:200]
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        return f"the name {shown} is not UTF-8"
    if path.startswith("/"):
        return f"the path {shown} is absolute"
    if _FORBIDDEN.search(path):
        return f"the name {shown} contains a backslash or a control character"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return f"the path {shown} does not stay in its folder"
    if size_bytes > _MAX_PATH_BYTES:
        return f"the path {shown} is {size_bytes} bytes long, the limit is {_MAX_PATH_BYTES}"
    return ""


def _file(entry: Any) -> IndexedFile:
    size_bytes, sha256 = entry["size_bytes"], _text(entry["sha256"])
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or size_bytes < 0:
        message = f"size_bytes is {size_bytes!r}"
        raise ValueError(message)
    if not _SHA256.fullmatch(sha256):
        message = f"sha256 is {sha256!r}"
        raise ValueError(message)
    return IndexedFile(path=_text(entry["path"]), sha256=sha256, size_bytes=size_bytes)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        message = f"{value!r} is not a string"
        raise TypeError(message)
    return value
