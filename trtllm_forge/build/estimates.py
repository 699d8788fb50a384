"""Estimate what a build needs on disk and in memory per rank, and what fits on a GPU.

Pure functions over a ``ModelGeometry``; nothing is read, downloaded or run. The formulas are in the
docstrings of ``sizes.py`` and ``parameters.py``; ``docs/estimates.md`` shows them together with an
example.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trtllm_forge.build.sizes import (
    PRECISION_BITS,
    Flow,
    activation_bytes,
    engine_bytes_per_rank,
    host_memory_bytes,
    kv_bytes_per_token_per_rank,
    usable_gpu_bytes,
    weight_bytes_per_rank,
)
from trtllm_forge.checkpoint.geometry import ModelGeometry, read_geometry
from trtllm_forge.checkpoint.parameters import count_parameters
from trtllm_forge.text.quantities import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.machine.gpu import Gpu

__all__ = [
    "Change",
    "Estimates",
    "ModelGeometry",
    "Recommendation",
    "count_parameters",
    "estimate",
    "read_geometry",
]

_NARROWER = ("fp8", "int8", "int4_awq", "int4")
_OPTION_NAMES = {"fraction": "kv_cache_free_gpu_mem_fraction"}
# The largest relative difference between the counted size and the checkpoint's size.
_TOLERANCE = 0.25


@dataclass(frozen=True, kw_only=True)
class Change:
    """One option that makes the plan work if only it is changed.

    Attributes:
        option: Its name in ``forge.yaml``, under ``build`` or ``serve``.
        current: Its value in the plan.
        value: The nearest value that works.
        concurrent_sequences: How many full-length sequences then fit.
    """

    option: str
    current: str | int | float | None
    value: str | int | float
    concurrent_sequences: int


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Why the plan does not work on the GPU, and what would.

    Attributes:
        reason: What does not fit, with both sizes.
        changes: Changes each of which is enough, the nearest first; may be empty.
        together: If no single change is enough: changes that are enough when combined.
    """

    reason: str
    changes: tuple[Change, ...]
    together: tuple[Change, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What a build will need; lists are per rank, rank 0 first, sizes in bytes.

    Attributes:
        checkpoint_bytes: The HF checkpoint's weights.
        disk_bytes: HF checkpoint, TRT-LLM checkpoint and engine together.
        host_memory_bytes: Memory of the machine during conversion.
        parameters: The model's parameters.
        weight_bytes_per_rank: Weights in the chosen precision.
        engine_bytes_per_rank: The engine's files; empty without an engine.
        activation_bytes_per_rank: Working memory in addition to weights and KV cache.
        kv_bytes_per_token_per_rank: KV cache of one token.
        gpu: The GPU, one per rank, or None.
        kv_cache_tokens: Tokens that fit into the KV cache, None without a GPU.
        concurrent_sequences: Sequences of ``max_seq_len`` that fit, None without a GPU.
        recommendation: What to change, None if the plan works or no GPU is known.
        notes: What the figures leave out for this model, as sentences.
    """

    checkpoint_bytes: int
    disk_bytes: int
    host_memory_bytes: int
    parameters: int
    weight_bytes_per_rank: tuple[int, ...]
    engine_bytes_per_rank: tuple[int, ...]
    activation_bytes_per_rank: tuple[int, ...]
    kv_bytes_per_token_per_rank: tuple[int, ...]
    gpu: Gpu | None
    kv_cache_tokens: int | None
    concurrent_sequences: int | None
    recommendation: Recommendation | None
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the figures as ``--json`` prints them."""
        recommendation = None
        if self.recommendation is not None:
            recommendation = {
                "reason": self.recommendation.reason,
                "changes": [_change_document(c) for c in self.recommendation.changes],
                "together": [_change_document(c) for c in self.recommendation.together],
            }
        gpu = self.gpu and {"name": self.gpu.name, "memory_bytes": self.gpu.memory_bytes}
        return {
            "checkpoint_bytes": self.checkpoint_bytes,
            "download_bytes": self.checkpoint_bytes,
            "disk_bytes": self.disk_bytes,
            "host_memory_bytes": self.host_memory_bytes,
            "parameters": self.parameters,
            "weight_bytes_per_rank": list(self.weight_bytes_per_rank),
            "engine_bytes_per_rank": list(self.engine_bytes_per_rank),
            "activation_bytes_per_rank": list(self.activation_bytes_per_rank),
            "kv_bytes_per_token_per_rank": list(self.kv_bytes_per_token_per_rank),
            "gpu": gpu,
            "kv_cache_tokens": self.kv_cache_tokens,
            "concurrent_sequences": self.concurrent_sequences,
            "recommendation": recommendation,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class _Plan:
    geometry: ModelGeometry
    scale: float
    precision: str
    kv_cache: str | None
    tp_size: int
    pp_size: int
    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int
    tokens_per_block: int
    gpu: Gpu | None
    fraction: float
    flow: Flow

    def weights(self) -> tuple[int, ...]:
        counted = weight_bytes_per_rank(
            self.geometry,
            precision=self.precision,
            tp_size=self.tp_size,
            pp_size=self.pp_size,
            flow=self.flow,
        )
        return tuple(round(size * self.scale) for size in counted)

    def kv_bytes(self) -> tuple[int, ...]:
        return kv_bytes_per_token_per_rank(
            self.geometry,
            kv_cache=self.kv_cache,
            tp_size=self.tp_size,
            pp_size=self.pp_size,
            flow=self.flow,
        )

    def activations(self) -> int:
        return activation_bytes(
            self.geometry,
            tp_size=self.tp_size,
            max_num_tokens=self.max_num_tokens,
            max_batch_size=self.max_batch_size,
            max_beam_width=self.max_beam_width,
        )

    def blocks(self, gpu: Gpu) -> int:
        """``floor(fraction * (usable - weights - activations) / kv bytes)``, minimum over ranks."""
        left = [usable_gpu_bytes(gpu) - size - self.activations() for size in self.weights()]
        # With more stages than layers, a stage may have no layers and so no cache.
        tokens = (
            self.fraction * max(free, 0) / kv
            for free, kv in zip(left, self.kv_bytes(), strict=True)
            if kv
        )
        return int(min(tokens)) // self.tokens_per_block

    def sequences(self, gpu: Gpu) -> int:
        blocks = -(-self.max_seq_len // self.tokens_per_block) * self.max_beam_width
        return self.blocks(gpu) // blocks


def estimate(
    geometry: ModelGeometry,
    *,
    checkpoint_bytes: int | None,
    precision: str,
    kv_cache: str | None,
    tp_size: int,
    pp_size: int,
    max_batch_size: int,
    max_seq_len: int,
    max_num_tokens: int,
    max_beam_width: int,
    tokens_per_block: int,
    workers: int,
    gpu: Gpu | None,
    fraction: float,
    flow: Flow = "engine",
) -> Estimates:
    """Return what a build and its engine need.

    Args:
        geometry: The model's shape.
        checkpoint_bytes: Size of the weights by the safetensors index, None if unknown.
        precision: ``build.precision``.
        kv_cache: Element type of the KV cache, None for 16 bit.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        max_batch_size: Requests per step.
        max_seq_len: Prompt plus output tokens of one request.
        max_num_tokens: Tokens per step over all requests.
        max_beam_width: Beams; each holds its own KV cache.
        tokens_per_block: Tokens in a block of the KV cache.
        workers: Ranks converted at once.
        gpu: The GPU; each rank has one of these.
        fraction: ``kv_cache_free_gpu_mem_fraction``.
        flow: ``engine``, or ``pytorch`` for the LLM API, which converts and compiles nothing.
    """
    counted = count_parameters(geometry)
    parameters = _believed(geometry, counted, checkpoint_bytes)
    plan = _Plan(
        geometry=geometry,
        scale=parameters / counted,
        precision=precision.replace("-", "_"),
        kv_cache=kv_cache,
        tp_size=tp_size,
        pp_size=pp_size,
        max_batch_size=max_batch_size,
        max_seq_len=max_seq_len,
        max_num_tokens=max_num_tokens,
        max_beam_width=max_beam_width,
        tokens_per_block=tokens_per_block,
        gpu=gpu,
        fraction=fraction,
        flow=flow,
    )
    weights = plan.weights()
    converts = flow == "engine"
    engine = engine_bytes_per_rank(geometry, weights, tp_size=tp_size) if converts else ()
    checkpoint = checkpoint_bytes or parameters * geometry.dtype_bytes
    return Estimates(
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint + (sum(weights) if converts else 0) + sum(engine),
        host_memory_bytes=host_memory_bytes(checkpoint, weights if converts else (), workers),
        parameters=parameters,
        weight_bytes_per_rank=weights,
        engine_bytes_per_rank=engine,
        activation_bytes_per_rank=(plan.activations(),) * (tp_size * pp_size),
        kv_bytes_per_token_per_rank=plan.kv_bytes(),
        gpu=gpu,
        kv_cache_tokens=None if gpu is None else plan.blocks(gpu) * tokens_per_block,
        concurrent_sequences=None if gpu is None else plan.sequences(gpu),
        recommendation=None if gpu is None else _recommend(plan, gpu),
        notes=_notes(plan),
    )


def _believed(geometry: ModelGeometry, counted: int, checkpoint_bytes: int | None) -> int:
    """Return the counted parameters, or those implied by the checkpoint's size.

    Checkpoints carry masks and second copies of tied weights, and some are stored in another type
    than they state. The count of a known family is used if the size agrees with it in some type;
    otherwise the checkpoint's size decides.
    """
    if not checkpoint_bytes or geometry.is_quantized:
        return counted
    if geometry.is_known:
        for dtype_bytes in (geometry.dtype_bytes, 2, 4, 1):
            if abs(checkpoint_bytes / dtype_bytes / counted - 1) <= _TOLERANCE:
                return counted
    return checkpoint_bytes // geometry.dtype_bytes


def _recommend(plan: _Plan, gpu: Gpu) -> Recommendation | None:
    if plan.sequences(gpu) >= 1:
        return None
    worst = max(plan.weights())
    usable = usable_gpu_bytes(gpu)
    if worst + plan.activations() >= usable:
        reason = (
            f"weights of {show_size(worst)} and activations of {show_size(plan.activations())} "
            f"per rank do not fit into the {show_size(usable)} available on {gpu.name}"
        )
    else:
        tokens = plan.blocks(gpu) * plan.tokens_per_block
        reason = (
            f"one sequence needs {plan.max_seq_len * plan.max_beam_width} tokens of KV cache, but "
            f"{tokens} fit on {gpu.name}"
        )
    changes = tuple(_changes(plan, gpu))
    together = () if changes else _changes_together(plan, gpu)
    return Recommendation(reason=reason, changes=changes, together=together)


def _change_document(change: Change) -> dict[str, Any]:
    return {
        "option": change.option,
        "from": change.current,
        "to": change.value,
        "concurrent_sequences": change.concurrent_sequences,
    }


def _changes_together(plan: _Plan, gpu: Gpu) -> tuple[Change, ...]:
    """Return two changes that are enough together: more ranks first, then narrower weights."""
    first = _alternatives(plan, gpu)
    for option in ("tp_size", "precision"):
        for value in first[option]:
            other = replace(plan, **{option: value})
            for second in _changes(other, gpu):
                made = Change(
                    option=_OPTION_NAMES.get(option, option),
                    current=getattr(plan, option),
                    value=value,
                    concurrent_sequences=second.concurrent_sequences,
                )
                if second.option != made.option:
                    return made, second
    return ()


def _changes(plan: _Plan, gpu: Gpu) -> Iterator[Change]:
    for option, values in _alternatives(plan, gpu).items():
        for value in values:
            other = replace(plan, **{option: value})
            if other.sequences(gpu) >= 1:
                yield Change(
                    option=_OPTION_NAMES.get(option, option),
                    current=getattr(plan, option),
                    value=value,
                    concurrent_sequences=other.sequences(gpu),
                )
                break


def _alternatives(plan: _Plan, gpu: Gpu) -> dict[str, list[Any]]:
    """Return the values to try for each option, the nearest first."""
    has_fp8 = float(gpu.compute_capability) >= 8.9
    bits = PRECISION_BITS.get(plan.precision, 16)
    longest = plan.blocks(gpu) // plan.max_beam_width * plan.tokens_per_block
    heads = plan.geometry.num_heads
    return {
        "fraction": [share / 100 for share in range(int(plan.fraction * 100) + 1, 96)],
        "kv_cache": [] if plan.kv_cache else ["fp8" if has_fp8 else "int8"],
        "max_seq_len": [longest] if longest else [],
        "max_num_tokens": [n for n in (4096, 2048, 1024) if n < plan.max_num_tokens],
        "tp_size": [n for n in (2, 4, 8) if n > plan.tp_size and heads % n == 0],
        "precision": [
            name for name in _NARROWER if PRECISION_BITS[name] < bits and (has_fp8 or name != "fp8")
        ],
    }


def _notes(plan: _Plan) -> tuple[str, ...]:
    geometry, notes = plan.geometry, []
    if not geometry.is_known:
        notes.append(f"{geometry.model_type or 'this model'} is counted like a Llama")
    if geometry.is_quantized:
        notes.append("the checkpoint is already quantised; weights are counted as if it were not")
    if geometry.sliding_window:
        notes.append(
            f"the sliding window of {geometry.sliding_window} tokens is ignored: every layer is "
            "assumed to keep the whole sequence"
        )
    if geometry.num_heads % plan.tp_size:
        notes.append(
            f"{geometry.num_heads} heads do not divide evenly over {plan.tp_size} tensor parallel "
            "ranks; figures are rounded up"
        )
    if geometry.num_layers % plan.pp_size:
        last = geometry.num_layers % plan.pp_size * plan.tp_size - 1
        ranks = "rank 0 has" if last == 0 else f"ranks 0 to {last} have"
        notes.append(
            f"{geometry.num_layers} layers do not divide evenly over {plan.pp_size} stages; "
            f"{ranks} one more than the others"
        )
    return tuple(notes)
