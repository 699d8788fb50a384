"""Writes engine repositories as upstream's templates give them, filled by hand or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.rendering import contract_models

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILLED: Mapping[str, Mapping[str, str]] = {
    "preprocessing": {
        "tokenizer_dir": "/data/llama-hf",
        "add_special_tokens": "False",
        "visual_model_path": "${visual_model_path}",
        "gpt_model_path": "${engine_dir}",
        "max_num_images": "${max_num_images}",
    },
    "tensorrt_llm": {
        "max_beam_width": "1",
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": "/repo/tensorrt_llm/1",
        "encoder_model_path": "${encoder_engine_dir}",
        "max_tokens_in_paged_kv_cache": "40960",
        "max_attention_window_size": "${max_attention_window_size}",
        "batch_scheduler_policy": "max_utilization",
        "kv_cache_free_gpu_mem_fraction": "0.75",
        "kv_cache_host_memory_bytes": "1000000",
        "exclude_input_in_output": "True",
        "enable_kv_cache_reuse": "${enable_kv_cache_reuse}",
        "enable_chunked_context": "true",
        "lora_cache_max_adapter_size": "32",
        "cancellation_check_period_ms": "50",
        "decoding_mode": "",
        "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
    },
    "postprocessing": {
        "tokenizer_dir": "/data/llama-hf",
        "skip_special_tokens": "${skip_special_tokens}",
    },
    "ensemble": {},
    "tensorrt_llm_bls": {
        "accumulate_tokens": "${accumulate_tokens}",
        "tensorrt_llm_model_name": "tensorrt_llm",
        "tensorrt_llm_draft_model_name": "draft",
    },
}
ENGINE: Mapping[str, Any] = {
    "version": "0.16.0",
    "pretrained_config": {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "mapping": {"tp_size": 2, "pp_size": 1},
        "quantization": {"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None},
    },
    "build_config": {"max_batch_size": 16, "max_num_tokens": 4096, "max_seq_len": 2048},
}


def write_upstream(
    root: Path,
    release: str = "0.16",
    *,
    parameters: Mapping[str, Mapping[str, str]] = FILLED,
    engine: Mapping[str, Any] | None = ENGINE,
    decoupled: bool = True,
    instances: Mapping[str, int] | None = None,
) -> Path:
    """Write all five models, with empty version folders as far as they have no engine."""
    for name, model in contract_models(release).items():
        folder = root / name
        (folder / "1").mkdir(parents=True)
        lines = [f'name: "{name}"', "max_batch_size: 64"]
        backend = "tensorrtllm" if name == "tensorrt_llm" else "python"
        lines.append('platform: "ensemble"' if name == "ensemble" else f'backend: "{backend}"')
        if name in ("tensorrt_llm", "tensorrt_llm_bls"):
            lines.append(f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}")
        if name == "tensorrt_llm":
            lines.append("dynamic_batching { default_queue_policy { max_queue_size: 8 } }")
        lines += [_tensor("input", tensor) for tensor in model["inputs"]]
        lines += [_tensor("output", tensor) for tensor in model["outputs"]]
        count = (instances or {}).get(name, 1)
        lines.append(f"instance_group [ {{ count: {count} kind: KIND_CPU }} ]")
        for key, value in parameters[name].items():
            lines += [
                "parameters: {",
                f'  key: "{key}"',
                f'  value: {{ string_value: "{value}" }}',
                "}",
            ]
        (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if engine is not None:
        path = root / "tensorrt_llm" / "1" / "config.json"
        path.write_text(json.dumps(engine), encoding="utf-8")
    return root


def _tensor(kind: str, tensor: Mapping[str, Any]) -> str:
    dims = ", ".join(str(size) for size in tensor["dims"])
    optional = " optional: true" if tensor.get("optional") else ""
    fields = f'name: "{tensor["name"]}" data_type: {tensor["data_type"]} dims: [{dims}]{optional}'
    return f"{kind} {{ {fields} }}"
