"""The CPU twin's runtime: OpenVINO GenAI in the slot of the TensorRT engine."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from trtllm_forge.config.command import build_command
from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.runtimes import EngineModel
from trtllm_forge.runtimes.openvino.compile import CompileStage
from trtllm_forge.triton.repository.names import CORE, ENGINE_DIR, MEETING_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trtllm_forge.checkpoint.contents import CheckpointConfig
    from trtllm_forge.config.schema import ForgeConfig, Precision
    from trtllm_forge.pipeline.stage import Stage
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.runtimes import Evidence, RuntimeName

_PRECISIONS = ("fp16", "int8", "int4")
_PACKAGES = ("openvino-genai", "optimum-intel", "nncf", "torch", "transformers")
# Including their dependencies that affect the artifact's bytes.
_VERSIONED = (*_PACKAGES, "openvino", "optimum", "tokenizers")
_DEFAULT_MAX_NUM_TOKENS = 2048
_DRAFT_TOKENS = 5
_DRAFT_NGRAM = 3
_NEAREST: Mapping[Precision, Precision] = {
    "int4_awq": "int4",
    "int4_gptq": "int4",
    "w4a8_awq": "int4",
    "nvfp4": "int4",
    "int8_sq": "int8",
    "fp8": "int8",
}
"""The twin's precision nearest in size to each precision of TensorRT-LLM."""


