"""Write ``model.yaml``: the arguments of ``tensorrt_llm.LLM``, and a section for Triton.

::

    model: /models/tensorrt_llm/1/checkpoint
    backend: pytorch
    tensor_parallel_size: 1
    kv_cache_config:
      free_gpu_memory_fraction: 0.9
    triton_config:
      max_batch_size: 0
      decoupled: true
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.llmapi_arguments import argument_names, prompt_lookup_for
from trtllm_forge.triton.repository.names import CHECKPOINT_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.releases.llmapi_arguments import ArgumentTable

MODEL_YAML = "1/model.yaml"
"""File with the model's arguments, relative to its folder."""

CANCELLATION_CHECK_PERIOD_MS = 100

_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """The content of ``model.yaml``.

    Attributes:
        arguments: Keyword arguments of ``tensorrt_llm.LLM``.
        triton: Triton's section: ``max_batch_size``, ``decoupled`` and how often to check for
            cancelled requests.
    """

    arguments: Mapping[str, Any]
    triton: Mapping[str, Any]

    def text(self) -> str:
        """Return the text of the file; the YAML library quotes every value safely."""
        import yaml

        document = {**self.arguments, "triton_config": dict(self.triton)}
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10_000)


def model_arguments(
    config: ForgeConfig, kv_fraction: float, table: ArgumentTable
) -> ModelArguments:
    """Return the arguments for a configuration; the release has all of them.

    Args:
        config: The configuration.
        kv_fraction: Share of the memory that is free after loading, for the KV cache.
        table: The release's arguments.

    Raises:
        ConfigError: The release does not have one of them.
    """
    build, repository = config.build, config.repository
    arguments: dict[str, Any] = {
        "model": f"{repository.mount_root.rstrip('/')}/{CHECKPOINT_DIR}",
        "backend": "pytorch",
        "tensor_parallel_size": build.tp_size,
        "pipeline_parallel_size": build.pp_size,
        # The type of the activations; a quantised checkpoint states its own.
        "dtype": _DTYPES.get(build.precision, "auto"),
        "max_batch_size": build.max_batch_size,
        "enable_chunked_prefill": repository.enable_chunked_context,
        "kv_cache_config": _kv_cache(config, kv_fraction),
        "scheduler_config": {
            "capacity_scheduler_policy": repository.batch_scheduler_policy.upper()
        },
        "cuda_graph_config": _cuda_graphs(config),
    }
    if repository.tokenizer_dir:
        arguments["tokenizer"] = repository.tokenizer_dir
    if config.checkpoint.trust_remote_code:
        arguments["trust_remote_code"] = True
    if build.max_seq_len:
        arguments["max_seq_len"] = build.max_seq_len
    if build.max_num_tokens:
        arguments["max_num_tokens"] = build.max_num_tokens
    if build.speculative == "prompt_lookup":
        arguments.update(_prompt_lookup(config, table))
    require_known(arguments, table)
    triton = {
        "max_batch_size": 0,
        "decoupled": repository.decoupled,
        "cancellation_check_period_ms": CANCELLATION_CHECK_PERIOD_MS,
    }
    return ModelArguments(arguments=arguments, triton=triton)


def require_known(arguments: Mapping[str, Any], table: ArgumentTable) -> None:
    """Check that the release has every argument.

    Raises:
        ConfigError: An argument is missing; the LLM API would reject it at start.
    """
    objects = {name.split(".")[0] for name in table.names if "." in name}
    unknown = sorted(set(argument_names(arguments)) - table.names - objects)
    if unknown:
        what = f"TensorRT-LLM {table.line} has no argument {', '.join(unknown)}"
        raise ConfigError(what, why="its LLM API rejects unknown keys")


def cuda_graph_batch_sizes(max_batch_size: int) -> list[int]:
    """Return the batch sizes to capture: dense for small ones, and including the largest.

    A batch between two sizes is padded to the larger one, which costs little if they are close.
    """
    fine = [1, 2, 4, *range(8, 129, 8)]
    coarse = [size for size in (256, 512, 1024, 2048) if size < max_batch_size]
    return sorted({size for size in fine if size < max_batch_size} | {*coarse, max_batch_size})


def _kv_cache(config: ForgeConfig, kv_fraction: float) -> dict[str, Any]:
    repository = config.repository
    settings: dict[str, Any] = {
        "enable_block_reuse": repository.enable_kv_cache_reuse,
        "free_gpu_memory_fraction": kv_fraction,
    }
    if repository.max_tokens_in_paged_kv_cache is not None:
        settings["max_tokens"] = repository.max_tokens_in_paged_kv_cache
    if config.build.kv_cache == "fp8":
        settings["dtype"] = "fp8"
    return settings


def _cuda_graphs(config: ForgeConfig) -> dict[str, Any] | None:
    if not config.build.cuda_graphs:
        return None
    sizes = cuda_graph_batch_sizes(config.build.max_batch_size)
    return {"enable_padding": True, "batch_sizes": sizes}


def _prompt_lookup(config: ForgeConfig, table: ArgumentTable) -> dict[str, Any]:
    """Return the n-gram drafter's settings; it cannot overlap the preparation of steps."""
    setting = prompt_lookup_for(config.build.max_batch_size, config.build.max_draft_len)
    speculative: dict[str, Any] = {
        "decoding_type": "NGram",
        "max_draft_len": setting.max_draft_len,
        "max_matching_ngram_size": setting.max_matching_ngram_size,
    }
    if "speculative_config.max_concurrency" in table.names:
        speculative["max_concurrency"] = setting.max_concurrency
    return {"speculative_config": speculative, "disable_overlap_scheduler": True}
