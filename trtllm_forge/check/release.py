"""Which release of TensorRT-LLM a repository is for, and how that is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.triton.repository.contract import ElementTypes, known_releases, read_contract
from trtllm_forge.triton.repository.names import CORE, MANIFEST_NAME
from trtllm_forge.triton.repository.release import recorded_release

if TYPE_CHECKING:
    from trtllm_forge.check.view import RepositoryView
    from trtllm_forge.triton.repository.contract import Layout, ReleaseContract

_LOGITS = ("TYPE_FP32", "TYPE_FP16")
_ORIGINS = {
    "manifest": MANIFEST_NAME,
    "lock": LOCK_NAME,
    "engine": "the engine's config.json",
}
_FARTHEST_SHARE = 0.4
"""Of a repository's tensors; with more of them unlike, it is for a release that is not known."""


@dataclass(frozen=True, kw_only=True)
class ServedRelease:
    """The release that a repository is for.

    Attributes:
        version: As exactly as it is known.
        origin: Where that comes from, in words.
        is_certain: Whether something says it; otherwise the tensors were compared.
        contract: Its models, None when they are not known.
    """

    version: str
    origin: str
    is_certain: bool
    contract: ReleaseContract | None


@lru_cache(maxsize=1)
def release_of(view: RepositoryView) -> ServedRelease | None:
    """Return the release that a repository is for; None where nothing tells.

    The most certain source decides. Rules ask again and again, about one repository at a time.

    Raises:
        ConfigError: ``--trtllm-version`` names a release whose models are not known.
    """
    layout: Layout = "llmapi" if view.of_role("llmapi") else "engine"
    types = _element_types(view)
    if view.options.trtllm_version is not None:
        contract = read_contract(view.options.trtllm_version, layout, types=types)
        return _known(view.options.trtllm_version, "--trtllm-version", contract)
    recorded = recorded_release(
        recipe=view.recipe,
        rendered=view.lock.get("render"),
        engines=(engine.version for engine in view.engines.values()),
    )
    if recorded is not None:
        version, origin = recorded.version, _ORIGINS[recorded.source]
        try:
            return _known(version, origin, read_contract(version, layout, types=types))
        except ConfigError:
            return _known(version, origin, None)
    closest = _closest(view, layout, types)
    return None if closest is None else closest[1]


def contract_of(view: RepositoryView) -> ReleaseContract | None:
    """Return what the release of a repository declares of its models."""
    release = release_of(view)
    return None if release is None else release.contract


def release_by_tensors(view: RepositoryView) -> str | None:
    """Return the newest release of which all the repository's tensors are.

    None where there is none, or where they are as much those of the release it is held against.
    """
    closest = _closest(view, "engine", _element_types(view))
    if closest is None or closest[0]:
        return None
    found, held = closest[1].contract, contract_of(view)
    is_same = found is not None and held is not None and found.models == held.models
    return None if is_same else closest[1].version


def _known(version: str, origin: str, contract: ReleaseContract | None) -> ServedRelease:
    return ServedRelease(version=version, origin=origin, is_certain=True, contract=contract)


def _closest(
    view: RepositoryView, layout: Layout, types: ElementTypes
) -> tuple[int, ServedRelease] | None:
    """Return how many tensors differ from the release that is nearest, the newest of such."""
    models = {
        CORE if model.role == "llmapi" else model.role: model
        for model in view.models
        if model.role != "other" and (model.role == "llmapi") == (layout == "llmapi")
    }
    found = {
        (role, tensor.name, tensor.dims)
        for role, model in models.items()
        for tensor in (*model.inputs, *model.outputs)
    }
    best: tuple[int, ReleaseContract] | None = None
    for release in known_releases(layout) if found else ():
        contract = read_contract(release, layout, types=types)
        declared = {
            (role, tensor.name, tuple(map(str, tensor.dims)))
            for role in models
            if role in contract.models
            for tensor in (*contract.models[role].inputs, *contract.models[role].outputs)
        }
        distance = len(declared ^ found)
        if best is None or distance <= best[0]:
            best = distance, contract
    if best is None or best[0] > _FARTHEST_SHARE * len(found):
        return None
    distance, contract = best
    nearness = "all are its own" if not distance else f"{distance} differ"
    return distance, ServedRelease(
        version=contract.release,
        origin=f"the nearest by its tensors, of which {nearness}",
        is_certain=False,
        contract=contract,
    )


def _element_types(view: RepositoryView) -> ElementTypes:
    """Return the types that an engine decides, as the repository has them where it may."""
    types = ElementTypes()
    logits, table, features = types.logits, types.prompt_embedding_table, "TYPE_FP16"
    for model in view.of_role("tensorrt_llm"):
        tensor = model.output("context_logits")
        if tensor is not None and tensor.data_type in _LOGITS:
            logits = tensor.data_type
        tensor = model.input("prompt_embedding_table")
        if tensor is not None and tensor.data_type in (*_LOGITS, "TYPE_BF16"):
            table = tensor.data_type
        tensor = model.input("encoder_input_features")
        if tensor is not None and tensor.data_type in (*_LOGITS, "TYPE_BF16"):
            features = tensor.data_type
    return ElementTypes(
        logits=logits, prompt_embedding_table=table, encoder_input_features=features
    )
