"""``forge.manifest.json``: what a repository consists of and what it can be served with.

JSON with sorted keys, free of paths, host names, times and secrets of the building machine::

    {"schema": 1,
     "runtime": "openvino",
     "checkpoint": {"repo_id": "sample", "revision": "...", "origin": "sample", "licence": null,
                    "files": [{"path": "config.json", "size_bytes": 1, "sha256": "..."}]},
     "recipe": {"build": {"precision": "int4", ...}, "repository": {...}, ...},
     "versions": {"trtllm-forge": "0.1.0", "python": "3.11.15", "openvino": "..."},
     "gpu_architecture": null,
     "image": null,
     "stages": {"download": "<key>", "compile": "<key>", "render": "<key>"},
     "checks": [{"stage": "download", "passed": "..."}],
     "files": [{"path": "ensemble/config.pbtxt", "size_bytes": 1, "sha256": "..."}],
     "varying": ["versions/python"]}

``files`` lists every file of the repository except the manifest itself and ``forge.lock``, with the
digests from the store: nothing is read again. ``varying`` names, by their path in this document,
the values that may differ between two builds of the same recipe; ``files/PATH`` means that file's
size and digest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from trtllm_forge import __version__
from trtllm_forge.errors import CheckpointError, unreadable
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.pipeline.store import OutputFile
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.files.digest import JsonValue

MANIFEST_SCHEMA = 1
UNLISTED = (MANIFEST_NAME, LOCK_NAME)
"""Files of a published repository that its manifest does not list."""


@dataclass(frozen=True, kw_only=True)
class SourceCheckpoint:
    """The checkpoint a repository was made from.

    Attributes:
        repo_id: Hugging Face name, or the name of a folder.
        revision: The commit, or a digest over a folder's files.
        origin: ``hub``, ``local`` or ``sample``.
        licence: The licence, or None if unknown.
        files: The files that the build used.
    """

    repo_id: str
    revision: str
    origin: str
    licence: str | None
    files: tuple[OutputFile, ...]


@dataclass(frozen=True, kw_only=True)
class ImageReference:
    """The container image whose tools made the engine; ``digest`` is None if unknown."""

    reference: str
    digest: str | None


@dataclass(frozen=True, kw_only=True)
class PassedCheck:
    """A check that passed during the build, and the stage that made it."""

    stage: str
    passed: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a repository consists of.

    Attributes:
        runtime: What executes its engine.
        checkpoint: The checkpoint it was made from.
        recipe: The configuration that determines its bytes.
        versions: Versions of everything that touched it, by name.
        gpu_architecture: What its engine is bound to, such as ``sm_90``; None for the twin.
        image: The image whose tools made the engine, or None.
        stages: The key of each stage.
        checks: The checks that passed.
        files: Every file except those in ``UNLISTED``.
        varying: What may differ between two builds.
    """

    runtime: str
    checkpoint: SourceCheckpoint
    recipe: Mapping[str, JsonValue]
    versions: Mapping[str, str]
    gpu_architecture: str | None
    image: ImageReference | None
    stages: Mapping[str, str]
    checks: tuple[PassedCheck, ...]
    files: tuple[OutputFile, ...]
    varying: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the manifest as a JSON document."""
        return {"schema": MANIFEST_SCHEMA, **asdict(self)}

    def to_text(self) -> str:
        """Return the text of the manifest file."""
        return json.dumps(self.document(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_manifest(repository_dir: Path) -> Manifest | None:
    """Return the manifest of a repository, or None if it has none.

    Raises:
        CheckpointError: It cannot be read, is damaged, or a newer forge wrote it.
    """
    path = repository_dir / MANIFEST_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error, CheckpointError) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, int) or schema < 1:
        what = f"{path} is damaged"
        raise CheckpointError(what, why="it has no schema number")
    if schema != MANIFEST_SCHEMA:
        what = f"{path} has schema {schema}, but this forge reads schema {MANIFEST_SCHEMA}"
        why = f"forge {__version__} is older than the forge that wrote it"
        raise CheckpointError(what, why=why, hint="pip install --upgrade trtllm-forge")
    try:
        return _manifest_of(document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{path} is damaged"
        raise CheckpointError(what, why=f"{type(error).__name__}: {error}") from error


def _manifest_of(document: Mapping[str, Any]) -> Manifest:
    checkpoint, image = document["checkpoint"], document["image"]
    architecture = document["gpu_architecture"]
    return Manifest(
        runtime=_text(document["runtime"], "runtime"),
        checkpoint=_checkpoint(checkpoint),
        recipe=_mapping(document["recipe"], "recipe"),
        versions=_texts(document["versions"], "versions"),
        gpu_architecture=_text(architecture, "gpu_architecture") if architecture else None,
        image=ImageReference(**_texts(image, "image", optional=("digest",))) if image else None,
        stages=_texts(document["stages"], "stages"),
        checks=tuple(PassedCheck(**_texts(check, "a check")) for check in document["checks"]),
        files=_files(document["files"]),
        varying=tuple(_text(place, "an entry of varying") for place in document["varying"]),
    )


def _checkpoint(document: Mapping[str, Any]) -> SourceCheckpoint:
    named = {key: value for key, value in document.items() if key != "files"}
    texts = _texts(named, "checkpoint", optional=("licence",))
    return SourceCheckpoint(**texts, files=_files(document["files"]))


def _files(entries: Sequence[Mapping[str, Any]]) -> tuple[OutputFile, ...]:
    files = tuple(OutputFile(**entry) for entry in entries)
    for file in files:
        path = PurePosixPath(_text(file.path, "the path of a file"))
        if path.is_absolute() or ".." in path.parts or "\0" in file.path:
            message = f"{file.path!r} points outside the repository"
            raise ValueError(message)
        if not isinstance(file.size_bytes, int) or not isinstance(file.sha256, str):
            message = f"{file.path} has no size and digest"
            raise TypeError(message)
        file.sha256.encode()
    return files


def _texts(value: Any, name: str, *, optional: Collection[str] = ()) -> dict[str, Any]:
    """Return a mapping whose values are strings; those of ``optional`` keys may be null."""
    return {
        key: None if text is None and key in optional else _text(text, f"{name}.{key}")
        for key, text in _mapping(value, name).items()
    }


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        message = f"{name} is not a mapping"
        raise TypeError(message)
    return {_text(key, f"a key of {name}"): child for key, child in value.items()}


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        message = f"{name} is {value!r}, not a string"
        raise TypeError(message)
    # JSON can spell half of a surrogate pair, which no file or name can contain.
    value.encode()
    return value
