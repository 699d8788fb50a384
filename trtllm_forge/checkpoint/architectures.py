"""The model architectures forge knows, and which TensorRT-LLM flows support each.

The facts live in ``data/architectures.yaml``, with their sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from trtllm_forge.errors import CheckpointError
from trtllm_forge.files.resources import read_yaml
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.releases.catalogue import Flow, Release


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What forge knows about one architecture.

    Attributes:
        name: As ``config.json`` spells it.
        family: The folder of TensorRT-LLM's converters, or Hugging Face's ``model_type``.
        converter: Name of its flag table; empty without an engine flow.
        engine_flow: Whether some release from 0.16 to 1.2 builds a TensorRT engine for it.
        engine_since: The first release that does, or None if 0.16 already did.
        pytorch_backend: Whether TensorRT-LLM's PyTorch backend runs it.
        pytorch_since: The first release whose backend does, or None if unknown.
        gpt_variant: Its name in the gpt family's converter, or empty.
        precisions: Precisions the engine flow supports for it in at least one release.
        precision_since: First supporting release of precisions whose flag is older than that.
        unlisted: Precisions ``quantize.py`` supports for it although no upstream list says so.
        has_modelopt: Whether ``quantize.py`` lists it.
    """

    name: str
    family: str
    converter: str
    engine_flow: bool
    engine_since: str | None
    pytorch_backend: bool
    pytorch_since: str | None
    gpt_variant: str
    precisions: tuple[str, ...]
    precision_since: Mapping[str, str]
    unlisted: tuple[str, ...]
    has_modelopt: bool

    def has_flow(self, flow: Flow, release: Release) -> bool:
        """Return whether ``release`` is known to support it through ``flow``."""
        if flow not in release.flows:
            return False
        if flow == "engine":
            return self.engine_flow and not release.is_before(self.engine_since or "0")
        return self.pytorch_backend and not release.is_before(self.pytorch_since or "0")


@lru_cache(maxsize=1)
def known_architectures() -> dict[str, Architecture]:
    """Return the architectures of ``data/architectures.yaml``, by name."""
    document = read_yaml("architectures.yaml")
    return {
        name: Architecture(
            name=name,
            family=fields["family"],
            converter=fields.get("converter") or "",
            engine_flow=fields["engine_flow"],
            engine_since=fields.get("engine_since"),
            pytorch_backend=fields["pytorch_backend"],
            pytorch_since=fields.get("pytorch_since"),
            gpt_variant=fields.get("gpt_variant") or "",
            precisions=tuple(fields.get("precisions") or ()),
            precision_since=fields.get("precision_since") or {},
            unlisted=tuple(fields.get("unlisted") or ()),
            has_modelopt=bool(fields.get("modelopt")),
        )
        for name, fields in document["architectures"].items()
    }


def find_architecture(name: str, *, model: str) -> Architecture:
    """Return the architecture called ``name``.

    Raises:
        CheckpointError: The architecture is unknown; the message names the closest known one.
    """
    known = known_architectures()
    if name in known:
        return known[name]
    close = nearest(name, known, cutoff=0.0)
    what = f"{model} has the unknown architecture {name}"
    raise CheckpointError(
        what,
        why=f"forge knows {len(known)} text-generating architectures; the closest is {close}",
    )