class OpenVinoRuntime:
    """Exports the checkpoint to an OpenVINO model and serves it with continuous batching."""

    @property
    def name(self) -> RuntimeName:
        """Return the runtime's name."""
        return "openvino"

    def require_support(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> None:
        """Raise for a precision, mapping or length that the twin does not support."""
        build = config.build
        length = checkpoint.max_seq_len
        if build.precision not in _PRECISIONS:
            what = f"runtime openvino does not support precision {build.precision}"
            why = f"it supports {', '.join(_PRECISIONS)}"
            raise ConfigError(
                what,
                why=why,
                hint=build_command(config, precision=_NEAREST.get(build.precision, "fp16")),
            )
        if build.tp_size * build.pp_size != 1:
            what = (
                f"runtime openvino has world size 1, {build.tp_size * build.pp_size} was requested"
            )
            why = f"build.tp_size = {build.tp_size}, build.pp_size = {build.pp_size}"
            raise ConfigError(what, why=why, hint=build_command(config, tp_size=1, pp_size=1))
        self._require_options(config)
        if build.max_seq_len and length and build.max_seq_len > length:
            what = (
                f"max_seq_len is {build.max_seq_len} tokens, but the checkpoint's limit is {length}"
            )
            raise ConfigError(what, hint=build_command(config, max_seq_len=length))
        if not (build.max_seq_len or length):
            what = f"{config.model} does not state how many tokens a request may have"
            why = "its config.json has no max_position_embeddings, and build.max_seq_len is unset"
            raise ConfigError(what, why=why, hint=build_command(config, max_seq_len=2048))

    def _require_options(self, config: ForgeConfig) -> None:
        """Raise for options that only TensorRT-LLM supports."""
        build = config.build
        only_there = {
            "kv_cache": build.kv_cache,
            "gemm_plugin": build.gemm_plugin,
            "gather_context_logits": build.gather_context_logits,
            "lora_dir": build.lora_dir,
        }
        for name, value in only_there.items():
            if value:
                what = f"runtime openvino does not support {name} {value}".removesuffix(" True")
                hint = build_command(config, runtime="trtllm")
                raise ConfigError(what, why="only TensorRT-LLM has it", hint=hint)
        if build.speculative not in ("none", "prompt_lookup"):
            what = f"runtime openvino does not support speculative {build.speculative}"
            why = "without a second model, OpenVINO GenAI drafts only from the prompt's n-grams"
            raise ConfigError(
                what, why=why, hint=build_command(config, speculative="prompt_lookup")
            )
        if build.speculative == "none" and build.max_draft_len is not None:
            what = f"max_draft_len is {build.max_draft_len}, but speculative is none"
            hint = build_command(config, speculative="prompt_lookup")
            raise ConfigError(what, hint=hint)
        if build.speculative != "none" and build.max_beam_width > 1:
            what = f"max_beam_width is {build.max_beam_width}, but prompt lookup needs 1"
            raise ConfigError(what, hint=build_command(config, max_beam_width=1))

    def require_machine(self, reporter: Reporter, *, confirm: Callable[[str], bool]) -> None:
        """Check that the packages for export and serving are installed."""
        if sys.version_info >= (3, 13):
            what = (
                f"runtime openvino needs Python 3.10 to 3.12, this is {platform.python_version()}"
            )
            why = "the Triton wheel needs numpy below 2, which has no build for Python 3.13"
            raise PrerequisiteError(what, why=why, hint="python3.12 -m venv .venv")
        missing = [name for name in _PACKAGES if _version(name) is None]
        if missing:
            what = f"runtime openvino needs {', '.join(missing)}"
            why = "the extra `cpu` is not installed in this environment"
            raise PrerequisiteError(what, why=why, hint="pip install 'trtllm-forge[cpu]'")

    def stages(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Stage]:
        """Return the one stage that exports the OpenVINO model."""
        build = config.build
        stage = CompileStage(
            precision=build.precision,
            group_size=build.group_size,
            int4_ratio=build.int4_ratio,
            max_seq_len=build.max_seq_len or checkpoint.max_seq_len,
            tokenizer_type=config.repository.tokenizer_type,
            trust_remote_code=config.checkpoint.trust_remote_code,
            versions={name: _version(name) or "absent" for name in _VERSIONED},
        )
        return [stage]

    def engine_model(self, config: ForgeConfig, kv_fraction: float) -> EngineModel:
        """Return the Python model over OpenVINO GenAI, with the contract's parameter names."""
        repository = config.repository
        parameters = {
            # Triton's python backend rejects everything but yes and no, even an empty value.
            "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
            "gpt_model_type": repository.batching_strategy,
            "gpt_model_path": ENGINE_DIR,
            "max_beam_width": str(config.build.max_beam_width),
            "max_num_tokens": str(config.build.max_num_tokens or _DEFAULT_MAX_NUM_TOKENS),
            "kv_cache_free_gpu_mem_fraction": str(kv_fraction),
            "enable_kv_cache_reuse": _word(repository.enable_kv_cache_reuse),
            "enable_chunked_context": _word(repository.enable_chunked_context),
            "exclude_input_in_output": _word(repository.exclude_input_in_output),
            "stream_interval_ms": str(repository.stream_interval_ms),
            "fast_math": _word(repository.fast_math),
            "engine_threads": str(repository.engine_threads),
        }
        if config.build.speculative == "prompt_lookup":
            parameters["max_draft_len"] = str(config.build.max_draft_len or _DRAFT_TOKENS)
            parameters["max_matching_ngram_size"] = str(_DRAFT_NGRAM)
        if repository.max_tokens_in_paged_kv_cache is not None:
            parameters["max_tokens_in_paged_kv_cache"] = str(
                repository.max_tokens_in_paged_kv_cache
            )
        return EngineModel(
            backend="python",
            parameters=parameters,
            python_files=tuple(
                f"{CORE}/1/{name}.py"
                for name in (
                    "model",
                    "answers",
                    "dispatcher",
                    "engine",
                    "engine_loop",
                    "engine_metrics",
                    "engine_process",
                    "engine_worker",
                    "generation",
                    "outbox",
                    MEETING_FILE.removesuffix(".py"),
                    "request_reader",
                    "wire",
                )
            ),
        )

    def evidence(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Evidence]:
        """Return nothing: the packages for export are installed here, with known versions."""
        return ()

    def notes(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[str]:
        """Return no notes."""
        return ()


def _word(value: bool) -> str:
    return "true" if value else "false"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
