"""Which releases support an architecture, through which flow and in which precisions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from trtllm_forge.checkpoint.architectures import find_architecture, known_architectures
from trtllm_forge.checkpoint.contents import CheckpointConfig, Quantization, read_checkpoint_config
from trtllm_forge.checkpoint.presets import find_preset, resolve_model, shipped_config
from trtllm_forge.config.schema import BuildSection, ForgeConfig, Precision
from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import read_yaml
from trtllm_forge.releases.llmapi_arguments import quantization_facts
from trtllm_forge.runtimes.trtllm.recipe import choose_recipe
from trtllm_forge.support.release_tools import tools_of
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from trtllm_forge.checkpoint.architectures import Architecture
    from trtllm_forge.releases.catalogue import Evidence, Release

SCHEMA = 1

_PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_KV_CACHES: tuple[Literal["int8", "fp8"], ...] = ("int8", "fp8")
_LOADED = ("fp16", "bf16")
_ENGINE_TOOLS = ("convert_checkpoint.py", "quantize.py", "trtllm-build")


def architecture_of(name: str) -> Architecture:
    """Return the architecture of that name, or of a preset, a folder or the sample.

    Raises:
        ConfigError: The name is none of these; the error names the closest architecture.
        CheckpointError: The folder holds no checkpoint, or one of an unknown architecture.
    """
    known = known_architectures()
    if name in known:
        return known[name]
    preset = find_preset(name)
    if preset is None and not Path(name).expanduser().exists() and "/" not in name:
        if name == "sample":
            folder = resolve_model(name).folder
            assert folder is not None
            return known[read_checkpoint_config(folder).architecture]
        close = nearest(name, known, cutoff=0.0)
        what = f"{name} is neither an architecture that forge knows nor a preset or folder"
        why = f"it knows {len(known)}, the closest is {close}"
        raise ConfigError(what, why=why, hint=f"forge versions --architecture {close}")
    reference = resolve_model(name)
    preset = reference.preset
    if preset is not None:
        return known[str(shipped_config(preset).document["architectures"][0])]
    if reference.folder is None:
        what = f"the architecture of {name} is not known without asking the Hub"
        why = "forge versions does not use the network; forge plan reads the model's config.json"
        raise ConfigError(what, why=why, hint=f"forge plan {name} --runtime trtllm")
    return find_architecture(read_checkpoint_config(reference.folder).architecture, model=name)


@dataclass(frozen=True, kw_only=True)
class EngineSupport:
    """How a release's engine flow supports an architecture; empty if it does not.

    Attributes:
        precisions: Weight precisions for which a plan can be made.
        unlisted: Those of them that upstream does not list.
        kv_cache: Element types of a quantised KV cache.
        evidence: How well the flags that produce them are known.
    """

    precisions: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    kv_cache: tuple[str, ...] = ()
    evidence: Evidence = "unsupported"

    def document(self) -> dict[str, object]:
        """Return the part of the JSON document."""
        return {
            "takes": self.evidence != "unsupported",
            "evidence": self.evidence,
            "precisions": list(self.precisions),
            "unlisted": list(self.unlisted),
            "kv_cache": list(self.kv_cache),
        }

    def text(self) -> str:
        """Return one line, or an empty string if it is not supported."""
        if self.evidence == "unsupported":
            return ""
        words = [
            f"{word} (unlisted)" if word in self.unlisted else word for word in self.precisions
        ]
        cache = f"; KV cache {', '.join(self.kv_cache)}" if self.kv_cache else ""
        return f"engine flow ({self.evidence}): {', '.join(words)}{cache}"


@dataclass(frozen=True, kw_only=True)
class LlmApiSupport:
    """How a release's PyTorch backend supports an architecture.

    Attributes:
        takes: Whether it is known to have a class for it.
        since: The first release that has, or None if unknown.
    """

    takes: bool
    since: str | None

    def document(self) -> dict[str, object]:
        """Return the part of the JSON document."""
        return {
            "takes": self.takes,
            # The index of classes was read on the main branch, after all of these releases.
            "evidence": "nearest" if self.takes else "unsupported",
            "since": self.since,
            "precisions": list(_LOADED) if self.takes else [],
            "quantised_checkpoints": list(_read_recipes()) if self.takes else [],
        }

    def text(self) -> str:
        """Return one line, or an empty string if it is not supported."""
        if not self.takes:
            return ""
        known = f"since {self.since}" if self.since else "first release not known"
        return f"LLM API (nearest, {known}): {', '.join(_LOADED)}"


@dataclass(frozen=True, kw_only=True)
class ArchitectureSupport:
    """How each of ``releases`` supports an architecture."""

    architecture: Architecture
    releases: Sequence[Release]

    def document(self) -> dict[str, object]:
        """Return both flows of every release, and the sources."""
        known = self.architecture
        return {
            "schema": SCHEMA,
            "architecture": {
                "name": known.name,
                "family": known.family,
                "converter": known.converter,
                "gpt_variant": known.gpt_variant,
                "engine_flow": known.engine_flow,
                "engine_since": known.engine_since,
                "pytorch_backend": known.pytorch_backend,
                "pytorch_since": known.pytorch_since,
            },
            "releases": [
                {
                    "version": release.version,
                    "image": release.image.reference if release.image else None,
                    "engine": engine_support(known, release).document(),
                    "llmapi": llmapi_support(known, release).document(),
                }
                for release in self.releases
            ],
            "sources": _sources(known),
        }

    def text(self) -> str:
        """Return the flows of every release that supports it, grouping equal neighbours."""
        known = self.architecture
        lines = [f"{known.name}, family {known.family}"]
        for flows, group in groupby(self.releases, key=self._flow_lines):
            if flows:
                lines.append(_listed(tuple(group)))
                lines += [f"  {line}" for line in flows]
        if len(lines) == 1:
            lines.append("none of these releases supports it")
        if any("LLM API" in line for line in lines):
            recipes = ", ".join(_read_recipes())
            lines.append(f"the LLM API also takes checkpoints quantised as {recipes}")
        return "\n".join(lines)

    def _flow_lines(self, release: Release) -> tuple[str, ...]:
        flows = (
            engine_support(self.architecture, release).text(),
            llmapi_support(self.architecture, release).text(),
        )
        return tuple(filter(None, flows))


def engine_support(architecture: Architecture, release: Release) -> EngineSupport:
    """Return how the engine flow of a release supports an architecture, on any GPU."""
    if not architecture.has_flow("engine", release):
        return EngineSupport()
    precisions = tuple(p for p in _PRECISIONS if _builds(architecture, release, p))
    evidence = {tool.evidence for tool in tools_of(release) if tool.name in _ENGINE_TOOLS}
    return EngineSupport(
        precisions=precisions,
        unlisted=tuple(p for p in precisions if p in architecture.unlisted),
        kv_cache=tuple(k for k in _KV_CACHES if _builds(architecture, release, "fp16", k)),
        evidence="exact" if evidence == {"exact"} else "nearest",
    )


def llmapi_support(architecture: Architecture, release: Release) -> LlmApiSupport:
    """Return how the LLM API of a release supports an architecture."""
    takes = architecture.has_flow("llmapi", release)
    return LlmApiSupport(takes=takes, since=architecture.pytorch_since if takes else None)


def _read_recipes() -> list[str]:
    recipes = quantization_facts()["precisions"].values()
    return sorted({name for names in recipes for name in names})


def _listed(releases: Sequence[Release]) -> str:
    """Return the releases with their images; neighbours without images form a range."""
    words = []
    for has_image, group in groupby(releases, key=lambda release: release.image is not None):
        same = list(group)
        if has_image:
            words += [f"{r.version} ({r.image.triton_release})" for r in same if r.image]
        elif len(same) == 1:
            words.append(f"{same[0].version} (no image)")
        else:
            words.append(f"{same[-1].version} to {same[0].version} (no image)")
    return ", ".join(words)


def _builds(
    architecture: Architecture,
    release: Release,
    precision: Precision,
    kv_cache: Literal["int8", "fp8"] | None = None,
) -> bool:
    """Return whether a plan with this precision can be made, on any GPU."""
    is_gptq = precision == "int4_gptq"
    checkpoint = CheckpointConfig(
        architecture=architecture.name,
        model_type=architecture.family,
        max_seq_len=0,
        vocab_size=0,
        num_layers=0,
        num_kv_heads=0,
        head_dim=0,
        eos_token_ids=(),
        quantization=Quantization(method="gptq", bits=4) if is_gptq else None,
    )
    config = ForgeConfig(
        model=architecture.name, build=BuildSection(precision=precision, kv_cache=kv_cache)
    )
    try:
        choose_recipe(config, checkpoint, architecture, release, sm=None)
    except ConfigError:
        return False
    return True


def _sources(architecture: Architecture) -> dict[str, str]:
    document = read_yaml("architectures.yaml")
    row = document["architectures"][architecture.name]
    keys = [*row.get("source", ()), *row.get("precision_source", ())]
    return {key: document["sources"][key] for key in keys}
