"""The runtime for TensorRT-LLM's PyTorch backend behind Triton's llmapi model.

Nothing is converted or compiled: it serves the HF checkpoint itself, with the arguments in
``model.yaml``; see ``model_yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.config.command import build_command
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.releases.llmapi_arguments import read_arguments
from trtllm_forge.runtimes import EngineModel, Evidence
from trtllm_forge.runtimes.llmapi.model_yaml import MODEL_YAML, model_arguments
from trtllm_forge.runtimes.llmapi.quantization import require_gpu, require_precision
from trtllm_forge.triton.repository.names import CHECKPOINT_DIR, CORE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtllm_forge.checkpoint.contents import CheckpointConfig
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.pipeline.stage import Stage
    from trtllm_forge.releases.catalogue import Release
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.runtimes import RuntimeName

__all__ = ["LlmApiRuntime", "release_of"]

_PYTHON_FILES = tuple(
    f"llmapi/{CORE}/1/{name}.py"
    for name in ("model", "llm_answer", "llm_loop", "llm_request", "llm_settings")
)


@dataclass(frozen=True, kw_only=True)
class LlmApiRuntime:
    """Serves the HF checkpoint through ``tensorrt_llm.LLM``.

    Attributes:
        gpu_architecture: The GPU it will run on, ``sm_90``, or empty if unknown.
    """

    gpu_architecture: str = ""

    @property
    def name(self) -> RuntimeName:
        """Return the runtime's name."""
        return "llmapi"

    def require_support(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> None:
        """Reject what the release's PyTorch backend does not support.

        The choice of the runtime has already checked the architecture.

        Raises:
            ConfigError: The release has no LLM API, or does not support the quantisation, or an
                option is only for engines.
        """
        read_arguments(release_of(config))
        recipe = require_precision(config, checkpoint)
        if self.gpu_architecture:
            require_gpu(recipe, config.build.kv_cache, self.gpu_architecture)
        _require_options(config, checkpoint)

    def require_machine(self, reporter: Reporter, *, confirm: Callable[[str], bool]) -> None:
        """Do nothing: there is nothing to build, so nothing can be missing."""

    def stages(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Stage]:
        """Return no stages: the checkpoint is served as downloaded."""
        return ()

    def engine_model(self, config: ForgeConfig, kv_fraction: float) -> EngineModel:
        """Return the Python model over the LLM API, and its ``model.yaml``."""
        table = read_arguments(release_of(config))
        text = model_arguments(config, kv_fraction, table).text()
        return EngineModel(
            backend="python",
            parameters={},
            python_files=_PYTHON_FILES,
            layout="llmapi",
            text_files={MODEL_YAML: text},
            checkpoint_dir=CHECKPOINT_DIR,
        )

    def evidence(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Evidence]:
        """Return how well the release's arguments of ``tensorrt_llm.LLM`` are confirmed."""
        release = release_of(config)
        table = read_arguments(release)
        return [
            Evidence(
                subject=f"tensorrt_llm.LLM of TensorRT-LLM {release.version}",
                level=table.evidence,
                note=table.note,
                source=table.source,
            )
        ]

    def notes(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[str]:
        """Warn if it is unknown since when the backend supports the architecture."""
        architecture = find_architecture(checkpoint.architecture, model=str(config.model))
        if architecture.pytorch_since is None:
            release = release_of(config).version
            return (f"it is not known whether TensorRT-LLM {release} supports {architecture.name}",)
        return ()


def release_of(config: ForgeConfig) -> Release:
    """Return the release a configuration names, or else the newest with an image.

    Raises:
        ConfigError: The named release does not exist.
    """
    catalogue = read_catalogue(config.releases_file)
    newest = catalogue.newest("llmapi")
    if config.trtllm_version is None and newest is not None:
        return newest
    return catalogue.find(str(config.trtllm_version))


def _require_options(config: ForgeConfig, checkpoint: CheckpointConfig) -> None:
    build = config.build
    length = checkpoint.max_seq_len
    if build.kv_cache == "int8":
        what = "runtime llmapi has no int8 KV cache"
        why = "the PyTorch backend's KV cache has the type of the activations, or fp8"
        raise ConfigError(what, why=why, hint=_again(config, kv_cache="fp8"))
    if build.speculative not in ("none", "prompt_lookup"):
        what = f"runtime llmapi does not support speculative {build.speculative}"
        why = "without a second model, the PyTorch backend drafts only from n-grams"
        raise ConfigError(what, why=why, hint=_again(config, speculative="prompt_lookup"))
    if build.max_beam_width > 1:
        what = f"runtime llmapi has 1 beam, {build.max_beam_width} were requested"
        why = "Triton's llmapi model has no input for a beam width"
        raise ConfigError(what, why=why, hint=_again(config, max_beam_width=1))
    if build.lora_dir:
        what = "runtime llmapi does not support LoRA adapters"
        why = "up to 1.2, Triton's llmapi model has no input to choose one"
        raise ConfigError(what, why=why, hint=_again(config, lora_dir=None))
    if build.max_seq_len and length and build.max_seq_len > length:
        what = f"max_seq_len is {build.max_seq_len} tokens, but the checkpoint's limit is {length}"
        raise ConfigError(what, hint=_again(config, max_seq_len=length))


def _again(config: ForgeConfig, **changes: str | int | None) -> str:
    """Return the same build with the runtime stated, even if it was chosen automatically."""
    return build_command(config, runtime="llmapi", **changes)
