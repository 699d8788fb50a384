"""Writes engine folders: ``config.json`` with its three keys, and one ``rank{N}.engine`` per rank.

Keys: NVIDIA/TensorRT-LLM@aaacc9bd68b3e839fd25a0c7a80964d9b393ac99:tensorrt_llm/builder.py and
``tensorrt_llm/plugin/plugin.py``. As TensorRT does, two builds of one engine differ in bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.stand_ins.toolchain import release_line
from tests.stand_ins.toolchain.failures import fail_before_rank, require_rank_1
from tests.stand_ins.toolchain.logger import log

if TYPE_CHECKING:
    import argparse

    from tests.stand_ins.toolchain.invocation import Invocation

_PLUGINS = (
    "bert_attention_plugin",
    "gpt_attention_plugin",
    "gemm_plugin",
    "gemm_swiglu_plugin",
    "fp8_rowwise_gemm_plugin",
    "nccl_plugin",
    "lora_plugin",
    "dora_plugin",
    "moe_plugin",
    "mamba_conv1d_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
    "gemm_allreduce_plugin",
    "context_fmha",
    "bert_context_fmha_fp32_acc",
    "remove_input_padding",
    "reduce_fusion",
    "fuse_fp4_quant",
    "norm_quant_fusion",
    "user_buffer",
    "use_paged_context_fmha",
    "use_fp8_context_fmha",
    "multiple_profiles",
    "paged_state",
    "streamingllm",
    "use_fused_mlp",
    "pp_reduce_scatter",
)
# Set by the precision of the checkpoint, not by a flag.
_DERIVED_PLUGINS = (
    "qserve_gemm_plugin",
    "identity_plugin",
    "weight_only_groupwise_quant_matmul_plugin",
    "weight_only_quant_matmul_plugin",
    "layernorm_quantization_plugin",
    "rmsnorm_quantization_plugin",
    "quantize_per_token_plugin",
    "quantize_tensor_plugin",
)
_DRAFTING = {
    None: 1,
    "draft_tokens_external": 2,
    "medusa": 4,
    "lookahead_decoding": 8,
    "explicit_draft_tokens": 16,
    "eagle": 32,
}


def build_config(
    arguments: argparse.Namespace, *, release: str, checkpoint: dict[str, Any]
) -> dict[str, Any]:
    """Return ``build_config`` of an engine, as the release writes it."""
    limit = arguments.max_seq_len or checkpoint["max_position_embeddings"]
    document: dict[str, Any] = {
        "max_input_len": min(arguments.max_input_len, limit),
        "max_seq_len": limit,
        "opt_batch_size": 8,
        "max_batch_size": arguments.max_batch_size,
        "max_beam_width": arguments.max_beam_width,
        "max_num_tokens": arguments.max_num_tokens,
        "opt_num_tokens": arguments.opt_num_tokens or arguments.max_batch_size,
        "max_prompt_embedding_table_size": arguments.max_prompt_embedding_table_size,
        "kv_cache_type": (arguments.kv_cache_type or "paged").upper(),
        "gather_context_logits": arguments.gather_context_logits
        or arguments.gather_all_token_logits,
        "gather_generation_logits": arguments.gather_generation_logits
        or arguments.gather_all_token_logits,
        "strongly_typed": True,
        "force_num_profiles": None,
        "profiling_verbosity": arguments.profiling_verbosity,
        "enable_debug_output": arguments.enable_debug_output,
        "max_draft_len": arguments.max_draft_len,
        "speculative_decoding_mode": _DRAFTING[arguments.speculative_decoding_mode],
        "use_refit": False,
        "input_timing_cache": arguments.input_timing_cache,
        "output_timing_cache": arguments.output_timing_cache,
        "lora_config": _lora(arguments),
        "weight_sparsity": arguments.weight_sparsity,
        "weight_streaming": arguments.weight_streaming,
        "plugin_config": _plugins(arguments, checkpoint),
        "use_strip_plan": arguments.strip_plan,
        "max_encoder_input_len": arguments.max_encoder_input_len,
        "monitor_memory": arguments.monitor_memory,
        "use_mrope": False,
    }
    if release_line(release) == "0.16":
        document |= {"auto_parallel_config": {}, "use_fused_mlp": True}
    return document


def write_engine(
    output_dir: Path,
    invocation: Invocation,
    *,
    checkpoint: dict[str, Any],
    document: dict[str, Any],
    lora_dirs: tuple[Path, ...] = (),
) -> None:
    """Write an engine folder, or as much of it as the failure asked for leaves."""
    world_size = checkpoint["mapping"]["world_size"]
    require_rank_1(invocation, world_size)
    output_dir.mkdir(parents=True, exist_ok=True)
    for rank in range(world_size):
        fail_before_rank(invocation, rank)
        log(f"[MemUsage] Rank {rank} Engine build starts - Allocated Memory: Host 8.50 (GiB)")
        # Upstream saves the config with the engine of rank 0.
        if rank == 0:
            text = json.dumps(_config(invocation, checkpoint, document), indent=4)
            if invocation.fails("torn_config"):
                text = text[: len(text) // 2]
            (output_dir / "config.json").write_text(text, encoding="utf-8")
        _write_rank(output_dir / f"rank{rank}.engine", rank, invocation)
    for folder in lora_dirs:
        shutil.copytree(folder, output_dir / "lora" / folder.name, dirs_exist_ok=True)
    _write_timing_cache(document)
    log("Total time of building all engines: 00:00:01")


def _write_rank(path: Path, rank: int, invocation: Invocation) -> None:
    if rank == 1 and invocation.fails("missing_rank_1"):
        return
    if rank == 0 and invocation.fails("empty_rank_0"):
        path.touch()
        return
    log(f"Serializing engine to {path}...")
    major, minor = invocation.gpus[0]["compute_capability"]
    label = f"stand-in engine, rank {rank}, sm {major}{minor}\n".encode()
    path.write_bytes(label + os.urandom(64))


def _config(
    invocation: Invocation, checkpoint: dict[str, Any], document: dict[str, Any]
) -> dict[str, Any]:
    version = "0.15.0" if invocation.fails("version") else invocation.release
    pretrained = dict(checkpoint)
    if invocation.fails("wrong_mapping"):
        pretrained["mapping"] = {**checkpoint["mapping"], "world_size": 16, "tp_size": 16}
    if invocation.fails("wrong_precision"):
        pretrained["quantization"] = {**checkpoint["quantization"], "quant_algo": "W8A8_SQ"}
    if invocation.fails("wrong_limits"):
        document = {**document, "max_batch_size": 1, "max_seq_len": 16}
    return {"version": version, "pretrained_config": pretrained, "build_config": document}


def _lora(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "lora_dir": arguments.lora_dir or [],
        "lora_ckpt_source": arguments.lora_ckpt_source,
        "max_lora_rank": arguments.max_lora_rank,
        "lora_target_modules": arguments.lora_target_modules or [],
        "trtllm_modules_to_hf_modules": {},
    }


def _plugins(arguments: argparse.Namespace, checkpoint: dict[str, Any]) -> dict[str, Any]:
    dtype = checkpoint["dtype"]
    words = {"enable": True, "auto": dtype, None: None}
    plugins: dict[str, Any] = {"dtype": dtype}
    for name in _PLUGINS:
        if hasattr(arguments, name):
            value = getattr(arguments, name)
            plugins[name] = words.get(value, value)
            if value == "disable":
                plugins[name] = None if name.endswith("_plugin") else False
    algorithm = checkpoint["quantization"]["quant_algo"] or ""
    plugins |= dict.fromkeys(_DERIVED_PLUGINS)
    if algorithm in ("W8A16", "W4A16"):
        plugins["weight_only_quant_matmul_plugin"] = dtype
    if algorithm.endswith(("_AWQ", "_GPTQ")):
        plugins["weight_only_groupwise_quant_matmul_plugin"] = dtype
    plugins |= {
        "smooth_quant_plugins": True,
        "smooth_quant_gemm_plugin": dtype if "_SQ_" in algorithm else None,
        "paged_kv_cache": (arguments.kv_cache_type or "paged") == "paged",
        "tokens_per_block": arguments.tokens_per_block,
        "manage_weights": arguments.fast_build,
    }
    return plugins


def _write_timing_cache(document: dict[str, Any]) -> None:
    """Write the cache, and in it how many builds it has seen."""
    builds = 0
    read_path = document["input_timing_cache"]
    if read_path is not None and Path(read_path).is_file():
        builds = json.loads(Path(read_path).read_text(encoding="utf-8"))["builds"]
    elif read_path is not None:
        log("Unable to read timing cache, using freshly created one", level="W")
    write_path = Path(document["output_timing_cache"])
    write_path.write_text(json.dumps({"builds": builds + 1}), encoding="utf-8")
    log(f"Timing cache serialized to {write_path}")
