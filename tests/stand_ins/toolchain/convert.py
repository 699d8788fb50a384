"""The stand-in ``convert_checkpoint.py`` of every family."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.stand_ins.toolchain import TABLES_DIR, read_table
from tests.stand_ins.toolchain.checkpoint import (
    Mapping,
    Quantization,
    checkpoint_config,
    read_hf_config,
    write_checkpoint,
)
from tests.stand_ins.toolchain.invocation import parser_of, start

if TYPE_CHECKING:
    import argparse

    from tests.stand_ins.toolchain.invocation import Invocation

_TOOL = "convert_checkpoint.py"
# In upstream's order: the first name in the path wins, so starcoder2 comes before starcoder.
_VARIANTS = ("starcoder2", "starcoder", "santacoder", "gpt2", "persimmon", "kosmos-2", "nemotron")
_WEIGHT_ONLY = {
    "int8": "W8A16",
    "int4": "W4A16",
    "int8_gptq": "W8A16_GPTQ",
    "int4_gptq": "W4A16_GPTQ",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "w4a16_awq": "W4A16_AWQ",
}
# By assertions of their scripts; their flag is there all the same.
_ONE_PIPELINE_STAGE = ("bloom", "chatglm", "gptneox", "mamba", "opt", "phi")
_READS_QUANTIZED_FILE = ("baichuan", "gptneox")
_SMOOTH = "W8A8_SQ_PER_{}_PLUGIN"


def main(settings_path: str, family: str) -> None:
    """Convert a checkpoint, or end as upstream would."""
    invocation = start(_TOOL, "convert", settings_path)
    print(f"[TensorRT-LLM] TensorRT-LLM version: {invocation.release}", flush=True)
    table = read_table(invocation.release)["converters"][family]
    arguments = parser_of(_TOOL, table["arguments"]).parse_args()
    model_dir = str(arguments.model_dir)
    hf = read_hf_config(model_dir)
    architecture = _require_family(hf, family)
    _require_sense(arguments, family)
    mapping = _mapping(arguments, family)
    if getattr(arguments, "workers", 1) < 1:
        message = "max_workers must be greater than 0"
        raise ValueError(message)
    quantization = _quantization(arguments, hf, family)
    if _calibrates(arguments):
        require_calibration(invocation, arguments.calib_dataset)
    config = checkpoint_config(
        hf,
        architecture=architecture,
        dtype=arguments.dtype,
        mapping=mapping,
        quantization=quantization,
    )
    if family == "gpt":
        config = {**config, **_gpt_keys(arguments.gpt_variant, model_dir, hf)}
    output_dir = Path(getattr(arguments, "output_model_dir", None) or arguments.output_dir)
    write_checkpoint(output_dir, config, mapping, invocation)


def require_calibration(invocation: Invocation, dataset: str) -> None:
    """Check what calibrating needs: a GPU, and data that can be had.

    Raises:
        OSError: There is no GPU, or the data would have to be downloaded and must not be.
        FileNotFoundError: The data are named by a path where nothing is.
    """
    if not invocation.gpus:
        message = "GPU is required for inference."
        raise OSError(message)
    if Path(dataset).is_dir():
        return
    if Path(dataset).is_absolute():
        message = f"Couldn't find any data file at {dataset}."
        raise FileNotFoundError(message)
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    if any(os.environ.get(name) == "1" for name in offline):
        message = f"Couldn't reach '{dataset}' on the Hub (OfflineModeIsEnabled)"
        raise ConnectionError(message)


def _require_family(hf: dict[str, Any], family: str) -> str:
    table = json.loads((TABLES_DIR / "architectures.json").read_text(encoding="utf-8"))
    named = hf.get("architectures") or ["none"]
    if named[0] not in table.get(family, []):
        sys.exit(f"stand-in {_TOOL}: the {family} converter does not read {named[0]}")
    return str(named[0])


def _require_sense(arguments: argparse.Namespace, family: str) -> None:
    if getattr(arguments, "ckpt_type", "hf") is None:
        # Upstream looks its parser up by the kind, and has no default.
        raise KeyError(None)
    if family == "nemotron_nas":
        assert arguments.trust_remote_code, "trust_remote_code must be set"
    precision = getattr(arguments, "weight_only_precision", None)
    if family in _READS_QUANTIZED_FILE and precision == "int4_gptq":
        assert arguments.quant_ckpt_path, "int4_gptq needs quant_ckpt_path"


def _mapping(arguments: argparse.Namespace, family: str) -> Mapping:
    if not hasattr(arguments, "tp_size"):
        return Mapping(tp_size=arguments.world_size)
    mapping = Mapping(
        tp_size=arguments.tp_size,
        pp_size=getattr(arguments, "pp_size", 1),
        cp_size=getattr(arguments, "cp_size", 1),
        moe_tp_size=getattr(arguments, "moe_tp_size", -1),
        moe_ep_size=getattr(arguments, "moe_ep_size", -1),
    )
    if family in _ONE_PIPELINE_STAGE:
        assert mapping.pp_size == 1, "Pipeline parallelism is not supported."
    given = mapping.moe_tp_size > 0 and mapping.moe_ep_size > 0
    if given and mapping.moe_tp_size * mapping.moe_ep_size != mapping.tp_size:
        message = "moe_tp_size * moe_ep_size must equal tp_size"
        raise ValueError(message)
    return mapping


def _calibrates(arguments: argparse.Namespace) -> bool:
    asked = getattr(arguments, "smoothquant", None) is not None
    return asked or _has_int8_cache(arguments)


def _has_int8_cache(arguments: argparse.Namespace) -> bool:
    # MPT's script has the older name.
    names = ("int8_kv_cache", "calibrate_kv_cache")
    return any(getattr(arguments, name, False) for name in names)


def _quantization(arguments: argparse.Namespace, hf: dict[str, Any], family: str) -> Quantization:
    kv_cache = None
    if _has_int8_cache(arguments):
        kv_cache = "INT8"
    elif getattr(arguments, "fp8_kv_cache", False):
        kv_cache = "FP8"
    return Quantization(
        algorithm=_algorithm(arguments, family) or _carried(hf, family),
        kv_cache=kv_cache,
        group_size=getattr(arguments, "group_size", 128),
    )


def _algorithm(arguments: argparse.Namespace, family: str) -> str | None:
    """Return what the flags ask for; upstream lets weight-only win over SmoothQuant."""
    if family == "gemma":
        precision = getattr(arguments, "use_weight_only_with_precision", None)
        if getattr(arguments, "use_weight_only", False):
            precision = arguments.weight_only_precision
            assert precision, "--use_weight_only requires --weight_only_precision"
        if arguments.enable_fp8:
            return "FP8"
        return _WEIGHT_ONLY[precision] if precision else _smooth(arguments)
    if getattr(arguments, "use_weight_only", False):
        return _WEIGHT_ONLY[arguments.weight_only_precision]
    named = {"use_fp8": "FP8", "use_nvfp4": "NVFP4", "use_fp8_rowwise": "FP8_PER_CHANNEL_PER_TOKEN"}
    for name, algorithm in named.items():
        if getattr(arguments, name, False):
            return algorithm
    return _smooth(arguments)


def _smooth(arguments: argparse.Namespace) -> str | None:
    if getattr(arguments, "smoothquant", None) is None:
        return None
    channel = "CHANNEL" if arguments.per_channel else "TENSOR"
    if arguments.per_token:
        return _SMOOTH.format(f"{channel}_PER_TOKEN")
    return _SMOOTH.format(f"{channel}_PER_TENSOR" if arguments.per_channel else channel)


def _carried(hf: dict[str, Any], family: str) -> str | None:
    """Return the precision that the checkpoint brings along, which only two families read."""
    carried = hf.get("quantization_config") or {}
    if family not in ("llama", "qwen") or carried.get("quant_method") not in ("gptq", "awq"):
        return None
    if carried.get("desc_act"):
        message = "GPTQ with desc_act=True is not implemented!"
        raise ValueError(message)
    return "W8A16_GPTQ" if family == "qwen" and carried.get("bits") == 8 else "W4A16_GPTQ"


def _gpt_keys(asked: str | None, model_dir: str, hf: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that the gpt family adds, with the variant that was named or is guessed.

    Raises:
        AssertionError: No variant was named, and neither path nor model type tells one.
    """
    guessed = [v for v in _VARIANTS if v in model_dir or v == hf.get("model_type")]
    variant = asked or (guessed[0] if guessed else None)
    if asked is None:
        print("Inferring gpt variant from path...", flush=True)
    assert variant in _VARIANTS
    print(f"Gpt variant: {variant}", flush=True)
    keys: dict[str, Any] = {
        "gpt_variant": variant,
        "bias": True,
        "q_scaling": 1.0,
        "embedding_scale": None,
        "apply_query_key_layer_scaling": False,
        "rotary_pct": 1.0,
        "rotary_base": 10000.0,
        "rotary_scaling": None,
        "inner_layernorm": False,
        "norm_before_bmm1": False,
        "moe": {"num_experts": 0, "top_k": 0, "normalization_mode": None},
    }
    if variant in ("starcoder", "santacoder"):
        keys |= {"num_key_value_heads": 1, "position_embedding_type": "learned_absolute"}
    return keys
