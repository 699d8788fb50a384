"""The old engine's build options as options of ``forge build`` for the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.migrate.report import SettingMove
from trtllm_forge.triton.repository.names import CORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.migrate.settings import CarriedSettings
    from trtllm_forge.migrate.source import SourceRepository

# trtllm-build's name for the weights' quantisation, and forge's flag for it.
_WEIGHTS = {
    "W8A16": "--int8",
    "W4A16": "--int4",
    "W4A16_AWQ": "--int4-awq",
    "W4A16_GPTQ": "--int4-gptq",
    "W4A8_AWQ": "--w4a8-awq",
    "W8A8_SQ_PER_CHANNEL": "--int8-sq",
    "FP8": "--fp8",
    "NVFP4": "--nvfp4",
}
_KV_CACHES = {"FP8": "--kv-cache fp8", "INT8": "--kv-cache int8"}
_ACTIVATIONS = ("float16", "bfloat16")


def engine_flags(source: SourceRepository, carried: CarriedSettings) -> list[str]:
    """Return the options of ``forge build`` that make an engine like the old one."""
    build, engine = carried.config.build, source.engine
    flags = [_WEIGHTS.get(engine.quantization) or f"--{build.precision}"]
    flags += [_KV_CACHES[kind]] if (kind := engine.kv_cache_quantization) in _KV_CACHES else []
    flags += [f"--tp {build.tp_size}"] if build.tp_size > 1 else []
    flags += [f"--pp {build.pp_size}"] if build.pp_size > 1 else []
    flags.append(f"--max-batch-size {build.max_batch_size}")
    flags += [f"--max-num-tokens {build.max_num_tokens}"] if build.max_num_tokens else []
    flags += [f"--max-seq-len {build.max_seq_len}"] if build.max_seq_len else []
    beams = source.parameter(CORE, "max_beam_width")
    if beams and beams.isdecimal() and int(beams) > 1:
        flags.append(f"--max-beam-width {beams}")
    return flags


def engine_flag_moves(source: SourceRepository, carried: CarriedSettings) -> Iterator[SettingMove]:
    """Yield the old engine's properties and their counterparts in the new build, if any."""
    engine, precision = source.engine, carried.config.build.precision
    weights, kv_cache = engine.quantization, engine.kv_cache_quantization
    if weights in _WEIGHTS:
        yield _carried("quantization", weights, _WEIGHTS[weights])
    elif weights:
        reason = f"forge build has no such precision; --{precision} is used instead"
        yield _dropped("quantization", weights, reason)
    elif engine.dtype in _ACTIVATIONS:
        yield _carried("dtype", engine.dtype, f"--{precision}")
    elif engine.dtype:
        reason = f"forge build has no such precision; --{precision} is used instead"
        yield _dropped("dtype", engine.dtype, reason)
    if kv_cache in _KV_CACHES:
        yield _carried("kv_cache", kv_cache, _KV_CACHES[kv_cache])
    elif kv_cache:
        yield _dropped("kv_cache", kv_cache, "forge build has no such KV cache")


def _carried(name: str, value: str, flag: str) -> SettingMove:
    to = f"forge build {flag}"
    return SettingMove(model="engine", name=name, value=value, fate="carried", to=to)


def _dropped(name: str, value: str, reason: str) -> SettingMove:
    return SettingMove(model="engine", name=name, value=value, fate="dropped", reason=reason)
