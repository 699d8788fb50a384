"""What the value of each parameter has to be.

Source: the parameters' meanings in tensorrtllm_backend@v0.19.0:inflight_batcher_llm/src and
all_models/inflight_batcher_llm, as read for this project.
"""

from __future__ import annotations

WHOLE = (
    "max_beam_width",
    "max_tokens_in_paged_kv_cache",
    "sink_token_length",
    "kv_cache_host_memory_bytes",
    "cancellation_check_period_ms",
    "stats_check_period_ms",
    "iter_stats_max_iterations",
    "request_stats_max_iterations",
    "lora_cache_optimal_adapter_size",
    "lora_cache_max_adapter_size",
    "lora_cache_host_memory_bytes",
    "lookahead_window_size",
    "lookahead_ngram_size",
    "lookahead_verification_set_size",
    "cuda_graph_cache_size",
    "num_nodes",
    "max_num_images",
)
"""Parameters whose value is a whole number from 0 on."""

FRACTIONS = (
    "kv_cache_free_gpu_mem_fraction",
    "cross_kv_cache_fraction",
    "lora_cache_gpu_memory_fraction",
    "gpu_weights_percent",
)
"""Parameters whose value is a share from 0 to 1."""

SWITCHES = (
    "exclude_input_in_output",
    "enable_kv_cache_reuse",
    "normalize_log_probs",
    "enable_chunked_context",
    "kv_cache_onboard_blocks",
    "enable_context_fmha_fp32_acc",
    "multi_block_mode",
    "cuda_graph_mode",
    "speculative_decoding_fast_logits",
    "add_special_tokens",
    "skip_special_tokens",
    "accumulate_tokens",
    "FORCE_CPU_ONLY_INPUT_TENSORS",
)
"""Parameters that are on or off."""

AT_LEAST_ONE = (
    "max_beam_width",
    "num_nodes",
    "max_tokens_in_paged_kv_cache",
    "lookahead_window_size",
    "lookahead_ngram_size",
    "max_num_images",
)
"""Whole numbers that 0 makes no sense for."""

SWITCH_WORDS = ("true", "false", "1", "0", "t", "f", "y", "n", "yes", "no")

CHOICES = {
    "batch_scheduler_policy": ("guaranteed_no_evict", "max_utilization"),
    "decoding_mode": (
        "top_k",
        "top_p",
        "top_k_top_p",
        "beam_search",
        "medusa",
        "redrafter",
        "lookahead",
        "eagle",
        "auto",
    ),
    "guided_decoding_backend": ("xgrammar", "llguidance"),
}
"""Parameters whose value is one of a few words."""

NAMED_ELSEWHERE = {
    "batching_strategy": "gpt_model_type",
    "batching_type": "gpt_model_type",
    "capacity_scheduler_policy": "batch_scheduler_policy",
    "enable_block_reuse": "enable_kv_cache_reuse",
    "enable_chunked_prefill": "enable_chunked_context",
    "encoder_engine_dir": "encoder_model_path",
    "engine_dir": "gpt_model_path",
    "exclude_input_from_output": "exclude_input_in_output",
    "free_gpu_memory_fraction": "kv_cache_free_gpu_mem_fraction",
    "host_cache_size": "kv_cache_host_memory_bytes",
    "kv_cache_free_gpu_memory_fraction": "kv_cache_free_gpu_mem_fraction",
    "max_attention_window": "max_attention_window_size",
    "max_tokens": "max_tokens_in_paged_kv_cache",
    "scheduler_policy": "batch_scheduler_policy",
    "tokenizer": "tokenizer_dir",
}
"""Parameters by the names that fill_template.py, the executor and the LLM API have for them."""

WORKER_PATH = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"
"""Where the images have the program that serves an engine in orchestrator mode."""

BATCHING = ("inflight_fused_batching", "inflight_batching")
STATIC_BATCHING = ("V1", "v1")

PYTHON_SWITCH = "FORCE_CPU_ONLY_INPUT_TENSORS"
"""The one parameter that Triton's python backend does not take empty: yes or no."""

PYTHON_BACKEND = ("EXECUTION_ENV_PATH", PYTHON_SWITCH)
"""Parameters of Triton's python backend itself."""

FORGES_OWN = (
    "max_num_tokens",
    "stream_interval_ms",
    "engine_threads",
    "max_draft_len",
    "max_matching_ngram_size",
    "fast_math",
    "exclude_input_in_output",
    "tokenizer_dir",
    "skip_special_tokens",
    "gpt_model_path",
)
"""Parameters that forge's own Python models read beside the release's."""
