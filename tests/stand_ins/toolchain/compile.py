"""The stand-in ``trtllm-build``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.stand_ins.toolchain import read_table
from tests.stand_ins.toolchain.checkpoint import read_checkpoint
from tests.stand_ins.toolchain.engine import build_config, write_engine
from tests.stand_ins.toolchain.invocation import parser_of, start
from tests.stand_ins.toolchain.logger import log

if TYPE_CHECKING:
    import argparse

    from tests.stand_ins.toolchain.invocation import Invocation

_TOOL = "trtllm-build"
# From the sources of 1.2: SM100 has no kernel of these.
_NOT_ON_BLACKWELL = (
    "gemm_swiglu_plugin",
    "fp8_rowwise_gemm_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
)


def main(settings_path: str) -> None:
    """Build engines, or end as upstream would."""
    invocation = start(_TOOL, "compile", settings_path)
    print(f"[TensorRT-LLM] TensorRT-LLM version: {invocation.release}", flush=True)
    table = read_table(invocation.release)["trtllm-build"]
    arguments = parser_of(_TOOL, table["arguments"]).parse_args()
    if arguments.checkpoint_dir is None:
        sys.exit(f"stand-in {_TOOL}: builds from --checkpoint_dir alone")
    checkpoint = read_checkpoint(Path(arguments.checkpoint_dir))
    _require_gpu(invocation, checkpoint)
    _require_sense(arguments)
    _require_plugins(arguments, invocation)
    _log_plan(arguments, invocation, checkpoint)
    document = build_config(arguments, release=invocation.release, checkpoint=checkpoint)
    if arguments.build_config is not None:
        document |= json.loads(Path(arguments.build_config).read_text(encoding="utf-8"))
    if arguments.dry_run:
        log("Dry run: no engine is built")
        return
    for folder in arguments.lora_dir or ():
        if not Path(folder).is_dir():
            raise FileNotFoundError(folder)
    write_engine(
        Path(arguments.output_dir),
        invocation,
        checkpoint=checkpoint,
        document=document,
        lora_dirs=tuple(Path(folder) for folder in arguments.lora_dir or ()),
    )


def _require_gpu(invocation: Invocation, checkpoint: dict[str, Any]) -> None:
    if not invocation.gpus:
        message = (
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and "
            "installed a driver from http://www.nvidia.com/Download/index.aspx"
        )
        raise RuntimeError(message)
    capability = tuple(invocation.gpus[0]["compute_capability"])
    least = {"FP8": (8, 9), "NVFP4": (10, 0)}.get(checkpoint["quantization"]["quant_algo"], (0, 0))
    if capability < least:
        message = f"Unsupported SM version for {checkpoint['quantization']['quant_algo']} GEMM"
        raise RuntimeError(message)


def _require_sense(arguments: argparse.Namespace) -> None:
    """Raise what upstream raises for pairs of arguments that exclude each other."""
    if arguments.workers < 1:
        message = "max_workers must be greater than 0"
        raise ValueError(message)
    if arguments.gather_context_logits and arguments.max_draft_len > 0:
        message = "Gather context logits is not supported with draft tokens."
        raise RuntimeError(message)
    if arguments.multiple_profiles == "enable" and arguments.opt_num_tokens is not None:
        message = "multiple_profiles is enabled, while opt_num_tokens is set."
        raise RuntimeError(message)
    assert arguments.streamingllm != "enable", "StreamingLLM is not supported any more"
    if arguments.lora_dir and arguments.lora_plugin == "disable":
        message = "lora_dir needs a lora_plugin"
        raise ValueError(message)


def _require_plugins(arguments: argparse.Namespace, invocation: Invocation) -> None:
    major, _ = invocation.gpus[0]["compute_capability"]
    if major < 10:
        return
    for name in _NOT_ON_BLACKWELL:
        if getattr(arguments, name, "disable") not in (None, "disable"):
            message = f"{name} is not supported on Blackwell"
            raise ValueError(message)


def _log_plan(
    arguments: argparse.Namespace, invocation: Invocation, checkpoint: dict[str, Any]
) -> None:
    workers = min(len(invocation.gpus), arguments.workers)
    for name in ("gpt_attention_plugin", "gemm_plugin", "nccl_plugin", "context_fmha"):
        log(f"Set {name} to {getattr(arguments, name)}.")
    ranks = checkpoint["mapping"]["world_size"]
    log(f"Build {ranks} rank(s) with {workers} worker(s)")
    if getattr(arguments, "paged_kv_cache", None) is not None:
        log(
            "Option --paged_kv_cache is deprecated, use --kv_cache_type=paged/disabled instead.",
            level="W",
        )
