"""Which arguments of TensorRT-LLM's LLM API each release has, and on what evidence.

The facts are in ``data/llm_api_args.yaml``. The API's models reject unknown keys, so forge never
writes a key that is not in the release's table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import read_yaml
from trtllm_forge.releases.catalogue import read_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtllm_forge.releases.catalogue import Evidence, Release

FIRST_RELEASE = "1.0"
"""Earlier, the llmapi model ran TensorRT engines and speculation had other key names."""


@dataclass(frozen=True, kw_only=True)
class ArgumentTable:
    """The arguments of one release.

    Attributes:
        line: Its first two numbers, such as ``1.2``.
        evidence: Whether the table was read at the release or at the nearest revision.
        note: How near, in words.
        sources: Where it was read.
        names: Every argument, those of nested objects with a dot: ``kv_cache_config.dtype``.
        exact: The arguments that the release's own documentation shows.
    """

    line: str
    evidence: Evidence
    note: str
    sources: tuple[str, ...]
    names: frozenset[str]
    exact: frozenset[str]

    @property
    def source(self) -> str:
        """Return the sources in one line."""
        return "; ".join(self.sources)


@dataclass(frozen=True, kw_only=True)
class PromptLookup:
    """The settings of the n-gram drafter.

    Attributes:
        max_draft_len: Draft tokens per step.
        max_matching_ngram_size: Tokens at the end of the text to look up in the text.
        max_concurrency: Requests per step above which nothing is drafted.
    """

    max_draft_len: int
    max_matching_ngram_size: int
    max_concurrency: int


def read_arguments(release: Release) -> ArgumentTable:
    """Return the LLM API arguments of a release.

    Raises:
        ConfigError: The release has no known LLM API that Triton's model serves.
    """
    document = _document()
    row = document["releases"].get(release.tables)
    if row is None or "llmapi" not in release.flows:
        newest = list(document["releases"])[-1]
        what = f"runtime llmapi does not support TensorRT-LLM {release.version}"
        why = f"forge knows Triton's LLM API model only for releases {FIRST_RELEASE} to {newest}"
        with_image = read_catalogue().newest("llmapi")
        hint = f"forge versions {with_image.version}" if with_image else ""
        raise ConfigError(what, why=why, hint=hint)
    exact = row.get("exact", {"source": None, "arguments": ()})
    keys = [*row["source"], *([exact["source"]] if exact["source"] else [])]
    # A release from the user's releases_file is at best near the one it is said to be like.
    evidence: Evidence = "nearest" if release.is_overlaid else row["evidence"]
    return ArgumentTable(
        line=release.tables,
        evidence=evidence,
        note=row["note"],
        sources=tuple(document["sources"][key] for key in keys),
        names=frozenset(document["arguments"]) - frozenset(row["without"]),
        exact=frozenset() if release.is_overlaid else frozenset(exact["arguments"]),
    )


def prompt_lookup_for(max_batch_size: int, max_draft_len: int | None = None) -> PromptLookup:
    """Return the drafter's settings for a batch size, with the user's draft length if given."""
    document = _document()["prompt_lookup"]
    row = next(row for row in document["by_batch_size"] if max_batch_size <= row["up_to"])
    return PromptLookup(
        max_draft_len=max_draft_len or row["max_draft_len"],
        max_matching_ngram_size=row["max_matching_ngram_size"],
        max_concurrency=document["max_concurrency"],
    )


def other_arguments() -> frozenset[str]:
    """Return the LLM API arguments that forge does not write."""
    others = _document()["others"]
    return frozenset((*others["names"], *others["nested"]))


def renamed_arguments() -> Mapping[str, str]:
    """Return LLM API arguments by the names that other tools use for them."""
    renamed: Mapping[str, str] = _document()["renamed"]
    return renamed


def quantization_facts() -> Mapping[str, Any]:
    """Return the facts about quantised checkpoints."""
    facts: Mapping[str, Any] = _document()["quantization"]
    return facts


def argument_names(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of nested arguments as the table spells them.

    ``null`` and an empty object stand for the whole object and are yielded under its name.
    """
    for key, value in arguments.items():
        if isinstance(value, dict) and value:
            yield from argument_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    document: dict[str, Any] = read_yaml("llm_api_args.yaml")
    return document
