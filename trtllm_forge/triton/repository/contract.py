"""The tensors and parameters of each Triton model, by TensorRT-LLM release.

The facts lie in ``data/contracts``: a file per release for the five models around an engine, and
in ``llmapi`` those for the one model over the LLM API::

    {"release": "0.16", "confidence": "exact", "reason": "read at the release tag",
     "source": "repository@commit:path",
     "models": {"preprocessing": {"parameters": ["tokenizer_dir", ...],
                                  "dynamic_batching": "queue",
                                  "inputs": [{"name": "QUERY", ...}], "outputs": [...]},
                "ensemble": {..., "steps": [{"model": ..., "inputs": {...}, "outputs": {...}}]}}}

A release whose models could not be read has ``same_as``, the nearest one that could, in place of
``models``. Some element types depend on the engine; the files name them ``${...}`` and
``read_contract`` fills them in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.errors import ConfigError
from trtllm_forge.files.digest import sha256_text
from trtllm_forge.files.resources import data_path
from trtllm_forge.releases.catalogue import version_key
from trtllm_forge.triton.repository.names import ENSEMBLE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Layout = Literal["engine", "llmapi"]
Confidence = Literal["exact", "nearest"]
DynamicBatching = Literal["none", "default", "queue"]

DEFAULT_KV_FRACTION = 0.9
"""The default share of free memory that an engine takes for its KV cache."""

_LAYOUT_WORDS: Mapping[Layout, str] = {"engine": "Triton models", "llmapi": "llmapi Triton model"}


@dataclass(frozen=True, kw_only=True)
class ElementTypes:
    """The element types that depend on the engine.

    Attributes:
        logits: Of context, generation and draft logits: ``TYPE_FP32`` or ``TYPE_FP16``.
        prompt_embedding_table: Of the virtual tokens of p-tuning: that of the activations.
        encoder_input_features: Of an encoder's input; decoder-only models have none.
    """

    logits: str = "TYPE_FP32"
    prompt_embedding_table: str = "TYPE_FP16"
    encoder_input_features: str = "TYPE_FP16"

    def resolve(self, data_type: str) -> str:
        """Return a type of the data files, with ``${...}`` filled in."""
        return {
            "${logits_datatype}": self.logits,
            "${prompt_embedding_table_data_type}": self.prompt_embedding_table,
            "${encoder_input_features_data_type}": self.encoder_input_features,
        }.get(data_type, data_type)


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
    """What the release declares of one Triton model.

    Attributes:
        inputs: In the order of the release.
        outputs: In the order of the release, without its duplicates.
        parameters: The names it knows, in its order.
        dynamic_batching: Whether Triton batches requests for it: not, by Triton's defaults, or
            with a queue whose limits are settings.
        steps: Of the ensemble.
    """

    inputs: tuple[TensorContract, ...]
    outputs: tuple[TensorContract, ...]
    parameters: tuple[str, ...] = ()
    dynamic_batching: DynamicBatching = "none"
    steps: tuple[EnsembleStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReleaseContract:
    """All models of one release's repository.

    Attributes:
        release: Its first two numbers.
        layout: Which repository it is: five models around an engine, or one over the LLM API.
        confidence: ``exact`` when it was read at the release's tag.
        reason: Where the confidence comes from, in a sentence.
        source: What was read.
        models: By name, in the order in which a request passes them.
        sha256: Of the data that it was read from.
    """

    release: str
    layout: Layout
    confidence: Confidence
    reason: str
    source: str
    models: Mapping[str, ModelContract]
    sha256: str


def known_releases(layout: Layout = "engine") -> tuple[str, ...]:
    """Return the releases whose models are known, oldest first."""
    names = (path.stem for path in _contracts_dir(layout).glob("*.json"))
    return tuple(sorted(names, key=version_key))


def read_contract(
    trtllm_version: str, layout: Layout = "engine", *, types: ElementTypes | None = None
) -> ReleaseContract:
    """Return the contract of a TensorRT-LLM version, by its first two numbers.

    Args:
        trtllm_version: ``1.2.1``, ``1.3.0rc4`` or ``0.16``.
        layout: Which of the release's repositories.
        types: The engine's types; None for those of an engine built with defaults.

    Raises:
        ConfigError: The release's models are not known.
    """
    release = ".".join(trtllm_version.split(".")[:2])
    releases = known_releases(layout)
    if release not in releases:
        what = f"the {_LAYOUT_WORDS[layout]} of TensorRT-LLM {trtllm_version} "
        what += "are not known" if layout == "engine" else "is not known"
        why = f"this forge knows release {', '.join(releases)}"
        raise ConfigError(what, why=why, hint=f"--trtllm-version {releases[-1]}")
    text = (_contracts_dir(layout) / f"{release}.json").read_text(encoding="utf-8")
    document = json.loads(text)
    models = document.get("models")
    if models is None:
        nearest = (_contracts_dir(layout) / f"{document['same_as']}.json").read_text("utf-8")
        text += nearest
        models = json.loads(nearest)["models"]
    types = types or ElementTypes()
    return ReleaseContract(
        release=document["release"],
        layout=layout,
        confidence=document["confidence"],
        reason=document["reason"],
        source=document["source"],
        models=_with_equal_wires({name: _model(model, types) for name, model in models.items()}),
        sha256=sha256_text(text),
    )


def _contracts_dir(layout: Layout) -> Path:
    return data_path("contracts/llmapi" if layout == "llmapi" else "contracts")


def _model(document: dict[str, Any], types: ElementTypes) -> ModelContract:
    return ModelContract(
        inputs=tuple(_tensor(tensor, types) for tensor in document["inputs"]),
        outputs=tuple(_tensor(tensor, types) for tensor in document["outputs"]),
        parameters=tuple(document["parameters"]),
        dynamic_batching=document.get("dynamic_batching", "none"),
        steps=tuple(EnsembleStep(**step) for step in document.get("steps", ())),
    )


def _with_equal_wires(models: Mapping[str, ModelContract]) -> Mapping[str, ModelContract]:
    """Give the ensemble's inputs the types of the tensors they are wired to.

    Release 1.2 leaves the type of the prompt embedding table open in ``tensorrt_llm`` and says
    FP16 in the ensemble; Triton loads no ensemble whose wires differ in type.
    """
    if ENSEMBLE not in models:
        return models
    ensemble = models[ENSEMBLE]
    wired: dict[str, str] = {}
    for step in ensemble.steps:
        types = {tensor.name: tensor.data_type for tensor in models[step.model].inputs}
        wired |= {outer: types[inner] for inner, outer in step.inputs.items()}
    inputs = tuple(replace(tensor, data_type=wired[tensor.name]) for tensor in ensemble.inputs)
    return {**models, ENSEMBLE: replace(ensemble, inputs=inputs)}


def _tensor(document: dict[str, Any], types: ElementTypes) -> TensorContract:
    reshape = document.get("reshape")
    return TensorContract(
        name=document["name"],
        data_type=types.resolve(document["data_type"]),
        dims=tuple(document["dims"]),
        reshape=None if reshape is None else tuple(reshape),
        optional=document.get("optional", False),
        allow_ragged_batch=document.get("allow_ragged_batch", False),
    )
