"""Read and write ``forge.lock``, the record of what a repository was built from.

JSON with sorted keys::

    {"schema": 1,
     "forge_version": "0.1.0",
     "stages": {"compile": {"key": "...", "parameters": {...}, "tools": {...},
                            "outputs": [{"path": "...", "sha256": "...", "size_bytes": 1}]}}}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trtllm_forge import __version__
from trtllm_forge.errors import ConfigError, unreadable
from trtllm_forge.pipeline.store import OutputFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.files.digest import JsonValue

LOCK_NAME = "forge.lock"
LOCK_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class LockedStage:
    """What one stage was made from and what it made."""

    key: str
    parameters: Mapping[str, JsonValue]
    tool_versions: Mapping[str, str]
    outputs: tuple[OutputFile, ...]


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The stages of a build, by name."""

    stages: Mapping[str, LockedStage]

    def to_text(self) -> str:
        """Return the text of the lock file."""
        document = {
            "schema": LOCK_SCHEMA,
            "forge_version": __version__,
            "stages": {
                name: {
                    "key": stage.key,
                    "parameters": dict(stage.parameters),
                    "tools": dict(stage.tool_versions),
                    "outputs": [asdict(output) for output in stage.outputs],
                }
                for name, stage in self.stages.items()
            },
        }
        return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_lock(repository_dir: Path) -> Lock | None:
    """Return the lock of a built repository, or None if it has none.

    Raises:
        ConfigError: The lock cannot be read, or a newer forge wrote it.
    """
    return read_lock_file(repository_dir / LOCK_NAME, hint="--output ANOTHER_FOLDER")


def read_lock_file(path: Path, *, hint: str = "") -> Lock | None:
    """Return the lock in a file, or None if there is no such file.

    Args:
        path: The file.
        hint: What the user can do about an invalid file.

    Raises:
        ConfigError: The lock cannot be read, or a newer forge wrote it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error, hint=hint) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, int) or schema < 1:
        what = f"{path} is damaged"
        raise ConfigError(what, why="it has no schema number", hint=hint)
    if schema != LOCK_SCHEMA:
        what = f"{path} has schema {schema}, but this forge reads schema {LOCK_SCHEMA}"
        why = f"forge {__version__} is older than the forge that wrote it"
        raise ConfigError(what, why=why, hint="pip install --upgrade trtllm-forge")
    try:
        stages = {name: _stage(stage) for name, stage in document["stages"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{path} is damaged"
        raise ConfigError(what, why=f"{error!r}", hint=hint) from error
    return Lock(stages=stages)


def _stage(document: Mapping[str, Any]) -> LockedStage:
    outputs = tuple(OutputFile(**output) for output in document["outputs"])
    texts = [document["key"], *document["tools"].values()]
    texts += [text for output in outputs for text in (output.path, output.sha256)]
    for text in texts:
        if not isinstance(text, str):
            message = f"{text!r} is not a string"
            raise TypeError(message)
        if "\0" in text:
            message = f"{text!r} contains a NUL byte"
            raise ValueError(message)
        # JSON can spell half of a surrogate pair, which no file or name can contain.
        text.encode()
    return LockedStage(
        key=document["key"],
        parameters={**document["parameters"]},
        tool_versions={**document["tools"]},
        outputs=outputs,
    )
