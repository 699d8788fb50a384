"""The ``Stage`` protocol: inputs, parameters, and how to make an artifact from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtllm_forge.files.digest import canonical_json, sha256_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.reporter import Reporter

KEY_VERSION = 1
"""Part of every key; increased whenever the computation of keys changes."""


class Keyed(Protocol):
    """What a key is computed from."""

    @property
    def name(self) -> str:
        """Return the stage's name, a verb used everywhere."""

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """Return what could change the artifact's bytes, apart from tools and earlier stages."""

    @property
    def tool_versions(self) -> Mapping[str, str]:
        """Return the versions of the tools that make the artifact."""


class Stage(Keyed, Protocol):
    """One step of a build. Its artifact is a folder determined by its key.

    Reading its parameters or versions may read files, so a build does it once and keeps the result.
    """

    @property
    def outputs(self) -> Sequence[str]:
        """Return the paths, relative to the artifact, that the stage must write."""

    def commands(self, work_dir: Path, inputs: Mapping[str, Path]) -> Sequence[Command]:
        """Return the child processes that ``run`` would start to fill ``work_dir``."""

    def run(self, work_dir: Path, inputs: Mapping[str, Path], reporter: Reporter) -> None:
        """Fill ``work_dir``, an empty folder, from the artifacts of the earlier stages.

        ``inputs`` maps the name of each earlier stage to the folder of its artifact.
        """


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """What a stage's key is computed from, at one moment."""

    name: str
    parameters: Mapping[str, JsonValue]
    tool_versions: Mapping[str, str]


def facts_of(stage: Keyed) -> StageFacts:
    """Return the stage's current facts."""
    return StageFacts(
        name=stage.name,
        parameters=dict(stage.parameters),
        tool_versions=dict(stage.tool_versions),
    )


def stage_key(stage: Keyed, upstream_keys: Sequence[str]) -> str:
    """Return the key of ``stage``, in hex: the SHA-256 of canonical JSON.

    It covers the keys of the stages before it, never their digests, because two builds of the
    same engine differ in bytes: TensorRT picks kernels by timing them.
    """
    return sha256_text(
        canonical_json(
            {
                "key_version": KEY_VERSION,
                "stage": stage.name,
                "parameters": dict(stage.parameters),
                "tools": dict(stage.tool_versions),
                "upstream": list(upstream_keys),
            }
        )
    )
