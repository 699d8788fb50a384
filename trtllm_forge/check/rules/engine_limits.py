"""FL420 to FL439: what is asked of an engine beside what was compiled into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.check.release import contract_of
from trtllm_forge.check.rules.engine import readable_engines
from trtllm_forge.triton.repository.pbtxt import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtllm_forge.check.view import RepositoryView

_MODES = {
    "medusa": ("medusa", 4),
    "lookahead": ("lookahead_decoding", 8),
    "redrafter": ("explicit_draft_tokens", 16),
    "eagle": ("eagle", 32),
}
"""The speculative mode that each decoding mode needs, and its number in ``config.json``."""

_ON = ("true", "1", "t", "yes", "y")


@rule("FL420", "batch-above-engine", "error")
def batch_above_engine(view: RepositoryView) -> Iterable[Problem]:
    """A model's max_batch_size does not exceed its engine's.

    Why: The engine's limit is compiled in.
    Fix: Lower it, or build the engine with a larger `--max_batch_size`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/130
    """
    for model, _, engine in readable_engines(view):
        limit, wanted = engine.limit("max_batch_size"), model.max_batch_size
        scalar = model.config.scalar("max_batch_size")
        if limit is not None and wanted is not None and scalar is not None and wanted > limit:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=scalar.line,
                message=f"max_batch_size is {wanted}, but the engine takes {limit}",
                hint=f"max_batch_size: {limit}",
            )


@rule("FL421", "beams-above-engine", "error")
def beams_above_engine(view: RepositoryView) -> Iterable[Problem]:
    """max_beam_width does not exceed the engine's.

    Why: The engine's limit is compiled in, and the backend refuses to load beyond it.
    Fix: Lower it, or build the engine with a larger `--max_beam_width`.
    """
    for model, _, engine in readable_engines(view):
        parameter, limit = model.setting("max_beam_width"), engine.limit("max_beam_width")
        wanted = None if parameter is None else whole_number(parameter.value)
        if parameter is None or limit is None or wanted is None or wanted <= limit:
            continue
        yield Problem(
            model=model.folder,
            path=model.path,
            line=parameter.line,
            message=f"max_beam_width is {wanted}, but the engine has {limit}",
            hint=str(limit),
        )


@rule("FL422", "chunked-context", "error")
def chunked_context(view: RepositoryView) -> Iterable[Problem]:
    """Chunked context is used with an engine that supports it.

    Why: It needs an engine built with --use_paged_context_fmha enable.
    Fix: Build with `--use_paged_context_fmha enable`, or switch it off.
    """
    yield from _needs_paged_context(view, "enable_chunked_context", severity_is_error=True)


@rule("FL423", "block-reuse", "warning")
def block_reuse(view: RepositoryView) -> Iterable[Problem]:
    """Block reuse is used with an engine that supports it.

    Why: It needs an engine built with --use_paged_context_fmha enable.
    Fix: Build with `--use_paged_context_fmha enable`, or switch it off.
    """
    yield from _needs_paged_context(view, "enable_kv_cache_reuse", severity_is_error=False)


@rule("FL424", "decoding-mode", "error")
def decoding_mode(view: RepositoryView) -> Iterable[Problem]:
    """The speculative decoding mode is the one the engine was built for.

    Why: The engine's inputs differ by mode, so the mode cannot be changed afterwards.
    Fix: Build with the mode's `--speculative_decoding_mode`, or leave `decoding_mode` out.
    """
    for model, _, engine in readable_engines(view):
        parameter = model.setting("decoding_mode")
        built = engine.built("speculative_decoding_mode")
        if parameter is None or built is None:
            continue
        wanted = _MODES.get(parameter.value.strip())
        if wanted is not None and not _is_mode(built, wanted):
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"decoding_mode is {parameter.value}, but the engine was built without it",
                hint=f"trtllm-build --speculative_decoding_mode {wanted[0]} ...",
            )


@rule("FL425", "in-flight-engine", "error")
def in_flight_engine(view: RepositoryView) -> Iterable[Problem]:
    """In-flight batching is used with an engine that supports it.

    Why: It needs a paged KV cache and packed input.
    Fix: Build with `--kv_cache_type paged --remove_input_padding enable`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/378
    """
    for model, _, engine in readable_engines(view):
        parameter = model.setting("gpt_model_type")
        if parameter is None or not parameter.value.startswith("inflight"):
            continue
        kind = str(engine.built("kv_cache_type") or "PAGED").upper()
        missing = []
        if kind != "PAGED" or engine.plugin("paged_kv_cache") is False:
            missing.append("a paged KV cache")
        if engine.plugin("remove_input_padding") is False:
            missing.append("packed input")
        if missing:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"the engine was built without {' and '.join(missing)}",
                hint="trtllm-build --kv_cache_type paged --remove_input_padding enable ...",
            )


@rule("FL426", "lora-engine", "warning")
def lora_engine(view: RepositoryView) -> Iterable[Problem]:
    """LoRA settings are used with an engine that supports adapters.

    Why: Without the LoRA plugin, requests with an adapter fail.
    Fix: Build with `--lora_plugin auto`, or remove the settings.
    """
    for model, _, engine in readable_engines(view):
        keys = [k for k in model.parameters if k.startswith("lora_") and model.setting(k)]
        if keys and engine.plugin("gemm_plugin") is not None and not engine.plugin("lora_plugin"):
            yield Problem(
                model=model.folder,
                path=model.path,
                line=model.parameters[keys[0]].line,
                message=f"{keys[0]} is given, but the engine was built without the LoRA plugin",
                severity="info",
                hint="trtllm-build --lora_plugin auto ...",
            )


@rule("FL427", "attention-window", "warning")
def attention_window(view: RepositoryView) -> Iterable[Problem]:
    """The attention window is not longer than a sequence.

    Why: A longer window is cut to the engine's max_seq_len.
    Fix: Remove it, or use a smaller window.
    """
    for model, _, engine in readable_engines(view):
        parameter, limit = model.setting("max_attention_window_size"), engine.max_seq_len
        if parameter is None or limit is None:
            continue
        sizes = [whole_number(size) for size in parameter.value.split(",")]
        if any(size is not None and size > limit for size in sizes):
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"max_attention_window_size is {parameter.value}, but a sequence has "
                f"{limit} tokens",
                severity="info",
            )


@rule("FL428", "logits-engine", "error")
def logits_engine(view: RepositoryView) -> Iterable[Problem]:
    """The logits have the type that the engine sends.

    Why: The backend refuses to send logits declared in another type.
    Fix: Write the engine's type as `logits_datatype`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/718
    """
    types = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}
    for model, _, engine in readable_engines(view):
        pretrained = engine.config.get("pretrained_config")
        said = pretrained.get("logits_dtype") if isinstance(pretrained, dict) else None
        wanted = types.get(str(said))
        tensor = model.output("generation_logits")
        if wanted is None or tensor is None or not tensor.data_type.startswith("TYPE_"):
            continue
        if tensor.data_type != wanted:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=tensor.line,
                message=f"generation_logits is {tensor.data_type}, but the engine's logits are "
                f"{said}",
                hint=f"data_type: {wanted}",
                severity="warning" if _has_fixed_logits(view) else None,
            )


def _has_fixed_logits(view: RepositoryView) -> bool:
    """Return whether the release's files leave no choice: they ask for logits in FP32."""
    contract = contract_of(view)
    return contract is not None and contract.release in ("0.16", "0.17")


def _needs_paged_context(
    view: RepositoryView, key: str, *, severity_is_error: bool
) -> Iterable[Problem]:
    for model, _, engine in readable_engines(view):
        parameter = model.setting(key)
        paged = engine.plugin("use_paged_context_fmha")
        if parameter is None or parameter.value.strip().lower() not in _ON or paged is None:
            continue
        if not paged:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"{key} is {parameter.value}, but the engine was built without paged "
                "context FMHA",
                hint="trtllm-build --use_paged_context_fmha enable ...",
                severity="error" if severity_is_error else "warning",
            )


def _is_mode(built: object, wanted: tuple[str, int]) -> bool:
    if isinstance(built, int):
        return built == wanted[1]
    return str(built).lower().rpartition(".")[2] == wanted[0]
