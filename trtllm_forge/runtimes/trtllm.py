"""The TensorRT engine's runtime. This release renders its repository and does not build engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.runtimes import ENGINE_DIR, EngineModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.checkpoint import CheckpointConfig
    from trtllm_forge.config.models import ForgeConfig
    from trtllm_forge.pipeline.stage import Stage
    from trtllm_forge.runtimes import RuntimeName


class TrtLlmRuntime:
    """TensorRT-LLM's C++ backend in the ``tensorrt_llm`` slot."""

    @property
    def name(self) -> RuntimeName:
        """Return the word the runtime is known by."""
        return "trtllm"

    def require_support(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> None:
        """Accept everything: without an engine nothing can be unsupported yet."""

    def require_machine(self) -> None:
        """Accept: there is nothing to build, so nothing can be missing."""

    def stages(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Stage]:
        """Raise: the stages that make an engine are not in this release."""
        raise _not_built(str(config.model))

    def engine_model(self, config: ForgeConfig, kv_fraction: float) -> EngineModel:
        """Return the C++ backend's parameters.

        The backend resolves ``gpt_model_path`` against the server's working directory, so the
        path is absolute, below the folder the repository is deployed to.
        """
        repository = config.repository
        parameters = {
            "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
            "gpt_model_type": repository.batching_strategy,
            "gpt_model_path": f"{repository.mount_root.rstrip('/')}/{ENGINE_DIR}",
            "max_beam_width": str(config.build.max_beam_width),
            "batch_scheduler_policy": repository.batch_scheduler_policy,
            "kv_cache_free_gpu_mem_fraction": str(kv_fraction),
            "enable_kv_cache_reuse": str(repository.enable_kv_cache_reuse).lower(),
            "enable_chunked_context": str(repository.enable_chunked_context).lower(),
            "exclude_input_in_output": str(repository.exclude_input_in_output).lower(),
            "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
        }
        if repository.max_tokens_in_paged_kv_cache is not None:
            parameters["max_tokens_in_paged_kv_cache"] = str(
                repository.max_tokens_in_paged_kv_cache
            )
        return EngineModel(backend="tensorrtllm", parameters=parameters)


def _not_built(model: str) -> PrerequisiteError:
    what = "this release of forge builds no TensorRT engines"
    why = "for runtime trtllm it renders the repository alone: forge render"
    return PrerequisiteError(what, why=why, hint=f"forge build {model} --runtime openvino")
