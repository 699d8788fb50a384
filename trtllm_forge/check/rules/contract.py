"""FL301 to FL309, FL328: the tensors that the release's models have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.check.release import contract_of, release_of
from trtllm_forge.text.spelling import nearest
from trtllm_forge.triton.repository.names import CORE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtllm_forge.check.finding import Severity
    from trtllm_forge.check.model import Model, Tensor
    from trtllm_forge.check.view import RepositoryView
    from trtllm_forge.triton.repository.contract import ModelContract, TensorContract

_ALWAYS_MADE = ("output_ids", "sequence_length", "OUTPUT", "text_output", "INPUT_ID")
_MULTIMODAL = ("IMAGE", "VIDEO", "PIXEL")
_SHOWN = 4
_RENAMED = {
    "random_seed": "seed",
    "min_length": "min_tokens",
    "return_kv_cache_reuse_stats": "return_perf_metrics",
}


@rule("FL301", "tensor-missing", "error")
def tensor_missing(view: RepositoryView) -> Iterable[Problem]:
    """A model has the tensors that its release requires.

    Why: The backend reads or sends them in every request.
    Fix: Copy the tensor from the release's own file.
    """
    for model, word, declared, found in _compared(view):
        for tensor in declared:
            needed = not tensor.optional if word == "input" else tensor.name in _ALWAYS_MADE
            if needed and tensor.name not in found:
                near = nearest(tensor.name, found)
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=found[near].line if near else None,
                    message=f"{word} {tensor.name} is missing",
                    hint=f"{near} is the nearest there is" if near else "",
                )


@rule("FL302", "tensor-left-out", "warning")
def tensor_left_out(view: RepositoryView) -> Iterable[Problem]:
    """A model has all tensors of its release.

    Why: Clients cannot use what a missing tensor offers.
    Fix: Copy the tensor from the release's own file, or name the release with
        `--trtllm-version`.
    """
    for model, word, declared, found in _compared(view):
        missing = [
            tensor.name
            for tensor in declared
            if tensor.name not in found
            and (tensor.optional if word == "input" else tensor.name not in _ALWAYS_MADE)
        ]
        if missing:
            yield Problem(
                model=model.folder,
                path=model.path,
                message=f"of {_release(view)} the {word} {', '.join(missing[:_SHOWN])} is missing"
                + (f", and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""),
                severity="info" if all(_is_in_doubt(view, name) for name in missing) else None,
            )


@rule("FL303", "tensor-unknown", "warning")
def tensor_unknown(view: RepositoryView) -> Iterable[Problem]:
    """A model has no tensors that its release does not know.

    Why: The backend ignores them. Most were renamed between releases.
    Fix: Rename it. `random_seed` and `min_length` became `seed` and `min_tokens` after 0.19;
        `return_kv_cache_reuse_stats` became `return_perf_metrics` after 0.18.
    """
    for model, word, declared, found in _compared(view):
        names = [tensor.name for tensor in declared]
        for name, tensor in found.items():
            if name in names or not name:
                continue
            new = next((b for a, b in (*_RENAMED.items(), *_swapped()) if a == name), "")
            near = new if new in names else nearest(name, names)
            severity: Severity = "error" if new in names and _is_certain(view) else "warning"
            severity = "info" if _is_in_doubt(view, name) else severity
            yield Problem(
                model=model.folder,
                path=model.path,
                line=tensor.line,
                message=f"{_release(view)} has no {word} {name}",
                hint=f'name: "{near}"' if near else "",
                severity=severity,
            )


@rule("FL304", "tensor-type", "error")
def tensor_type(view: RepositoryView) -> Iterable[Problem]:
    """Every tensor has the type that the release reads.

    Why: The backend interprets the bytes as the release's type.
    Fix: Use the release's type.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/718
    """
    for model, _, declared, found in _compared(view):
        for tensor in declared:
            there = found.get(tensor.name)
            if there is None or not there.data_type or "${" in there.data_type:
                continue
            if there.data_type != tensor.data_type:
                scalar = there.message.scalar("data_type")
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=there.line if scalar is None else scalar.line,
                    message=f"{tensor.name} is {there.data_type}, but {_release(view)} has "
                    f"{tensor.data_type}",
                    hint=f"data_type: {tensor.data_type}",
                )


@rule("FL305", "tensor-dims", "error")
def tensor_dims(view: RepositoryView) -> Iterable[Problem]:
    """Every tensor has the shape that the release reads.

    Why: A fixed size where the release allows any is a limit; another rank is an error.
    Fix: Use the release's dims.
    """
    for model, _, declared, found in _compared(view):
        for tensor in declared:
            there = found.get(tensor.name)
            wanted = tuple(str(size) for size in tensor.dims)
            if there is None or not there.dims or there.dims == wanted:
                continue
            scalar = there.message.scalar("dims")
            yield Problem(
                model=model.folder,
                path=model.path,
                line=there.line if scalar is None else scalar.line,
                message=f"{tensor.name} is {there.shown_dims}, but {_release(view)} has "
                f"[{', '.join(wanted)}]",
                hint=f"dims: [{', '.join(wanted)}]",
                severity=_severity_of_dims(view, tensor.name, there.dims, wanted),
            )


@rule("FL306", "tensor-reshape", "error")
def tensor_reshape(view: RepositoryView) -> Iterable[Problem]:
    """Every tensor has the reshape of its release.

    Why: Scalars arrive as [1] and are read as [].
    Fix: Use the release's reshape.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/372
    """
    for model, _, declared, found in _compared(view):
        for tensor in declared:
            there = found.get(tensor.name)
            wanted = None if tensor.reshape is None else tuple(map(str, tensor.reshape))
            if there is None or there.reshape == wanted:
                continue
            yield Problem(
                model=model.folder,
                path=model.path,
                line=there.line,
                message=f"{tensor.name} is reshaped to {_shape(there.reshape)}, and "
                f"{_release(view)} has {_shape(wanted)}",
            )


@rule("FL307", "tensor-optional", "warning")
def tensor_optional(view: RepositoryView) -> Iterable[Problem]:
    """Inputs that are optional in the release are optional here.

    Why: Every client has to send an input that is not optional.
    Fix: Declare it as the release does.
    """
    for model, word, declared, found in _compared(view):
        for tensor in declared:
            there = found.get(tensor.name)
            if there is None or word == "output" or there.is_optional == tensor.optional:
                continue
            is_now = "optional" if there.is_optional else "not optional"
            yield Problem(
                model=model.folder,
                path=model.path,
                line=there.line,
                message=f"{tensor.name} is {is_now}, unlike in {_release(view)}",
                hint=f"optional: {'true' if tensor.optional else 'false'}",
            )


@rule("FL308", "logits-type", "error")
def logits_type(view: RepositoryView) -> Iterable[Problem]:
    """Logits are FP32 or FP16.

    Why: The backend sends no other type, whatever type the engine computes in.
    Fix: Use `logits_datatype:TYPE_FP32`, or `TYPE_FP16` for an engine built so.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/718
    """
    for model in view.of_role("tensorrt_llm", "ensemble", "tensorrt_llm_bls"):
        for name in ("context_logits", "generation_logits"):
            tensor = model.output(name)
            if tensor is None or "${" in tensor.data_type or not tensor.data_type:
                continue
            if tensor.data_type not in ("TYPE_FP32", "TYPE_FP16"):
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=tensor.line,
                    message=f"{name} is {tensor.data_type}",
                    hint="data_type: TYPE_FP32",
                )


@rule("FL328", "tensor-ragged", "warning")
def tensor_ragged(view: RepositoryView) -> Iterable[Problem]:
    """Tensors of varying size allow ragged batches.

    Why: Without this, Triton batches only prompts of the same length, and the others wait.
    Fix: Add `allow_ragged_batch: true`.
    """
    for model, word, declared, found in _compared(view):
        for tensor in declared:
            there = found.get(tensor.name)
            if there is None or word == "output" or not tensor.allow_ragged_batch:
                continue
            if not there.is_ragged:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=there.line,
                    message=f"{tensor.name} has no allow_ragged_batch, unlike in {_release(view)}",
                    hint="allow_ragged_batch: true",
                )


@rule("FL309", "batching-missing", "warning")
def batching_missing(view: RepositoryView) -> Iterable[Problem]:
    """A model that tokenizes batches requests.

    Why: Without dynamic_batching there is nowhere to set a queue limit, and the backend gets
        requests one by one.
    Fix: Copy the block from the release's own file.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/120
    """
    for model, declared in _models(view):
        wanted = declared.dynamic_batching == "queue"
        if wanted and not model.config.all("dynamic_batching") and model.role == "tensorrt_llm":
            yield Problem(
                model=model.folder,
                path=model.path,
                message=f"dynamic_batching is missing; {_release(view)} has it",
            )


def _models(view: RepositoryView) -> Iterator[tuple[Model, ModelContract]]:
    contract = contract_of(view)
    if contract is None:
        return
    is_llmapi = contract.layout == "llmapi"
    for model in view.models:
        name = CORE if is_llmapi and model.role == "llmapi" else model.role
        declared = contract.models.get(name)
        if declared is None or not model.has_config or model.mistakes:
            continue
        # An ensemble around other models than these five has tensors of its own.
        if model.role == "ensemble" and not _joins_the_chain(view, model):
            continue
        yield model, declared


def _joins_the_chain(view: RepositoryView, model: Model) -> bool:
    roles = {view.by_name[s.model_name].role for s in model.steps if s.model_name in view.by_name}
    return {"tensorrt_llm", "postprocessing"} <= roles and "other" not in roles


def _compared(
    view: RepositoryView,
) -> Iterator[tuple[Model, str, tuple[TensorContract, ...], dict[str, Tensor]]]:
    for model, declared in _models(view):
        yield model, "input", declared.inputs, {t.name: t for t in model.inputs}
        yield model, "output", declared.outputs, {t.name: t for t in model.outputs}


def _swapped() -> list[tuple[str, str]]:
    return [(new, old) for old, new in _RENAMED.items()]


def _is_certain(view: RepositoryView) -> bool:
    release = release_of(view)
    return release is not None and release.is_certain


def _release(view: RepositoryView) -> str:
    contract = contract_of(view)
    return f"TensorRT-LLM {contract.release}" if contract else "the release"


def _is_in_doubt(view: RepositoryView, name: str) -> bool:
    """Return whether the facts about a tensor are not those of the release itself."""
    contract = contract_of(view)
    is_exact = contract is not None and contract.confidence == "exact"
    return not is_exact and name.upper().startswith(_MULTIMODAL)


def _severity_of_dims(
    view: RepositoryView, name: str, found: tuple[str, ...], wanted: tuple[str, ...]
) -> Severity | None:
    if _is_in_doubt(view, name):
        return "info"
    return "warning" if _is_narrower(found, wanted) else None


def _is_narrower(found: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    if len(found) != len(wanted):
        return False
    return all(a == b or "-1" in (a, b) for a, b in zip(found, wanted, strict=True))


def _shape(reshape: tuple[str, ...] | None) -> str:
    return "nothing" if reshape is None else f"[{', '.join(reshape)}]"
