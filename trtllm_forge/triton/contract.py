"""The tensors of each Triton model, by TensorRT-LLM release.

The facts live in ``data/contracts/<release>.json``, with their source and how sure it is. Some
element types depend on the engine; the file names them ``${...}`` and ``read_contract`` fills
them in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import ConfigError
from trtllm_forge.resources import data_path

if TYPE_CHECKING:
    from collections.abc import Mapping

_ELEMENT_TYPES = {
    "${logits_datatype}": "TYPE_FP32",
    "${encoder_input_features_data_type}": "TYPE_FP16",
    "${prompt_embedding_table_data_type}": "TYPE_FP16",
}


@dataclass(frozen=True, kw_only=True)
class TensorContract:
    """One input or output.

    Attributes:
        name: Its name on the wire.
        data_type: Triton's element type, ``TYPE_INT32`` and so on.
        dims: Sizes without the batch axis, -1 for any.
        reshape: The shape the model sees instead of ``dims``, or None for the same.
        optional: Whether a request may leave it out.
        allow_ragged_batch: Whether requests of one batch may differ in its size.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False
    allow_ragged_batch: bool = False


@dataclass(frozen=True, kw_only=True)
class EnsembleStep:
    """One step: the model, and its tensors' names inside the ensemble."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """Inputs and outputs of one Triton model, and for the ensemble its steps."""

    inputs: tuple[TensorContract, ...]
    outputs: tuple[TensorContract, ...]
    steps: tuple[EnsembleStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReleaseContract:
    """All models of one release's repository."""

    release: str
    confidence: str
    source: str
    models: Mapping[str, ModelContract]


def known_releases() -> tuple[str, ...]:
    """Return the releases whose tensors are known, oldest first."""
    names = (path.stem for path in data_path("contracts").glob("*.json"))
    return tuple(sorted(names, key=lambda name: [int(part) for part in name.split(".")]))


def read_contract(trtllm_version: str) -> ReleaseContract:
    """Return the contract of a TensorRT-LLM version, by its first two numbers.

    Raises:
        ConfigError: The release's tensors are not known.
    """
    release = ".".join(trtllm_version.split(".")[:2])
    path = data_path("contracts") / f"{release}.json"
    if release not in known_releases():
        what = f"the Triton models of TensorRT-LLM {trtllm_version} are not known"
        why = f"this forge knows release {', '.join(known_releases())}"
        hint = f"--trtllm-version {known_releases()[-1]}"
        raise ConfigError(what, why=why, hint=hint)
    document = json.loads(path.read_text(encoding="utf-8"))
    return ReleaseContract(
        release=document["release"],
        confidence=document["confidence"],
        source=document["source"],
        models={name: _model(model) for name, model in document["models"].items()},
    )


def _model(document: dict[str, Any]) -> ModelContract:
    return ModelContract(
        inputs=tuple(_tensor(tensor) for tensor in document["inputs"]),
        outputs=tuple(_tensor(tensor) for tensor in document["outputs"]),
        steps=tuple(EnsembleStep(**step) for step in document.get("steps", ())),
    )


def _tensor(document: dict[str, Any]) -> TensorContract:
    data_type = document["data_type"]
    reshape = document.get("reshape")
    return TensorContract(
        name=document["name"],
        data_type=_ELEMENT_TYPES.get(data_type, data_type),
        dims=tuple(document["dims"]),
        reshape=None if reshape is None else tuple(reshape),
        optional=document.get("optional", False),
        allow_ragged_batch=document.get("allow_ragged_batch", False),
    )
