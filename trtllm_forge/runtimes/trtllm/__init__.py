"""The runtime for TensorRT engines, made by TensorRT-LLM's tools, served by its backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.config.command import build_command
from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.releases.flags import find_flags
from trtllm_forge.runtimes import EngineModel, Evidence
from trtllm_forge.runtimes.trtllm.compile import CompileStage, EngineLimits, Lora
from trtllm_forge.runtimes.trtllm.convert import ConvertStage
from trtllm_forge.runtimes.trtllm.mapping import require_mapping
from trtllm_forge.runtimes.trtllm.recipe import choose_recipe, has_paged_context
from trtllm_forge.runtimes.trtllm.speculation import choose_speculation
from trtllm_forge.runtimes.trtllm.tools import IMAGE_EXAMPLES_DIR
from trtllm_forge.triton.repository.names import ENGINE_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtllm_forge.checkpoint.architectures import Architecture
    from trtllm_forge.checkpoint.contents import CheckpointConfig
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.pipeline.stage import Stage
    from trtllm_forge.releases.flags import FlagTable
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.runtimes import RuntimeName
    from trtllm_forge.runtimes.trtllm.recipe import Recipe
    from trtllm_forge.runtimes.trtllm.tools import Tools

_FP8_LIKE = ("fp8", "nvfp4")


@dataclass(frozen=True, kw_only=True)
class TrtLlmRuntime:
    """TensorRT-LLM's C++ backend in the ``tensorrt_llm`` slot.

    Attributes:
        architecture: The model's architecture.
        tools: The release's tools, and the machine they run on.
        weights_bytes: Size of the HF checkpoint's weights, None if unknown.
        cache_dir: The store.
        has_examples: Whether the tools' examples folder is known to exist.
        own_architecture: Architecture of this machine's GPU, ``sm_90``, or empty for none.
            ``tools`` has the architecture of the engine's GPU, which the user may have named.
    """

    architecture: Architecture
    tools: Tools
    weights_bytes: int | None
    cache_dir: Path
    has_examples: bool
    own_architecture: str

    @property
    def name(self) -> RuntimeName:
        """Return the runtime's name."""
        return "trtllm"

    def require_support(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> None:
        """Raise for a precision, mapping, length or mode that the release does not support."""
        build = config.build
        recipe = self._recipe(config, checkpoint)
        converter = self._converter_table()
        require_mapping(config, checkpoint, self.tools.release, converter)
        self._require_script(config, recipe, converter)
        choose_speculation(config, self.tools.release)
        limit = checkpoint.max_seq_len
        if build.max_seq_len and limit and build.max_seq_len > limit:
            what = (
                f"max_seq_len is {build.max_seq_len} tokens, but the checkpoint's limit is {limit}"
            )
            raise ConfigError(what, hint=build_command(config, max_seq_len=limit))

    def _require_script(
        self, config: ForgeConfig, recipe: Recipe, converter: FlagTable | None
    ) -> None:
        """Raise for what would fail in the script, or what it would do without asking."""
        needs_code = converter is not None and ("--trust_remote_code",) in converter.needs
        if needs_code and recipe.tool == "convert_checkpoint":
            trusted = config.checkpoint.trust_remote_code
            if not trusted:
                what = f"{recipe.table.title} runs Python code from the checkpoint"
                why = "it does not start without --trust_remote_code"
                raise ConfigError(what, why=why, hint=build_command(config, trust_remote_code=True))
        # quantize.py looks for the family's name in the whole path, so "prompts" means MPT to it.
        # Source: NVIDIA/TensorRT-LLM@042c510d33e3 quantize_by_modelopt.py, get_model.
        is_mistaken = "mpt" in str(self.cache_dir).lower() and self.architecture.family != "mpt"
        if recipe.tool == "quantize" and is_mistaken:
            what = f'the path of the cache, {self.cache_dir}, contains "mpt"'
            why = "quantize.py treats every model below such a path as an MPT model"
            hint = f"FORGE_CACHE_DIR=/var/tmp/forge {build_command(config)}"
            raise ConfigError(what, why=why, hint=hint)
        dataset = config.build.calib_dataset
        is_local = dataset is not None and Path(dataset).expanduser().exists()
        if recipe.needs_calibration and config.offline and not is_local:
            what = f"precision {recipe.precision} needs calibration data, but offline is set"
            why = "the release's default data set would be downloaded from the Hub"
            if dataset is not None:
                why = f"there is no folder {dataset}, so it would be downloaded from the Hub"
            raise ConfigError(what, why=why, hint=build_command(config, calib_dataset="FOLDER"))

    def require_machine(self, reporter: Reporter, *, confirm: Callable[[str], bool]) -> None:
        """Check that the tools can run here, on the GPU the engine is for."""
        executor = self.tools.executor
        if executor.name == "local":
            executor.require(reporter, confirm=confirm)
        if not self.has_examples:
            release = self.tools.release.version
            what = f"TensorRT-LLM's examples, with the converters of {release}, are missing"
            why = (
                f"there are none in {IMAGE_EXAMPLES_DIR}; clone TensorRT-LLM and add "
                "--examples-dir TensorRT-LLM/examples"
            )
            repository = "https://github.com/NVIDIA/TensorRT-LLM"
            hint = f"git clone --depth 1 --branch v{release} {repository}"
            raise PrerequisiteError(what, why=why, hint=hint)
        wanted, found = self.tools.gpu_architecture, self.own_architecture
        if found and wanted != found:
            what = f"the engine is for a GPU with {wanted}, the one here has {found}"
            why = "TensorRT compiles for the GPU it runs on"
            raise PrerequisiteError(what, why=why)
        if executor.name == "docker":
            # Last, because it may pull an image of 14 GB.
            executor.require(reporter, confirm=confirm)

    def stages(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Stage]:
        """Return the stages that convert the checkpoint and build the engine."""
        build = config.build
        recipe = self._recipe(config, checkpoint)
        convert = ConvertStage(
            recipe=recipe,
            architecture=self.architecture,
            tp_size=build.tp_size,
            pp_size=build.pp_size,
            group_size=build.group_size,
            calib_dataset=build.calib_dataset,
            calib_size=build.calib_size,
            weights_bytes=self.weights_bytes,
            workers=build.workers,
            tools=self.tools,
        )
        compile_stage = CompileStage(
            recipe=recipe,
            table=self._build_table(),
            limits=EngineLimits(
                max_batch_size=build.max_batch_size,
                max_seq_len=build.max_seq_len or checkpoint.max_seq_len or None,
                max_num_tokens=build.max_num_tokens,
                max_beam_width=build.max_beam_width,
            ),
            tp_size=build.tp_size,
            pp_size=build.pp_size,
            gemm_plugin=build.gemm_plugin or _gemm_plugin(recipe),
            speculation=choose_speculation(config, self.tools.release),
            lora=_lora(config),
            gather_context_logits=build.gather_context_logits,
            workers=build.workers,
            cache_dir=self.cache_dir,
            tools=self.tools,
        )
        return [convert, compile_stage]

    def engine_model(self, config: ForgeConfig, kv_fraction: float) -> EngineModel:
        """Return the C++ backend's parameters.

        The backend resolves ``gpt_model_path`` against the server's working directory, so the
        path is absolute, below the folder where the repository is mounted.
        """
        repository, build = config.repository, config.build
        speculation = choose_speculation(config, self.tools.release)
        # Without paged context FMHA, the engine can neither share nor split prompts.
        is_paged = has_paged_context(build.precision, build.kv_cache)
        parameters = {
            "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
            "gpt_model_type": repository.batching_strategy,
            "gpt_model_path": f"{repository.mount_root.rstrip('/')}/{ENGINE_DIR}",
            "max_beam_width": str(build.max_beam_width),
            "batch_scheduler_policy": repository.batch_scheduler_policy,
            "kv_cache_free_gpu_mem_fraction": str(kv_fraction),
            "enable_kv_cache_reuse": _word(repository.enable_kv_cache_reuse and is_paged),
            "enable_chunked_context": _word(repository.enable_chunked_context and is_paged),
            "exclude_input_in_output": _word(repository.exclude_input_in_output),
            "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
            **speculation.parameters,
        }
        if repository.max_tokens_in_paged_kv_cache is not None:
            parameters["max_tokens_in_paged_kv_cache"] = str(
                repository.max_tokens_in_paged_kv_cache
            )
        return EngineModel(backend="tensorrtllm", parameters=parameters)

    def evidence(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Evidence]:
        """Return how well the flags of both tools are confirmed."""
        tables = (self._recipe(config, checkpoint).table, self._build_table())
        return [
            Evidence(subject=t.title, level=t.evidence, note=t.note, source=t.source)
            for t in tables
        ]

    def notes(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[str]:
        """Return what the user should know before the run."""
        notes = []
        recipe = self._recipe(config, checkpoint)
        if recipe.needs_calibration:
            dataset = config.build.calib_dataset
            if dataset is None:
                default = "cnn_dailymail"
                notes.append(
                    f"calibration: {recipe.table.title} downloads its default data set, {default}, "
                    "from the Hub; --calib-dataset DIR uses local texts"
                )
            elif not Path(dataset).expanduser().exists():
                notes.append(f"calibration: the data set {dataset} is downloaded from the Hub")
        if not recipe.has_paged_context:
            notes.append(
                f"block reuse and chunked context are off: TensorRT-LLM does not support them with "
                f"an {recipe.kv_cache} KV cache and {recipe.precision} weights"
            )
        if recipe.precision in self.architecture.unlisted:
            notes.append(
                f"quantize.py lists {self.architecture.name}, but no upstream table lists "
                f"{recipe.precision} for it"
            )
        documented = self.tools.release.gpu_architectures
        architecture = self.tools.gpu_architecture
        if architecture and architecture not in documented:
            notes.append(
                f"TensorRT-LLM {self.tools.release.version} does not list {architecture} among "
                f"its GPUs: {', '.join(documented)}"
            )
        return notes

    def _recipe(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Recipe:
        return choose_recipe(
            config, checkpoint, self.architecture, self.tools.release, sm=self.tools.sm
        )

    def _converter_table(self) -> FlagTable | None:
        return find_flags(
            "convert_checkpoint", self.tools.release, family=self.architecture.converter
        )

    def _build_table(self) -> FlagTable:
        table = find_flags("trtllm_build", self.tools.release)
        if table is None:
            version = self.tools.release.version
            what = f"forge does not know which flags trtllm-build has in TensorRT-LLM {version}"
            raise ConfigError(what)
        return table


def _gemm_plugin(recipe: Recipe) -> str:
    """Return the plugin for a precision; TensorRT's own kernels are faster for fp8."""
    return "disable" if recipe.precision in _FP8_LIKE else "auto"


def _lora(config: ForgeConfig) -> Lora | None:
    build = config.build
    if build.lora_dir is None:
        return None
    lora_dir = Path(build.lora_dir).expanduser().absolute()
    if not lora_dir.is_dir():
        what = f"lora_dir {lora_dir} is not a folder"
        why = "it must hold adapter_config.json and the adapter's weights"
        raise ConfigError(what, why=why)
    modules = (build.lora_target_modules or "").split(",")
    return Lora(
        lora_dir=lora_dir,
        target_modules=tuple(module.strip() for module in modules if module.strip()),
        max_rank=build.max_lora_rank,
    )


def _word(value: bool) -> str:
    return "true" if value else "false"
