"""Writes packages by hand, so that they can be wrong in one way at a time."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

from tests.checkpoint_builder import write_files
from trtllm_forge.delivery.package import trailer_of
from trtllm_forge.delivery.package_index import INDEX_NAME, TOP_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Member = tuple[tarfile.TarInfo, bytes]


def file_member(path: str, content: bytes, **fields: Any) -> Member:
    return member(f"{TOP_FOLDER}/{path}", content, **fields)


def member(name: str, content: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def index_document(
    files: Mapping[str, bytes],
    *,
    folders: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "schema": 1,
        "files": [
            {
                "path": path,
                "sha256": hashlib.sha256(content).hexdigest(),
                "size_bytes": len(content),
            }
            for path, content in sorted(files.items())
        ],
        "folders": list(folders),
        "links": [{"path": path, "target": to} for path, to in (links or {}).items()],
    }


def write_archive(
    path: Path, index: Mapping[str, Any] | bytes, members: Sequence[Member], *, tail: bytes = b""
) -> Path:
    """Write a package of these members; ``tail`` is put behind the end that tar writes."""
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in (member(INDEX_NAME, text), *members):
            archive.addfile(info, io.BytesIO(content))
    return write_compressed(path, buffer.getvalue() + tail)


def write_compressed(path: Path, tar: bytes) -> Path:
    compressed = zstandard.ZstdCompressor(threads=1).compress(tar)
    path.write_bytes(compressed + trailer_of(len(compressed)))
    return path


def manifest_text(files: Any) -> bytes:
    checkpoint: Any = {
        "repo_id": "r",
        "revision": "1",
        "origin": "hub",
        "licence": None,
        "files": [],
    }
    document = {
        "schema": 1,
        "runtime": "openvino",
        "checkpoint": checkpoint,
        "recipe": {},
        "versions": {},
        "gpu_architecture": None,
        "image": None,
        "stages": {},
        "checks": [],
        "files": files,
        "varying": [],
    }
    return json.dumps(document).encode()


def write_sample_repository(folder: Path = Path("model_repos/sample")) -> Path:
    """Write a small repository with its manifest, which is all that packages and SBOMs read."""
    files = {"ensemble/config.pbtxt": b'name: "ensemble"\n', "ensemble/1/.keep": b""}
    manifest = manifest_text(index_document(files)["files"])
    return write_files(folder, {**files, "forge.manifest.json": manifest, "forge.lock": b"{}"})
