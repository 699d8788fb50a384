"""The flags of TensorRT-LLM's tools by release, and command lines that use only those.

The facts are in ``data/flags``: ``convert_checkpoint.json``, ``quantize.json`` and
``trtllm_build.json``. Each holds snapshots of an argument parser, and for every release the
snapshot that is its own (``exact``) or the closest that could be read (``nearest``)::

    {"schema": 1,
     "releases": {"1.2": {"snapshot": "1.2", "evidence": "nearest", "note": "..."}},
     "snapshots": {"1.2": {"path": "...", "source": "...", "flags": [{"name": "--tp_size"}]}}}

The converters' snapshots hold one such table per family, below ``families``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import data_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.releases.catalogue import Evidence, Release

Tool = Literal["convert_checkpoint", "quantize", "trtllm_build"]

TOOL_NAMES: Mapping[Tool, str] = {
    "convert_checkpoint": "convert_checkpoint.py",
    "quantize": "quantize.py",
    "trtllm_build": "trtllm-build",
}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One option of a tool; ``choices`` is empty if any value is accepted."""

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FlagTable:
    """The options of one tool in one release.

    Attributes:
        title: The tool and the release, for messages.
        path: The script, relative to TensorRT-LLM's folder; empty for an executable.
        flags: The flags by each of their spellings.
        evidence: Whether the parser was read at the release itself or near it.
        note: How near, in words.
        source: The repository, commit and path that was read.
        needs: Options that the tool always requires.
        max_pp_size: Most pipeline parallel ranks of a converter, None for any number.
    """

    title: str
    path: str
    flags: Mapping[str, Flag]
    evidence: Evidence
    note: str
    source: str
    needs: tuple[tuple[str, ...], ...] = ()
    max_pp_size: int | None = None

    def has(self, flag: str, value: str | None = None) -> bool:
        """Return whether the tool has ``flag`` and accepts ``value`` for it."""
        known = self.flags.get(flag)
        if known is None:
            return False
        return value is None or not known.choices or value in known.choices


@dataclass(kw_only=True)
class CommandLine:
    """Options checked against a table, which rejects those that the tool lacks."""

    table: FlagTable
    argv: list[str] = field(default_factory=list)

    def switch(self, flag: str) -> None:
        """Add an option without a value.

        Raises:
            ConfigError: The tool has no such option in this release.
        """
        self._require(flag)
        self.argv.append(flag)

    def option(self, flag: str, *values: object) -> None:
        """Add an option with its values.

        Raises:
            ConfigError: The tool has no such option in this release, or rejects a value.
        """
        known = self._require(flag)
        texts = [str(value) for value in values]
        for text in texts:
            if known.choices and text not in known.choices:
                what = f"{self.table.title} does not accept {flag} {text}"
                raise ConfigError(what, why=f"it accepts {', '.join(known.choices)}")
        self.argv += [flag, *texts]

    def option_if_known(self, flag: str, value: object) -> None:
        """Add an option if the release has it; without it the tool behaves the same."""
        if self.table.has(flag, str(value)):
            self.option(flag, value)

    def _require(self, flag: str) -> Flag:
        known = self.table.flags.get(flag)
        if known is None:
            what = f"{self.table.title} has no option {flag}"
            raise ConfigError(what, why=f"{self.table.evidence}: {self.table.source}")
        return known


def find_flags(tool: Tool, release: Release, *, family: str = "") -> FlagTable | None:
    """Return the options of ``tool`` in ``release``, or None if it has no such tool.

    Args:
        tool: The tool.
        release: The TensorRT-LLM release.
        family: The converter's folder name, only for ``convert_checkpoint``.
    """
    document = _read(tool)
    row = document["releases"].get(release.tables)
    if row is None or "engine" not in release.flows:
        return None
    name = row["snapshot"]
    flags = _flags(tool, name, family)
    snapshot = document["snapshots"][name]
    if family:
        if family not in snapshot["families"]:
            return None
        snapshot = snapshot["families"][family]
    name = f"{family}/{TOOL_NAMES[tool]}" if family else TOOL_NAMES[tool]
    # A release from the user's releases_file is at best near the one it is said to be like.
    evidence: Evidence = "nearest" if release.is_overlaid else row["evidence"]
    return FlagTable(
        title=f"{name} of TensorRT-LLM {release.version}",
        path=snapshot.get("path", ""),
        flags=flags,
        evidence=evidence,
        note="; ".join(filter(None, (row.get("note"), snapshot.get("note")))),
        source=snapshot["source"],
        needs=tuple(tuple(option) for option in snapshot.get("needs", ())),
        max_pp_size=snapshot.get("max_pp_size"),
    )


@lru_cache(maxsize=128)
def _flags(tool: Tool, name: str, family: str) -> dict[str, Flag]:
    """Return the flags by each spelling; cached, because a plan reads a table many times."""
    snapshot = _read(tool)["snapshots"][name]
    rows = snapshot["families"].get(family, {"flags": ()})["flags"] if family else snapshot["flags"]
    flags = {}
    for row in rows:
        flag = Flag(
            name=row["name"],
            choices=tuple(str(c) for c in row.get("choices") or () if c not in (None, "None")),
        )
        for spelling in (row["name"], *row.get("aliases", ())):
            flags[spelling] = flag
    return flags


@lru_cache(maxsize=3)
def _read(tool: Tool) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        data_path(f"flags/{tool}.json").read_text(encoding="utf-8")
    )
    return document
