"""How to make each precision: TensorRT-LLM's tool for it, and the engine's name for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from trtllm_forge.config.command import build_command, other_runtime_command
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.releases.flags import find_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.checkpoint.architectures import Architecture
    from trtllm_forge.checkpoint.contents import CheckpointConfig
    from trtllm_forge.config.schema import ForgeConfig
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
# First architecture with the tensor cores or types it needs: NVIDIA's data sheets.
_LEAST_SM: Mapping[str, int] = {"bf16": 80, "fp8": 89, "w4a8_awq": 89, "int8_sq": 80, "nvfp4": 100}
# Precisions to suggest for one that is not supported, the nearest first.
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
    """How to make a TRT-LLM checkpoint of one precision.

    Attributes:
        tool: The script that makes it.
        precision: The requested precision; ``int4_gptq`` for quantised checkpoints.
        dtype: Element type of the activations, ``float16`` or ``bfloat16``.
        qformat: ``quantize.py``'s name for it; empty for the converter.
        quant_algo: The name in the engine's configuration, None for plain weights.
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
        """Return whether sample texts are run through the model, which needs a GPU."""
        return self.tool == "quantize" and (
            self.kv_cache is not None or self.precision not in (*_PLAIN, *_WEIGHT_ONLY)
        )

    @property
    def has_paged_context(self) -> bool:
        """Return whether prompts can be split and shared over KV cache blocks."""
        return has_paged_context(self.precision, self.kv_cache)


def has_paged_context(precision: str, kv_cache: str | None) -> bool:
    """Return whether an engine can split prompts and share them over KV cache blocks.

    TensorRT-LLM rejects paged context FMHA with an int8 KV cache, and with an fp8 one unless the
    weights are fp8 too.

    Source: NVIDIA/TensorRT-LLM attentionOp.cpp and commands/build.py, found by the message
    "Paged Context FMHA doesn't work with int8 kv cache".
    """
    return kv_cache is None or (kv_cache == "fp8" and precision == "fp8")


@dataclass(frozen=True, kw_only=True)
class _Refused:
    """Why a pair of precision and KV cache is not possible."""

    what: str
    why: str = ""
    is_about_kv_cache: bool = False
    is_about_release: bool = False


