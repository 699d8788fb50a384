"""The stand-in ``examples/quantization/quantize.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.stand_ins.toolchain import read_table
from tests.stand_ins.toolchain.checkpoint import (
    Mapping,
    Quantization,
    checkpoint_config,
    read_hf_config,
    write_checkpoint,
)
from tests.stand_ins.toolchain.convert import require_calibration
from tests.stand_ins.toolchain.invocation import parser_of, start

if TYPE_CHECKING:
    import argparse

_TOOL = "quantize.py"
_ALGORITHMS = {
    "nvfp4": "NVFP4",
    "fp8": "FP8",
    "fp8_pc_pt": "FP8_PER_CHANNEL_PER_TOKEN",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "int8_wo": "W8A16",
    "int4_wo": "W4A16",
    "full_prec": None,
}
_UNCALIBRATED = ("int8_wo", "int4_wo", "full_prec")
# ModelOpt exports both StarCoders as its gptnext decoder, whose class is this one.
_EXPORTED = {"GPTBigCodeForCausalLM": "GPTForCausalLM", "Starcoder2ForCausalLM": "GPTForCausalLM"}


def main(settings_path: str) -> None:
    """Quantise a checkpoint, or end as upstream would."""
    invocation = start(_TOOL, "convert", settings_path)
    print(f"[TensorRT-LLM] TensorRT-LLM version: {invocation.release}", flush=True)
    table = read_table(invocation.release)["quantize"]
    arguments = parser_of(_TOOL, table["arguments"]).parse_args()
    # For every format, and with --device cpu as well.
    if not invocation.gpus:
        message = "GPU is required for inference."
        raise OSError(message)
    hf = read_hf_config(str(arguments.model_dir))
    calibrates = arguments.autoq_format or arguments.kv_cache_dtype
    if calibrates or arguments.qformat not in _UNCALIBRATED:
        _require_dataset(arguments.calib_dataset)
        require_calibration(invocation, arguments.calib_dataset)
    mapping = Mapping(
        tp_size=arguments.tp_size, pp_size=arguments.pp_size, cp_size=arguments.cp_size
    )
    named = str(hf["architectures"][0])
    config = checkpoint_config(
        hf,
        architecture=_EXPORTED.get(named, named),
        dtype=arguments.dtype,
        mapping=mapping,
        quantization=_quantization(arguments),
    )
    output_dir = Path(arguments.output_dir)
    write_checkpoint(output_dir, config, mapping, invocation)
    if arguments.autoq_format:
        (output_dir / "quant_cfg.json").write_text(
            json.dumps({"quant_algo": "MIXED_PRECISION", "quantized_layers": {}}), encoding="utf-8"
        )


def _quantization(arguments: argparse.Namespace) -> Quantization:
    algorithm = "MIXED_PRECISION" if arguments.autoq_format else _ALGORITHMS[arguments.qformat]
    kv_cache = arguments.kv_cache_dtype
    return Quantization(
        algorithm=algorithm,
        kv_cache=kv_cache.upper() if kv_cache else None,
        group_size=arguments.awq_block_size,
    )


def _require_dataset(dataset: str) -> None:
    """Refuse what is neither the one data set that upstream knows nor a folder.

    Source: tensorrt_llm/quantization/quantize_by_modelopt.py, ``get_calib_dataloader``.
    """
    if "cnn_dailymail" not in dataset and not Path(dataset).is_dir():
        message = f"Unsupported dataset name or local repo directory: {dataset}."
        raise NotImplementedError(message)
