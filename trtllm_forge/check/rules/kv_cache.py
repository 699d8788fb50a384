"""FL501 to FL509: the memory for keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.triton.repository.contract import DEFAULT_KV_FRACTION
from trtllm_forge.triton.repository.pbtxt import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtllm_forge.check.model import Model
    from trtllm_forge.check.view import RepositoryView

_OFF = ("false", "0", "f", "no", "n")


@rule("FL501", "kv-one-sequence", "error")
def kv_one_sequence(view: RepositoryView) -> Iterable[Problem]:
    """The KV cache holds at least one sequence of full length.

    Why: The backend stops with `maxTokensInPagedKvCache must be large enough to process at
        least 1 sequence`.
    Fix: Raise it to at least one sequence, or remove it.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/366
    """
    for model in view.of_role("tensorrt_llm"):
        parameter = model.setting("max_tokens_in_paged_kv_cache")
        tokens = None if parameter is None else whole_number(parameter.value)
        if parameter is None or tokens is None:
            continue
        engine = view.engines.get(model.folder)
        limit = engine.max_seq_len if engine is not None else None
        beams = model.setting("max_beam_width")
        needed = (limit or 1) * max(1, whole_number(beams.value) or 1 if beams else 1)
        if tokens < needed:
            sequence = f"a sequence of the engine has {limit}" if limit else "none fits in it"
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"max_tokens_in_paged_kv_cache is {tokens}, but {sequence}"
                + (f" tokens in {needed // limit} beams" if limit and needed > limit else ""),
                hint=str(needed) if limit else "",
            )


@rule("FL502", "kv-shared", "error")
def kv_shared(view: RepositoryView) -> Iterable[Problem]:
    """The models on one GPU leave room for each other's KV cache.

    Why: Each takes its fraction of what the one before left; if the fractions add up to more
        than 1, nothing is left for the last.
    Fix: Give each a smaller fraction, or its own GPUs with `gpu_device_ids`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/59,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/303
    """
    models = [m for m in view.of_role("tensorrt_llm") if m.backend == "tensorrtllm"]
    shares: dict[str, float] = {}
    for model in models:
        fraction = _fraction(model)
        if fraction is not None and not model.setting("max_tokens_in_paged_kv_cache"):
            shares[model.folder] = fraction * _instances_per_gpu(model)
    total = sum(shares.values())
    if total <= 1 or len(shares) == 0:
        return
    ids = {p.value for m in models if (p := m.setting("gpu_device_ids"))}
    if len(ids) > 1:
        return
    for model in models:
        if model.folder not in shares:
            continue
        parameter = model.setting("kv_cache_free_gpu_mem_fraction")
        count = sum(_instances_per_gpu(m) for m in models if m.folder in shares)
        yield Problem(
            model=model.folder,
            path=model.path,
            line=None if parameter is None else parameter.line,
            message=f"{count} engines share a GPU, and their fractions come to {total:g}",
            hint=f'string_value: "{DEFAULT_KV_FRACTION / count:.2f}"',
        )


@rule("FL503", "host-cache", "warning")
def host_cache(view: RepositoryView) -> Iterable[Problem]:
    """A host cache is used with block reuse.

    Why: Host memory for the KV cache only serves block reuse.
    Fix: Switch block reuse on, or remove the host cache.
    """
    for model in view.of_role("tensorrt_llm"):
        parameter, reuse = (
            model.setting("kv_cache_host_memory_bytes"),
            model.setting("enable_kv_cache_reuse"),
        )
        size = None if parameter is None else whole_number(parameter.value)
        if parameter is None or not size or reuse is None:
            continue
        if reuse.value.strip().lower() in _OFF:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"kv_cache_host_memory_bytes is {size}, but enable_kv_cache_reuse is "
                f"{reuse.value}",
            )


@rule("FL504", "cross-fraction", "warning")
def cross_fraction(view: RepositoryView) -> Iterable[Problem]:
    """A cross-attention cache is used with an encoder.

    Why: Without an encoder its share of the memory is unused.
    Fix: Remove it without an encoder; with one, set a fraction such as `0.5`.
    """
    for model in view.of_role("tensorrt_llm"):
        parameter = model.setting("cross_kv_cache_fraction")
        if parameter is not None and model.setting("encoder_model_path") is None:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"cross_kv_cache_fraction is {parameter.value}, but there is no encoder",
            )
        elif parameter is None and model.setting("encoder_model_path") is not None:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=model.parameters["encoder_model_path"].line,
                message="there is an encoder, and cross_kv_cache_fraction is not given",
                hint='string_value: "0.5"',
            )


@rule("FL505", "kv-fraction-full", "warning")
def kv_fraction_full(view: RepositoryView) -> Iterable[Problem]:
    """The KV cache leaves room for activations.

    Why: The fraction applies to the memory that is free after loading, before the first large
        batch needs any.
    Fix: Lower it; upstream's default is 0.9.
    Upstream: https://github.com/NVIDIA/TensorRT-LLM/issues/486,
        https://github.com/NVIDIA/TensorRT-LLM/issues/2773
    """
    for model in view.of_role("tensorrt_llm"):
        parameter, fraction = model.setting("kv_cache_free_gpu_mem_fraction"), _fraction(model)
        if parameter is not None and fraction is not None and 0.97 < fraction <= 1:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"kv_cache_free_gpu_mem_fraction is {parameter.value}, which leaves "
                "next to nothing",
                hint=f'string_value: "{DEFAULT_KV_FRACTION}"',
            )


def _fraction(model: Model) -> float | None:
    parameter = model.setting("kv_cache_free_gpu_mem_fraction")
    try:
        return float(parameter.value) if parameter is not None else DEFAULT_KV_FRACTION
    except ValueError:
        return None


def _instances_per_gpu(model: Model) -> int:
    ids = model.setting("gpu_device_ids")
    groups = len(ids.value.split(";")) if ids is not None else 1
    return -(-model.instances // groups)
