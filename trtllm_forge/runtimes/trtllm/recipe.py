"""How each precision is made: which of TensorRT-LLM's tools, and what the engine then says."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.flags import find_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.architectures import Architecture
    from trtllm_forge.checkpoint import CheckpointConfig
    from trtllm_forge.config.models import ForgeConfig
    from trtllm_forge.releases.catalogue import Release
    from trtllm_forge.releases.flags import FlagTable

# Names of tensorrt_llm/quantization/mode.py; int4_gptq is what awq and gptq checkpoints become.
_QUANT_ALGOS: Mapping[str, str | None] = {
    "fp16": None,
    "bf16": None,
    "int8": "W8A16",
    "int4": "W4A16",
    "int4_awq": "W4A16_AWQ",
    "int4_gptq": "W4A16_GPTQ",
    "w4a8_awq": "W4A8_AWQ",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "fp8": "FP8",
    "nvfp4": "NVFP4",
}
_WEIGHT_ONLY = ("int8", "int4")
_PLAIN = ("fp16", "bf16")
_QFORMATS: Mapping[str, str] = {
    "fp16": "full_prec",
    "bf16": "full_prec",
    "int8": "int8_wo",
    "int4": "int4_wo",
    "int4_awq": "int4_awq",
    "w4a8_awq": "w4a8_awq",
    "int8_sq": "int8_sq",
    "fp8": "fp8",
    "nvfp4": "nvfp4",
}
# First architecture with the tensor cores or types it takes: NVIDIA's data sheets.
_LEAST_SM: Mapping[str, int] = {"bf16": 80, "fp8": 89, "w4a8_awq": 89, "int8_sq": 80, "nvfp4": 100}
_NEAREST: Mapping[str, tuple[str, ...]] = {
    "int4_awq": ("int4", "int8", "fp16"),
    "w4a8_awq": ("int4_awq", "int4", "int8", "fp16"),
    "int8_sq": ("int8", "fp8", "fp16"),
    "fp8": ("int8", "bf16", "fp16"),
    "nvfp4": ("fp8", "int4_awq", "int4", "fp16"),
    "int4": ("int4_awq", "int8", "fp8", "bf16", "fp16"),
    "int8": ("fp8", "int8_sq", "bf16", "fp16"),
    "int4_gptq": ("int4_awq", "int4", "int8", "fp16"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a TRT-LLM checkpoint of one precision is made.

    Attributes:
        tool: The script that makes it.
        precision: The word it was asked for with; ``int4_gptq`` for quantised checkpoints.
        dtype: Element type of the activations, ``float16`` or ``bfloat16``.
        qformat: ``quantize.py``'s word; empty for the converter.
        quant_algo: What the engine's configuration then says, None for plain weights.
        kv_cache: ``int8``, ``fp8`` or None.
        table: The tool's options in the release.
    """

    tool: Literal["convert_checkpoint", "quantize"]
    precision: str
    dtype: str
    qformat: str
    quant_algo: str | None
    kv_cache: str | None
    table: FlagTable

    @property
    def needs_calibration(self) -> bool:
        """Return whether sample texts are run through the model, which takes a GPU."""
        return self.tool == "quantize" and (
            self.kv_cache is not None or self.precision not in (*_PLAIN, *_WEIGHT_ONLY)
        )

    @property
    def has_paged_context(self) -> bool:
        """Return whether prompts can be split and shared over KV cache blocks.

        TensorRT-LLM refuses paged context FMHA with an int8 KV cache, and with an fp8 one
        unless the weights are fp8, too.

        Source: NVIDIA/TensorRT-LLM attentionOp.cpp and commands/build.py, found by the message
        "Paged Context FMHA doesn't work with int8 kv cache".
        """
        return self.kv_cache is None or (self.kv_cache == "fp8" and self.precision == "fp8")


def choose_recipe(
    config: ForgeConfig,
    checkpoint: CheckpointConfig,
    architecture: Architecture,
    release: Release,
    *,
    sm: int | None,
) -> Recipe:
    """Return how the checkpoint gets the precision that was asked for.

    Args:
        config: What was asked for.
        checkpoint: Its ``config.json``.
        architecture: What forge knows of it.
        release: Of TensorRT-LLM.
        sm: Compute capability of the GPU times ten, or None for unknown.

    Raises:
        ConfigError: The release, the architecture or the GPU does not take the pair; the
            message names the nearest that works.
    """
    build = config.build
    again = f"forge build {shlex.quote(str(config.model))}"
    precision = _precision_of(config, checkpoint, architecture, release, again)
    least = _LEAST_SM.get(precision, 0)
    least_kv = 89 if build.kv_cache == "fp8" else 0
    if sm is not None and sm < max(least, least_kv):
        word = f"precision {precision}" if sm < least else "an fp8 KV cache"
        what = f"{word} needs a GPU of sm_{max(least, least_kv)} or later, this one is sm_{sm}"
        nearest = [word for word in ("int8", "fp16") if word in architecture.precisions]
        hint = f"{again} --{nearest[0] if nearest else 'fp16'}"
        raise ConfigError(what, hint=hint)
    _require_kernels(precision, build.kv_cache, sm, architecture, again)
    if precision not in (*architecture.precisions, *architecture.unlisted):
        raise _refusal(precision, architecture, release, again, why="in any release")
    since = architecture.precision_since.get(precision)
    if since and release.is_before(since):
        raise _refusal(precision, architecture, release, again, why=f"before {since}")
    uses_quantize = build.kv_cache is not None or precision not in (
        *_PLAIN,
        *_WEIGHT_ONLY,
        "int4_gptq",
    )
    recipe = _recipe(config, precision, architecture, release, again, uses_quantize=uses_quantize)
    if recipe is None:
        raise _refusal(precision, architecture, release, again, why=f"in {release.version}")
    return recipe


