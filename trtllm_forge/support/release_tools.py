"""Which of TensorRT-LLM's tools a release has, and how sure it is what they take.

The facts are those that plans rest on: the flag tables, the LLM API's arguments and the contracts
of the Triton models.
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
        name: What it is called; a converter goes by its family.
        flow: The flow it belongs to.
        evidence: How sure it is what it takes.
        note: How near that was read, in words.
        source: What was read.
        path: Of a script, below TensorRT-LLM's folder; empty for the rest.
    """

    name: str
    flow: Flow
    evidence: Evidence
    note: str = ""
    source: str = ""
    path: str = ""

    def document(self, name_key: str) -> dict[str, object]:
        """Return it for a JSON document, its name under ``name_key``."""
        document: dict[str, object] = {
            name_key: self.name,
            "flow": self.flow,
            "evidence": self.evidence,
            "note": self.note,
            "source": self.source,
        }
        return {**document, "path": self.path} if self.path else document


def tools_of(release: Release) -> tuple[Tool, ...]:
    """Return every tool that forge uses, with those that the release has not."""
    name = TOOL_NAMES["convert_checkpoint"]
    converters = converters_of(release)
    convert = Tool(name=name, flow="engine", evidence="unsupported")
    if converters:
        # What is said of each of them is about the release, the rest about one script.
        said = converters[0].note.split("; ")
        shared = [text for text in said if all(text in tool.note for tool in converters)]
        convert = Tool(
            name=name,
            flow="engine",
            evidence=converters[0].evidence,
            note="; ".join(shared),
            source=f"{len(converters)} converters, each read apart",
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
    """Return the release's ``convert_checkpoint.py`` of each family, by the family's name."""
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