def choose_recipe(
    config: ForgeConfig,
    checkpoint: CheckpointConfig,
    architecture: Architecture,
    release: Release,
    *,
    sm: int | None,
) -> Recipe:
    """Return how to make the requested precision from the checkpoint.

    Args:
        config: The configuration.
        checkpoint: The checkpoint's ``config.json``.
        architecture: The checkpoint's architecture.
        release: The TensorRT-LLM release.
        sm: Compute capability of the GPU times ten, or None if unknown.

    Raises:
        ConfigError: The release, the architecture or the GPU does not support the precision with
            the KV cache; the message names the nearest pair that works.
    """
    target = _Target(architecture=architecture, release=release, sm=sm)
    precision = _precision_of(config, checkpoint, target)
    found = target.find(precision, config.build.kv_cache)
    if isinstance(found, Recipe):
        return found
    why = target.explain(precision) if found.is_about_release else found.why
    is_fixed = checkpoint.quantization is not None
    hint = _nearest(config, target, precision, found, is_fixed=is_fixed)
    raise ConfigError(found.what, why=why, hint=hint)


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What an engine is built from, with and for: architecture, release and GPU."""

    architecture: Architecture
    release: Release
    sm: int | None

    def find(self, precision: str, kv_cache: str | None) -> Recipe | _Refused:
        """Return how to make the pair, or why that is not possible."""
        refused = self._hardware_refusal(precision, kv_cache)
        if refused is not None:
            return refused
        if not self._has_precision(precision):
            return self._unknown(precision)
        is_converted = precision in (*_PLAIN, *_WEIGHT_ONLY, "int4_gptq")
        if kv_cache is None and is_converted:
            return self._converted(precision)
        return self._quantized(precision, kv_cache, is_converted=is_converted)

    def fitting(self) -> list[str]:
        """Return the possible precisions, without a quantised KV cache."""
        return [
            precision
            for precision in (*self.architecture.precisions, *self.architecture.unlisted)
            if isinstance(self.find(precision, None), Recipe)
        ]

    def _has_precision(self, precision: str) -> bool:
        architecture = self.architecture
        since = architecture.precision_since.get(precision, "0")
        is_known = precision in (*architecture.precisions, *architecture.unlisted)
        return is_known and not self.release.is_before(since)

    def _hardware_refusal(self, precision: str, kv_cache: str | None) -> _Refused | None:
        """Return why the GPU does not support the pair, or None.

        Source: NVIDIA/TensorRT-LLM@008b2b8d23af tensorrt_llm/builder.py, the checks for SM 100
        to 119: data centre Blackwell has no int8 and int4 kernels.
        """
        sm = self.sm
        if sm is None:
            return None
        if sm < (least := _LEAST_SM.get(precision, 0)):
            what = (
                f"precision {precision} needs a GPU with sm_{least} or later; this one is sm_{sm}"
            )
            return _Refused(what=what)
        if kv_cache == "fp8" and sm < _LEAST_SM["fp8"]:
            least = _LEAST_SM["fp8"]
            what = f"an fp8 KV cache needs a GPU with sm_{least} or later; this one is sm_{sm}"
            return _Refused(what=what, is_about_kv_cache=True)
        if not 100 <= sm < 120:
            return None
        why = "its kernels are for other architectures"
        if precision in ("int8", "int4", "int8_sq"):
            what = f"TensorRT-LLM cannot build an engine with precision {precision} for sm_{sm}"
            return _Refused(what=what, why=why)
        if kv_cache == "int8":
            what = f"TensorRT-LLM cannot build an engine with an int8 KV cache for sm_{sm}"
            return _Refused(what=what, why=why, is_about_kv_cache=True)
        return None

    def _converted(self, precision: str) -> Recipe | _Refused:
        table = find_flags("convert_checkpoint", self.release, family=self.architecture.converter)
        if table is None or not _takes_weight_only(table, precision):
            return self._unknown(precision)
        return Recipe(
            tool="convert_checkpoint",
            precision=precision,
            dtype=_dtype(precision),
            qformat="",
            quant_algo=_QUANT_ALGOS[precision],
            kv_cache=None,
            table=table,
        )

    def _quantized(
        self, precision: str, kv_cache: str | None, *, is_converted: bool
    ) -> Recipe | _Refused:
        """Return how ``quantize.py`` makes it; ``is_converted`` if the weights do not need it."""
        name, version = self.architecture.name, self.release.version
        if not self.architecture.has_modelopt:
            what = f"quantize.py of TensorRT-LLM {version} does not support {name}"
            asked = f"precision {precision}" if not is_converted else f"kv_cache {kv_cache}"
            why = f"{asked} needs it"
            return _Refused(what=what, why=why, is_about_kv_cache=is_converted)
        qformat = _QFORMATS.get(precision)
        if qformat is None:
            what = f"precision {precision} has no {kv_cache} KV cache in TensorRT-LLM {version}"
            why = "only quantize.py makes KV cache scales, and it cannot read quantised checkpoints"
            return _Refused(what=what, why=why, is_about_kv_cache=True)
        table = find_flags("quantize", self.release)
        if table is None or not table.has("--qformat", qformat):
            return self._unknown(precision)
        if kv_cache and not table.has("--kv_cache_dtype", kv_cache):
            what = f"{table.title} does not support --kv_cache_dtype {kv_cache}"
            return _Refused(what=what, is_about_kv_cache=True)
        return Recipe(
            tool="quantize",
            precision=precision,
            dtype=_dtype(precision),
            qformat=qformat,
            quant_algo=_QUANT_ALGOS[precision],
            kv_cache=kv_cache,
            table=table,
        )

    def explain(self, precision: str) -> str:
        """Return which releases support a precision, and what this release supports instead."""
        fitting = ", ".join(self.fitting())
        instead = f"{self.release.version} supports {fitting}"
        taking = self.releases_with(precision)
        if not taking:
            return f"no release does; {instead}"
        if self.release.is_before(taking[0]):
            return f"the first that does is {taking[0]}; {instead}"
        return f"the last that does is {taking[-1]}; {instead}"

    def releases_with(self, precision: str) -> list[str]:
        """Return the releases that support a precision, oldest first."""
        return [
            release.version
            for release in read_catalogue().releases.values()
            if self.architecture.has_flow("engine", release)
            and isinstance(replace(self, release=release).find(precision, None), Recipe)
        ]

    def _unknown(self, precision: str) -> _Refused:
        what = (
            f"the engine flow of TensorRT-LLM {self.release.version} does not support "
            f"precision {precision} for {self.architecture.name}"
        )
        return _Refused(what=what, is_about_release=True)


def _takes_weight_only(table: FlagTable, precision: str) -> bool:
    if precision not in _WEIGHT_ONLY:
        return True
    return table.has("--weight_only_precision", precision) or table.has(
        "--use-weight-only-with-precision", precision
    )


def _dtype(precision: str) -> str:
    return "bfloat16" if precision == "bf16" else "float16"


def _nearest(
    config: ForgeConfig,
    target: _Target,
    precision: str,
    refused: _Refused,
    *,
    is_fixed: bool = False,
) -> str:
    """Return the command of the nearest build that works, or nothing if none does.

    ``is_fixed`` is for a quantised checkpoint, whose precision cannot be chosen.
    """
    asked = config.build.kv_cache
    caches: dict[str | None, None] = dict.fromkeys((asked, "fp8" if asked else None, None))
    precisions = () if is_fixed else (*_NEAREST.get(precision, ()), *_PLAIN)
    by_cache = [(precision, cache) for cache in caches]
    by_precision = [(word, cache) for cache in caches for word in precisions]
    pairs = by_cache + by_precision if refused.is_about_kv_cache else by_precision + by_cache
    for word, cache in pairs:
        if isinstance(target.find(word, cache), Recipe):
            changes = {"precision": word} if word != precision else {}
            if cache == asked:
                return build_command(config, **changes)
            return build_command(config, kv_cache=cache, **changes)
    taking = target.releases_with(precision)
    return build_command(config, trtllm_version=taking[0]) if taking else ""


def _precision_of(config: ForgeConfig, checkpoint: CheckpointConfig, target: _Target) -> str:
    """Return the engine's precision, which a quantised checkpoint determines."""
    asked, quantization = config.build.precision, checkpoint.quantization
    architecture = target.architecture
    if quantization is None:
        if asked == "int4_gptq":
            what = (
                f"{config.model} is not quantised, and precision int4_gptq needs a GPTQ checkpoint"
            )
            why = "its config.json has no quantization_config; forge cannot make GPTQ weights"
            hint = _nearest(config, target, asked, _Refused(what=what))
            raise ConfigError(what, why=why, hint=hint)
        return asked
    method = quantization.method
    if method not in ("gptq", "awq") or "int4_gptq" not in architecture.precisions:
        what = (
            f"the converter of {architecture.name} in TensorRT-LLM {target.release.version} "
            f"does not support {method} checkpoints"
        )
        hint = ""
        if architecture.has_flow("llmapi", target.release):
            hint = other_runtime_command(config, "llmapi", trtllm_version=target.release.version)
        why = "only llama and qwen models are supported, with gptq and awq"
        raise ConfigError(what, why=why, hint=hint)
    if quantization.bits not in (0, 4):
        what = f"{config.model} has {quantization.bits}-bit weights ({method})"
        why = "the converter reads every such checkpoint as 4-bit"
        raise ConfigError(what, why=why)
    if quantization.has_act_order:
        what = (
            f"{config.model} is a GPTQ checkpoint with desc_act true, which the converter rejects"
        )
        raise ConfigError(what, why="TensorRT-LLM has no kernels for reordered columns")
    if asked not in (*_PLAIN, "int4_gptq"):
        what = f"{config.model} is already quantised ({method}), precision {asked} was requested"
        why = "its config.json has a quantization_config"
        raise ConfigError(what, why=why, hint=build_command(config, precision="int4_gptq"))
    return "int4_gptq"
