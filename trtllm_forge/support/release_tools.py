"""Which of TensorRT-LLM's tools a release has, and how well their options are known.

These are the facts that plans use: the flag tables, the LLM API's arguments and the contracts of
the Triton models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.architectures import known_architectures
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.flags import TOOL_NAMES, find_flags
from trtllm_forge.releases.llmapi_arguments import read_arguments
from trtllm_forge.triton.repository.contract import read_contract

if TYPE_CHECKING:
    from trtllm_forge.releases.catalogue import Evidence, Flow, Release
    from trtllm_forge.releases.flags import FlagTable
    from trtllm_forge.triton.repository.contract import Layout


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool of a release.

    Attributes:
        name: Its name; for a converter, the family.
        flow: The flow it belongs to.
        evidence: How well its options are known.
        note: How close to the release they were read, in words.
        source: What was read.
        path: Path of a script below TensorRT-LLM's folder; empty for other tools.
    """

    name: str
    flow: Flow
    evidence: Evidence
    note: str = ""
    source: str = ""
    path: str = ""

    def document(self, name_key: str) -> dict[str, object]:
        """Return the part of a JSON document, with its name under ``name_key``."""
        document: dict[str, object] = {
            name_key: self.name,
            "flow": self.flow,
            "evidence": self.evidence,
            "note": self.note,
            "source": self.source,
        }
        return {**document, "path": self.path} if self.path else document


def tools_of(release: Release) -> tuple[Tool, ...]:
    """Return every tool that forge uses, including those the release lacks."""
    name = TOOL_NAMES["convert_checkpoint"]
    converters = converters_of(release)
    convert = Tool(name=name, flow="engine", evidence="unsupported")
    if converters:
        # Notes shared by all converters are about the release, the others about one script.
        said = converters[0].note.split("; ")
        shared = [text for text in said if all(text in tool.note for tool in converters)]
        convert = Tool(
            name=name,
            flow="engine",
            evidence=converters[0].evidence,
            note="; ".join(shared),
            source=f"{len(converters)} converters, each read separately",
        )
    return (
        convert,
        _of_table(TOOL_NAMES["quantize"], find_flags("quantize", release)),
        _of_table(TOOL_NAMES["trtllm_build"], find_flags("trtllm_build", release)),
        _models("engine", "engine", release),
        _arguments(release),
        _models("llmapi", "llmapi", release),
    )


def converters_of(release: Release) -> tuple[Tool, ...]:
    """Return the release's ``convert_checkpoint.py`` scripts, sorted by family name."""
    families = sorted({a.converter for a in known_architectures().values() if a.converter})
    tables = {f: find_flags("convert_checkpoint", release, family=f) for f in families}
    return tuple(_of_table(f, table) for f, table in tables.items() if table is not None)


def _of_table(name: str, table: FlagTable | None) -> Tool:
    if table is None:
        return Tool(name=name, flow="engine", evidence="unsupported")
    return Tool(
        name=name,
        flow="engine",
        evidence=table.evidence,
        note=table.note,
        source=table.source,
        path=table.path,
    )


def _arguments(release: Release) -> Tool:
    name = "tensorrt_llm.LLM"
    try:
        table = read_arguments(release)
    except ConfigError:
        return Tool(name=name, flow="llmapi", evidence="unsupported")
    return Tool(
        name=name,
        flow="llmapi",
        evidence=table.evidence,
        note=table.note,
        source=table.source,
    )


def _models(flow: Flow, layout: Layout, release: Release) -> Tool:
    name = "Triton models" if layout == "engine" else "llmapi Triton model"
    if flow not in release.flows:
        return Tool(name=name, flow=flow, evidence="unsupported")
    try:
        contract = read_contract(release.contract, layout)
    except ConfigError:
        return Tool(name=name, flow=flow, evidence="unsupported")
    return Tool(
        name=name,
        flow=flow,
        evidence="nearest" if release.is_overlaid else contract.confidence,
        note=contract.reason,
        source=contract.source,
    )
