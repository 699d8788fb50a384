"""Which quantised checkpoints the PyTorch backend serves, and on which GPUs.

When loading, the backend can quantise only to FP8, as a prototype. It reads checkpoints with
ModelOpt's ``hf_quant_config.json``, block-scaled FP8 and MXFP4, and rejects GPTQ and AWQ as written
by Hugging Face's libraries. The facts are in ``data/llm_api_args.yaml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.architectures import known_architectures
from trtllm_forge.config.command import build_command
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.llmapi_arguments import quantization_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.checkpoint.contents import CheckpointConfig, Quantization
    from trtllm_forge.config.schema import ForgeConfig

_PLAIN = ("fp16", "bf16")
_WEIGHT_ONLY = ("int8", "int4")
_READS = "it reads ModelOpt's hf_quant_config.json, block-scaled FP8 and MXFP4"


def recipe_of(config: ForgeConfig, checkpoint: CheckpointConfig) -> str | None:
    """Return the documentation's name for a checkpoint's quantisation, or None if plain.

    Raises:
        ConfigError: The PyTorch backend does not read this quantisation.
    """
    quantization = checkpoint.quantization
    if quantization is None:
        return None
    facts = quantization_facts()
    if quantization.method == "modelopt":
        recipe = facts["modelopt"].get(quantization.algorithm)
    elif quantization.method == "fp8" and not _has_weight_blocks(checkpoint):
        recipe = None
    else:
        recipe = facts["methods"].get(quantization.method)
    if recipe is None:
        raise _unreadable(config, checkpoint, quantization)
    return str(recipe)


def require_precision(config: ForgeConfig, checkpoint: CheckpointConfig) -> str | None:
    """Return the checkpoint's recipe if serving it gives the requested precision.

    Raises:
        ConfigError: The checkpoint has another precision, and the backend does not quantise.
    """
    precision = config.build.precision
    recipe = recipe_of(config, checkpoint)
    if precision in _PLAIN:
        return recipe
    recipes = quantization_facts()["precisions"].get(precision, ())
    if recipe in recipes:
        return recipe
    if recipe is not None:
        what = f"{config.model} is already quantised as {recipe}, but {precision} was requested"
        why = "the PyTorch backend serves a checkpoint with its own quantisation"
        raise ConfigError(what, why=why, hint=_plain(config, "fp16"))
    what = f"runtime llmapi cannot quantise a plain checkpoint to {precision}"
    takes_engine = precision in known_architectures()[checkpoint.architecture].precisions
    hint = _engine(config, precision) if takes_engine else _plain(config, "bf16")
    raise ConfigError(what, why=_why_not(precision, recipes), hint=hint)


def require_gpu(recipe: str | None, kv_cache: str | None, gpu_architecture: str) -> None:
    """Check that the GPU can run a recipe and an FP8 KV cache, by the documentation's table.

    Args:
        recipe: How the checkpoint is quantised, or None for a plain one.
        kv_cache: Element type of the KV cache, or None for the type of the activations.
        gpu_architecture: ``sm_90`` and so on.

    Raises:
        ConfigError: It cannot; the message names the architectures that can.
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


def _why_not(precision: str, recipes: Sequence[str]) -> str:
    if precision in _WEIGHT_ONLY:
        return (
            "the PyTorch backend's weight-only layers load weights and scales that are already "
            "quantised"
        )
    if precision == "fp8":
        return (
            "quantising to FP8 while loading is only a prototype of the PyTorch backend "
            "(force_dynamic_quantization); it serves checkpoints quantised by ModelOpt"
        )
    if recipes:
        return f"the PyTorch backend serves {precision} from a checkpoint quantised by ModelOpt"
    return f"the PyTorch backend has no {precision}"


def _unreadable(
    config: ForgeConfig, checkpoint: CheckpointConfig, quantization: Quantization
) -> ConfigError:
    name = quantization.algorithm or quantization.method
    kind = f"{name} ({quantization.bits} bits)" if quantization.bits else name
    what = f"runtime llmapi does not read checkpoints quantised as {kind}"
    why = f"among quantised checkpoints, {_READS}"
    precisions = known_architectures()[checkpoint.architecture].precisions
    takes_engine = quantization.method in ("gptq", "awq") and "int4_gptq" in precisions
    hint = _engine(config, "int4_gptq") if takes_engine else ""
    return ConfigError(what, why=why, hint=hint)


def _plain(config: ForgeConfig, precision: str) -> str:
    return build_command(config, runtime="llmapi", precision=precision)


def _engine(config: ForgeConfig, precision: str) -> str:
    # Without the release, because the newer ones with the LLM API build no engines.
    return build_command(config, runtime="trtllm", trtllm_version=None, precision=precision)
