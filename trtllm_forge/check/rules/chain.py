"""FL220 to FL239: what has to agree along the chain of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem, TextEdit
from trtllm_forge.check.registry import rule
from trtllm_forge.text.spelling import nearest
from trtllm_forge.triton.repository.names import CORE, POSTPROCESSING, PREPROCESSING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtllm_forge.check.model import Model
    from trtllm_forge.check.view import RepositoryView

_CALLED = (
    "tensorrt_llm_model_name",
    "tensorrt_llm_draft_model_name",
    "multimodal_encoders_name",
    "context_model_name",
    "generation_model_name",
)
_PARTS = ("preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls")


@rule("FL220", "called-model", "error")
def called_model(view: RepositoryView) -> Iterable[Problem]:
    """A BLS model calls models of the repository.

    Why: The call fails at the first request, long after the server was ready.
    Fix: Use the name of a folder of the repository.
    """
    for model in view.of_role("tensorrt_llm_bls", "other"):
        for key in _CALLED:
            parameter = model.setting(key)
            if parameter is None or parameter.value.strip() in view.by_name:
                continue
            near = nearest(parameter.value, view.by_name)
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"{key} is {parameter.value}, but no model has that name",
                hint=f'string_value: "{near}"' if near else "",
            )
    for model in view.of_role("tensorrt_llm_bls"):
        for name in (PREPROCESSING, POSTPROCESSING):
            if name not in view.by_name and CORE in view.by_name:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    message=f"{model.folder} calls {name}, which does not exist",
                )


@rule("FL221", "decoupled-differs", "error")
def decoupled_differs(view: RepositoryView) -> Iterable[Problem]:
    """Models that stream together are all decoupled.

    Why: A BLS model forwards the responses of the engine model, so either both answer once or
        both may answer many times.
    Fix: `forge check DIR --fix` makes both decoupled.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/348,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/70
    """
    for model in view.of_role("tensorrt_llm_bls"):
        called = model.setting("tensorrt_llm_model_name")
        engine = view.by_name.get(called.value if called else CORE)
        if engine is None or engine.is_decoupled == model.is_decoupled:
            continue
        if not (engine.is_whole and model.is_whole):
            continue
        late = engine if model.is_decoupled else model
        scalar = late.decoupled
        if scalar is not None and scalar.is_placeholder:
            continue
        yield Problem(
            model=late.folder,
            path=late.path,
            line=None if scalar is None else scalar.line,
            message=f"{late.folder} is not decoupled, and "
            f"{(engine if late is model else model).folder} is",
            hint="model_transaction_policy { decoupled: true }",
            edits=_made_decoupled(late),
        )


@rule("FL222", "streaming-off", "info")
def streaming_off(view: RepositoryView) -> Iterable[Problem]:
    """Clients can stream.

    Why: A request with `stream` set fails where the model may answer only once.
    Fix: If clients are to stream, add `model_transaction_policy { decoupled: true }` to the
        engine model and the BLS model.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/348,
        https://github.com/NVIDIA/TensorRT-LLM/issues/6207
    """
    for model in view.of_role("tensorrt_llm"):
        if not model.is_decoupled and not (model.decoupled and model.decoupled.is_placeholder):
            scalar = model.decoupled
            yield Problem(
                model=model.folder,
                path=model.path,
                line=None if scalar is None else scalar.line,
                message=f"{model.folder} is not decoupled, so that no client can stream",
                hint="model_transaction_policy { decoupled: true }",
            )


@rule("FL223", "decoupled-part", "error")
def decoupled_part(view: RepositoryView) -> Iterable[Problem]:
    """Preprocessing and postprocessing answer once.

    Why: Their Python code returns responses; a decoupled model has to send them.
    Fix: Remove the policy from the model.
    """
    for model in view.of_role("preprocessing", "postprocessing"):
        if model.is_decoupled and model.decoupled is not None:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=model.decoupled.line,
                message=f"{model.folder} is decoupled, and its answers are returned at once",
                hint="model_transaction_policy { decoupled: false }",
            )


@rule("FL224", "ensemble-batch", "error")
def ensemble_batch(view: RepositoryView) -> Iterable[Problem]:
    """An ensemble's max_batch_size is not larger than that of its models.

    Why: Triton refuses an ensemble that allows more than one of its models.
    Fix: Give the ensemble the smallest of its models' sizes.
    """
    for model in view.of_role("ensemble"):
        for step in model.steps:
            target = view.by_name.get(step.model_name)
            allowed = None if target is None else target.max_batch_size
            wanted, scalar = model.max_batch_size, model.config.scalar("max_batch_size")
            if target is None or allowed is None or wanted is None or wanted <= allowed:
                continue
            if not target.is_whole:
                continue
            yield Problem(
                model=model.folder,
                path=model.path,
                line=None if scalar is None else scalar.line,
                message=f"max_batch_size is {wanted}, but {target.folder} takes {allowed}",
                hint=f"max_batch_size: {allowed}",
            )


@rule("FL225", "batch-differs", "warning")
def batch_differs(view: RepositoryView) -> Iterable[Problem]:
    """All models of the chain have the same max_batch_size.

    Why: The smallest one limits throughput, and requests queue in front of it unnoticed.
    Fix: Give all models the same size; forge uses the engine's.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/120,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/189
    """
    engines = view.of_role("tensorrt_llm")
    if len(engines) != 1 or not engines[0].max_batch_size:
        return
    wanted = engines[0].max_batch_size
    for model in view.of_role("preprocessing", "postprocessing", "ensemble", "tensorrt_llm_bls"):
        scalar = model.config.scalar("max_batch_size")
        found = model.max_batch_size
        if found is None or found == wanted or not model.is_whole:
            continue
        yield Problem(
            model=model.folder,
            path=model.path,
            line=None if scalar is None else scalar.line,
            message=f"max_batch_size is {found}, but {engines[0].folder} has {wanted}",
            hint=f"max_batch_size: {wanted}",
        )


@rule("FL226", "batch-zero", "error")
def batch_zero(view: RepositoryView) -> Iterable[Problem]:
    """Models of a chain with a batch axis have max_batch_size of at least 1.

    Why: Scalars are reshaped to [], which Triton allows only with a batch axis.
    Fix: Give it the engine's `max_batch_size`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/372
    """
    for model in view.of_role(*_PARTS, "ensemble"):
        scalar = model.config.scalar("max_batch_size")
        found = model.max_batch_size
        if not model.is_whole or found is None or found > 0:
            continue
        reshaped = any(t.reshape == () for t in (*model.inputs, *model.outputs))
        why = "and inputs are reshaped to []" if reshaped else "which drops the batch axis"
        yield Problem(
            model=model.folder,
            path=model.path,
            line=None if scalar is None else scalar.line,
            message=f"max_batch_size is {found}, {why}",
            severity=None if found < 0 or reshaped or model.role != "ensemble" else "warning",
        )


@rule("FL227", "preferred-batch", "error")
def preferred_batch(view: RepositoryView) -> Iterable[Problem]:
    """Preferred batch sizes do not exceed max_batch_size.

    Why: Triton refuses a larger preferred size.
    Fix: Prefer `max_batch_size` itself.
    """
    for model in view.models:
        batching = model.config.message("dynamic_batching")
        limit = model.max_batch_size
        if batching is None or limit is None or not model.is_whole:
            continue
        for scalar in batching.scalars("preferred_batch_size"):
            if scalar.number is not None and not 0 < scalar.number <= max(limit, 1):
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=scalar.line,
                    message=f"preferred_batch_size {scalar.number} is not between 1 and "
                    f"max_batch_size, {limit}",
                    hint=f"preferred_batch_size: [{limit}]",
                )


@rule("FL228", "front-missing", "warning")
def front_missing(view: RepositoryView) -> Iterable[Problem]:
    """Some model takes text.

    Why: Preprocessing and postprocessing are useless without a model that connects them.
    Fix: Add the ensemble of the release.
    """
    has_parts = view.of_role("preprocessing", "postprocessing") and view.of_role("tensorrt_llm")
    if has_parts and not view.of_role("ensemble", "tensorrt_llm_bls"):
        yield Problem(message="neither an ensemble nor a BLS model connects the models")


@rule("FL229", "priority-level", "error")
def priority_level(view: RepositoryView) -> Iterable[Problem]:
    """The default priority is one of the priority levels.

    Why: Triton refuses other values, and 0 when there are levels.
    Fix: Set `default_priority_level` from 1 to `priority_levels`.
    """
    for model in view.models:
        batching = model.config.message("dynamic_batching")
        levels = None if batching is None else batching.scalar("priority_levels")
        if batching is None or levels is None or not levels.number:
            continue
        default = batching.scalar("default_priority_level")
        found = 0 if default is None else default.number
        if found is not None and not 1 <= found <= levels.number:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=(default or levels).line,
                message=f"default_priority_level is {found}, but there are {levels.number} levels",
                hint="default_priority_level: 1",
            )


def _made_decoupled(model: Model) -> tuple[TextEdit, ...]:
    scalar = model.decoupled
    if scalar is not None:
        return (TextEdit(path=model.path, start=scalar.start, end=scalar.end, text="true"),)
    anchor = model.config.all("max_batch_size") or model.config.all("backend")
    if not anchor:
        return ()
    end = anchor[-1].end
    text = "\nmodel_transaction_policy { decoupled: true }"
    return (TextEdit(path=model.path, start=end, end=end, text=text),)
