"""OpenVINO GenAI's continuous batching pipeline, set up from ``engine.json`` and parameters."""

import os
from pathlib import Path

import openvino as ov
import openvino_genai as genai

BLOCK_TOKENS = 32  # tokens per KV block of the CPU plugin

# A step of a smaller engine is too short to be shared well: its last core gains it less than the
# text around it loses (docs/performance.md).
_SMALL_ENGINE_BYTES = 32 << 20

# Activations that are quantised on the way, as the library does for int8 and int4 weights, make
# text depend on how a step is split over threads.
_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
_FAST = {"KV_CACHE_PRECISION": "u8"}


class Engine:
    """The pipeline and its limits; only one thread may use it after construction."""

    def __init__(
        self,
        engine_dir,
        limits,
        *,
        max_batch_size,
        max_num_tokens,
        kv_fraction,
        max_kv_tokens,
        block_reuse,
        chunked_context,
        fast_math,
        threads,
        draft_tokens,
        draft_ngram,
    ):
        self.max_batch_size = max_batch_size
        self._draft_tokens = draft_tokens
        self._draft_ngram = draft_ngram
        self.max_input_len = limits["max_input_len"]
        self.max_seq_len = limits["max_seq_len"]
        self.eos_token_ids = frozenset(limits["eos_token_ids"])
        per_token = _kv_bytes_per_token(limits, fast_math=fast_math)
        # What is free once the weights are loaded, as on a GPU.
        weight_bytes = (Path(engine_dir) / "openvino_model.bin").stat().st_size
        self.threads = threads or _threads(weight_bytes, len(os.sched_getaffinity(0)))
        free_bytes = max(0, available_memory_bytes() - weight_bytes)
        wanted = min(
            int(kv_fraction * free_bytes) // per_token,
            max_batch_size * (self.max_seq_len + BLOCK_TOKENS),
        )
        self.kv_tokens = min(wanted, max_kv_tokens) if max_kv_tokens else wanted
        self.kv_blocks = max(1, self.kv_tokens // BLOCK_TOKENS)
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = self.kv_blocks
        scheduler.max_num_seqs = max_batch_size
        # Without chunked context a whole prompt has to fit into one step.
        scheduler.max_num_batched_tokens = (
            max_num_tokens if chunked_context else max(max_num_tokens, self.max_seq_len)
        )
        scheduler.dynamic_split_fuse = chunked_context
        scheduler.enable_prefix_caching = block_reuse
        properties = {**(_FAST if fast_math else _EXACT), "INFERENCE_NUM_THREADS": self.threads}
        if draft_tokens:
            properties["prompt_lookup"] = True
        self.pipeline = genai.ContinuousBatchingPipeline(
            Path(engine_dir), scheduler, "CPU", properties
        )

    def cache_usage(self):
        """Return how much of the KV cache is in use, in percent."""
        return self.pipeline.get_metrics().cache_usage

    def facts(self):
        """Return what the model has to know of a loaded engine."""
        return {
            "threads": self.threads,
            "kv_blocks": self.kv_blocks,
            "block_tokens": BLOCK_TOKENS,
        }

    def refusal(self, generation):
        """Return why this generation can never run, or None when it can."""
        prompt_len = len(generation.prompt_ids)
        sampling = generation.sampling
        if self._draft_tokens and sampling.sequences > 1:
            return (
                "beam_width and num_return_sequences above 1 do not go with prompt lookup, "
                "which drafts for one sequence"
            )
        if prompt_len == 0:
            return "input_ids is empty"
        if prompt_len > self.max_input_len:
            return (
                f"the prompt has {prompt_len} tokens, the engine takes at most {self.max_input_len}"
            )
        tokens = prompt_len + generation.max_tokens
        blocks = -(-tokens // BLOCK_TOKENS) * sampling.sequences
        if blocks > self.kv_blocks:
            return (
                f"prompt and output need {blocks * BLOCK_TOKENS} tokens of KV cache, "
                f"the whole cache holds {self.kv_blocks * BLOCK_TOKENS}"
            )
        return None

    def start(self, generation):
        """Hand a generation to the pipeline and return the library's handle."""
        ids = ov.Tensor(generation.prompt_ids.reshape(1, -1))
        return self.pipeline.add_request(generation.key, ids, self._config(generation))

    def _config(self, generation):
        sampling = generation.sampling
        config = genai.GenerationConfig()
        config.max_new_tokens = generation.max_tokens
        if sampling.min_tokens is not None:
            config.min_new_tokens = sampling.min_tokens
        config.logprobs = 1 if generation.want_log_probs else 0
        if self._draft_tokens:
            # The library wants both with every request, whatever is drafted.
            config.num_assistant_tokens = self._draft_tokens
            config.max_ngram_size = self._draft_ngram
        if generation.end_id >= 0:
            # A checkpoint with several end ids ends at any of them, unless the client chose one.
            is_default = generation.end_id in self.eos_token_ids
            ends = self.eos_token_ids if is_default else {generation.end_id}
            config.stop_token_ids = {generation.end_id, *ends}
            config.set_eos_token_id(generation.end_id)
        else:
            config.ignore_eos = True
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            if (value := getattr(sampling, name)) is not None:
                setattr(config, name, value)
        if sampling.beam_width > 1:
            _set_beams(config, sampling)
        elif _is_sampled(sampling):
            config.do_sample = True
            config.num_return_sequences = sampling.num_return_sequences
            if sampling.temperature:
                config.temperature = sampling.temperature
            if sampling.top_k:
                config.top_k = sampling.top_k
            if sampling.top_p:
                config.top_p = sampling.top_p
            if sampling.seed is not None:
                config.rng_seed = sampling.seed
        return config


def _threads(weight_bytes, cores):
    """Return how many threads compute: one core is left to the rest where that costs little."""
    return cores - 1 if weight_bytes < _SMALL_ENGINE_BYTES and cores > 1 else cores


def _is_sampled(sampling):
    """Return whether tokens are drawn; TensorRT-LLM is greedy unless top_k or top_p say so."""
    top_k, top_p = sampling.top_k or 0, sampling.top_p or 0.0
    return top_k > 1 or (top_k == 0 and top_p > 0)


def _set_beams(config, sampling):
    config.num_beams = sampling.beam_width
    config.num_return_sequences = sampling.beam_width
    if sampling.length_penalty is not None:
        config.length_penalty = sampling.length_penalty
    if sampling.diversity_penalty:
        config.num_beam_groups = sampling.beam_width
        config.diversity_penalty = sampling.diversity_penalty
    if sampling.early_stopping:
        config.stop_criteria = genai.StopCriteria.EARLY


def _kv_bytes_per_token(limits, *, fast_math):
    """Return the bytes keys and values of one token take over all layers."""
    # The 8-bit cache keeps a scale and a zero point, 4 bytes each, per head.
    per_head = limits["head_dim"] + 8 if fast_math else 4 * limits["head_dim"]
    return 2 * limits["num_layers"] * limits["num_kv_heads"] * per_head


def available_memory_bytes():
    """Return what this process may still take: the machine's, or its cgroup's if smaller."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            pages = int(line.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return pages
    return min(pages, max(0, limit - used))
