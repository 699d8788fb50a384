"""Which quantised checkpoints the PyTorch backend serves, and on which GPUs.

The backend quantises nothing when it loads but FP8, which is a prototype; it reads what
ModelOpt wrote to ``hf_quant_config.json``, block-scaled FP8 and MXFP4. GPTQ and AWQ as Hugging
Face's libraries write them it refuses. The facts are in ``data/llm_api_args.yaml``.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from trtllm_forge.architectures import known_architectures
from trtllm_forge.errors import ConfigError
from trtllm_forge.runtimes.llmapi.arguments import quantization_facts

if TYPE_CHECKING:
    from trtllm_forge.checkpoint import CheckpointConfig, Quantization
    from trtllm_forge.config.models import ForgeConfig

_PLAIN = ("fp16", "bf16")
_WEIGHT_ONLY = ("int8", "int4")
_READS = "it reads ModelOpt's hf_quant_config.json, block-scaled FP8 and MXFP4"


def recipe_of(checkpoint: CheckpointConfig) -> str | None:
    """Return the documentation's name for how a checkpoint is quantised, or None if plain.

    Raises:
        ConfigError: The PyTorch backend does not read that kind.
    """
    quantization = checkpoint.quantization
    if quantization is None:
        return None
    facts = quantization_facts()
    if quantization.method == "modelopt":
        recipe = facts["modelopt"].get(quantization.algorithm)
    else:
        recipe = facts["methods"].get(quantization.method)
    if quantization.method == "fp8" and not _has_weight_blocks(checkpoint):
        recipe = None
    if recipe is None:
        raise _unreadable(checkpoint, quantization)
    return str(recipe)


def require_precision(config: ForgeConfig, checkpoint: CheckpointConfig) -> str | None:
    """Raise for a precision that loading cannot give; return the checkpoint's recipe.

    Raises:
        ConfigError: The checkpoint is of another precision, and the backend does not quantise.
    """
    precision = config.build.precision
    recipe = recipe_of(checkpoint)
    if precision in _PLAIN:
        return recipe
    if recipe is not None and recipe in quantization_facts()["precisions"].get(precision, ()):
        return recipe
    if recipe is not None:
        what = f"{config.model} is quantised already, as {recipe}; {precision} was asked for"
        why = "the PyTorch backend serves a checkpoint as it is quantised"
        raise ConfigError(what, why=why, hint=f"{_again(config)} --runtime llmapi --fp16")
    what = f"runtime llmapi does not make {precision} of a plain checkpoint"
    if precision in _WEIGHT_ONLY:
        why = (
            "the PyTorch backend's weight-only layers load weights and scales that are quantised "
            "already"
        )
    elif precision == "fp8":
        why = (
            "the PyTorch backend quantises to FP8 when it loads only as a prototype "
            "(force_dynamic_quantization); a checkpoint that ModelOpt quantised is served"
        )
    else:
        why = f"the PyTorch backend serves {precision} from a checkpoint that ModelOpt quantised"
    raise ConfigError(what, why=why, hint=_nearest(config, checkpoint, f"--{_flag(precision)}"))


def require_gpu(recipe: str | None, kv_cache: str | None, gpu_architecture: str) -> None:
    """Raise when a GPU cannot run a recipe or an FP8 KV cache, by the documentation's table.

    Args:
        recipe: How the checkpoint is quantised, or None for a plain one.
        kv_cache: Element type of the KV cache, or None for that of the activations.
        gpu_architecture: ``sm_90`` and so on.

    Raises:
        ConfigError: It cannot; the message names those that can.
    """
    gpus = quantization_facts()["gpus"]
    wanted = [recipe] if recipe else []
    if kv_cache == "fp8":
        wanted.append("FP8 KV")
    for name in wanted:
        if gpu_architecture not in gpus[name]:
            what = f"{name} does not run on {gpu_architecture} in the PyTorch backend"
            raise ConfigError(what, why=f"it runs on {', '.join(gpus[name])}")


def _has_weight_blocks(checkpoint: CheckpointConfig) -> bool:
    settings = checkpoint.document.get("quantization_config")
    return isinstance(settings, dict) and bool(settings.get("weight_block_size"))


def _unreadable(checkpoint: CheckpointConfig, quantization: Quantization) -> ConfigError:
    name = quantization.algorithm or quantization.method
    kind = f"{name} ({quantization.bits} bits)" if quantization.bits else name
    what = f"runtime llmapi does not read checkpoints quantised as {kind}"
    why = f"of the quantised checkpoints, {_READS}"
    takes_engine = known_architectures()[checkpoint.architecture].engine_flow
    hint = "--runtime trtllm" if takes_engine and quantization.method in ("gptq", "awq") else ""
    return ConfigError(what, why=why, hint=hint)


def _nearest(config: ForgeConfig, checkpoint: CheckpointConfig, flag: str) -> str:
    if known_architectures()[checkpoint.architecture].engine_flow:
        return f"{_again(config)} --runtime trtllm {flag}"
    return f"{_again(config)} --runtime llmapi --bf16"


def _again(config: ForgeConfig) -> str:
    return f"forge build {shlex.quote(str(config.model))}"


def _flag(precision: str) -> str:
    return precision.replace("_", "-")