def _require_kernels(
    precision: str, kv_cache: str | None, sm: int | None, architecture: Architecture, again: str
) -> None:
    """Raise for int8 and int4 kernels that data centre Blackwell does not have.

    Source: NVIDIA/TensorRT-LLM@008b2b8d23af tensorrt_llm/builder.py, the checks for SM 100 to 119.
    """
    if sm is None or not 100 <= sm < 120:
        return
    is_int8_kv = kv_cache == "int8"
    if precision not in ("int8", "int4", "int8_sq") and not is_int8_kv:
        return
    word = "an int8 KV cache" if is_int8_kv else f"precision {precision}"
    what = f"TensorRT-LLM builds no engine with {word} for sm_{sm}"
    fitting = [word for word in ("fp8", "nvfp4", "bf16") if word in architecture.precisions]
    kv_hint = " --kv-cache fp8" if is_int8_kv else ""
    hint = f"{again} --{fitting[0] if fitting else 'fp16'}{kv_hint}"
    raise ConfigError(what, why="its kernels are for other architectures", hint=hint)


def _recipe(
    config: ForgeConfig,
    precision: str,
    architecture: Architecture,
    release: Release,
    again: str,
    *,
    uses_quantize: bool,
) -> Recipe | None:
    kv_cache = config.build.kv_cache
    qformat = ""
    if uses_quantize:
        if not architecture.has_modelopt:
            what = (
                f"quantize.py of TensorRT-LLM {release.version} does not name {architecture.name}"
            )
            asked = f"kv_cache {kv_cache}" if kv_cache else f"precision {precision}"
            raise ConfigError(what, why=f"{asked} is made by it", hint=f"{again} --bf16")
        table = find_flags("quantize", release)
        qformat = _QFORMATS.get(precision, "")
        if table is None or not qformat or not table.has("--qformat", qformat):
            return None
        if kv_cache and not table.has("--kv_cache_dtype", kv_cache):
            return None
    else:
        table = find_flags("convert_checkpoint", release, family=architecture.converter)
        if table is None or not _takes_weight_only(table, precision):
            return None
    return Recipe(
        tool="quantize" if uses_quantize else "convert_checkpoint",
        precision=precision,
        dtype="bfloat16" if precision == "bf16" else "float16",
        qformat=qformat,
        quant_algo=_QUANT_ALGOS[precision],
        kv_cache=kv_cache,
        table=table,
    )


def _takes_weight_only(table: FlagTable, precision: str) -> bool:
    if precision not in _WEIGHT_ONLY:
        return True
    return table.has("--weight_only_precision", precision) or table.has(
        "--use-weight-only-with-precision", precision
    )


def _precision_of(
    config: ForgeConfig,
    checkpoint: CheckpointConfig,
    architecture: Architecture,
    release: Release,
    again: str,
) -> str:
    """Return the precision the engine will have, which a quantised checkpoint decides."""
    asked, quantization = config.build.precision, checkpoint.quantization
    if quantization is None:
        if asked == "int4_gptq":
            what = (
                f"{config.model} is not quantised, and precision int4_gptq needs a GPTQ checkpoint"
            )
            why = "its config.json has no quantization_config; forge makes no GPTQ weights"
            hint = f"{again} --int4-awq" if "int4_awq" in architecture.precisions else again
            raise ConfigError(what, why=why, hint=hint)
        return asked
    method = quantization.method
    if asked not in (*_PLAIN, "int4_gptq"):
        what = f"{config.model} is quantised already ({method}), precision {asked} was asked for"
        raise ConfigError(what, why="quantization_config in its config.json", hint=again)
    if method not in ("gptq", "awq") or "int4_gptq" not in architecture.precisions:
        what = (
            f"the converter of {architecture.name} in TensorRT-LLM {release.version} "
            f"does not take {method} checkpoints"
        )
        flow = "--runtime llmapi" if architecture.has_flow("llmapi", release) else ""
        hint = f"{again} {flow}" if flow else ""
        raise ConfigError(what, why="it takes gptq and awq of llama and qwen models", hint=hint)
    if quantization.bits not in (0, 4):
        what = f"{config.model} has {quantization.bits}-bit weights ({method})"
        why = "the converter reads every such checkpoint as one of 4 bits"
        raise ConfigError(what, why=why)
    if quantization.has_act_order:
        what = (
            f"{config.model} is a GPTQ checkpoint with desc_act true, which the converter refuses"
        )
        raise ConfigError(what, why="TensorRT-LLM has no kernels for reordered columns")
    return "int4_gptq"


def _refusal(
    precision: str, architecture: Architecture, release: Release, again: str, *, why: str
) -> ConfigError:
    what = (
        f"the engine flow of TensorRT-LLM {release.version} does not take "
        f"precision {precision} for {architecture.name}"
    )
    known = ", ".join(architecture.precisions) or "none that is known"
    nearest = next((word for word in _NEAREST.get(precision, ()) if _works(word, architecture)), "")
    hint = f"{again} --{nearest.replace('_', '-')}" if nearest else ""
    return ConfigError(what, why=f"not {why}; it takes {known}", hint=hint)


def _works(precision: str, architecture: Architecture) -> bool:
    return precision in architecture.precisions
