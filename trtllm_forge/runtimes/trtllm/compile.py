"""The ``compile`` stage: build an engine from a TRT-LLM checkpoint with ``trtllm-build``.

The artifact holds the tool's output, ``config.json`` and one ``rank{N}.engine`` per rank, the
tokenizer's files, and ``engine.json`` (see ``runtimes.trtllm.engine``). The timing cache stays in
the store, per release and GPU architecture, outside the artifacts.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.docker import Mount
from trtllm_forge.releases.flags import CommandLine
from trtllm_forge.runtimes.trtllm.engine import ExpectedEngine, read_engine, write_engine_document
from trtllm_forge.runtimes.trtllm.tools import naming_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.releases.flags import FlagTable
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.runtimes.trtllm.recipe import Recipe
    from trtllm_forge.runtimes.trtllm.speculation import Speculation
    from trtllm_forge.runtimes.trtllm.tools import Tools

TIMING_DIR = "timing-cache"
"""Folder in the store for TensorRT's timing caches."""


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """The limits an engine is compiled for; None leaves the release's default.

    Attributes:
        max_batch_size: Requests per step.
        max_seq_len: Prompt plus output tokens of one request.
        max_num_tokens: Tokens per step over all requests.
        max_beam_width: Beams of one request.
    """

    max_batch_size: int
    max_seq_len: int | None
    max_num_tokens: int | None
    max_beam_width: int


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The adapter an engine is built for."""

    lora_dir: Path
    target_modules: tuple[str, ...]
    max_rank: int


@dataclass(frozen=True, kw_only=True)
class CompileStage:
    """Builds the engine.

    Attributes:
        recipe: How its weights were made.
        table: ``trtllm-build``'s options in the release.
        limits: The engine's limits.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        gemm_plugin: Value of ``--gemm_plugin``.
        speculation: The speculative mode.
        lora: The adapter, or None.
        gather_context_logits: Whether to keep the logits of the prompt.
        workers: Ranks built at once, None for one per GPU.
        cache_dir: The store, which holds the timing caches.
        tools: The release's tools.
    """

    recipe: Recipe
    table: FlagTable
    limits: EngineLimits
    tp_size: int
    pp_size: int
    gemm_plugin: str
    speculation: Speculation
    lora: Lora | None
    gather_context_logits: bool
    workers: int | None
    cache_dir: Path
    tools: Tools

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return "compile"

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """Return what the engine depends on, including its GPU architecture."""
        from trtllm_forge.files.digest import sha256_tree

        limits = self.limits
        lora: dict[str, JsonValue] = {}
        if self.lora is not None:
            lora = {
                "lora_sha256": sha256_tree(self.lora.lora_dir),
                "lora_target_modules": list(self.lora.target_modules),
                "max_lora_rank": self.lora.max_rank,
            }
        return {
            "runtime": "trtllm",
            "gpu_architecture": self.tools.gpu_architecture,
            "max_batch_size": limits.max_batch_size,
            "max_seq_len": limits.max_seq_len,
            "max_num_tokens": limits.max_num_tokens,
            "max_beam_width": limits.max_beam_width,
            "gemm_plugin": self.gemm_plugin,
            "speculative_decoding_mode": self.speculation.mode,
            "max_draft_len": self.speculation.max_draft_len,
            "gather_context_logits": self.gather_context_logits,
            **lora,
        }

    @property
    def tool_versions(self) -> Mapping[str, str]:
        """Return the release and, if known, its TensorRT version."""
        release = self.tools.release
        image = release.image
        tensorrt = image.versions.get("tensorrt") if image else release.versions.get("tensorrt")
        return {
            "tensorrt_llm": release.version,
            **({"tensorrt": tensorrt} if tensorrt else {}),
        }

    @property
    def outputs(self) -> Sequence[str]:
        """Return the configuration, one engine per rank, and forge's own description."""
        ranks = range(self.tp_size * self.pp_size)
        return ("config.json", "engine.json", *(f"rank{rank}.engine" for rank in ranks))

    @property
    def timing_cache_path(self) -> Path:
        """Return the path of TensorRT's timings for this release and GPU, kept between builds."""
        release = self.tools.release.version
        architecture = self.tools.gpu_architecture or "unknown"
        return self.cache_dir / TIMING_DIR / f"{release}-{architecture}.cache"

    def commands(self, work_dir: Path, inputs: Mapping[str, Path]) -> Sequence[Command]:
        """Return the one command that builds the engine."""
        line = CommandLine(table=self.table)
        line.option("--checkpoint_dir", inputs["convert"])
        line.option("--output_dir", work_dir)
        self._limits(line)
        line.option("--gpt_attention_plugin", "auto")
        line.option("--gemm_plugin", self.gemm_plugin)
        # In-flight batching: requests of any length share a step, over a paged KV cache.
        line.option("--remove_input_padding", "enable")
        line.option("--kv_cache_type", "paged")
        paged_context = "enable" if self.recipe.has_paged_context else "disable"
        line.option("--use_paged_context_fmha", paged_context)
        if self.recipe.kv_cache == "fp8" and self.recipe.has_paged_context:
            line.option("--use_fp8_context_fmha", "enable")
        if self.gather_context_logits:
            line.switch("--gather_context_logits")
        if self.speculation.mode:
            line.option("--speculative_decoding_mode", self.speculation.mode)
            line.option("--max_draft_len", self.speculation.max_draft_len)
        if self.lora is not None:
            line.option("--lora_plugin", "auto")
            line.option("--lora_dir", self.lora.lora_dir)
            if self.lora.target_modules:
                line.option("--lora_target_modules", *self.lora.target_modules)
            line.option("--max_lora_rank", self.lora.max_rank)
        line.option("--workers", self._workers())
        scratch = _scratch_timing_cache(work_dir)
        if self.timing_cache_path.exists():
            line.option("--input_timing_cache", scratch)
        line.option("--output_timing_cache", scratch)
        command = self.tools.command(
            (self.tools.builder, *line.argv),
            stage=self.name,
            work_dir=work_dir,
            mounts=self._mounts(),
        )
        return (command,)

    def run(self, work_dir: Path, inputs: Mapping[str, Path], reporter: Reporter) -> None:
        """Build the engine, compare it with the request, and write ``engine.json``."""
        scratch = _scratch_timing_cache(work_dir)
        if self.timing_cache_path.exists():
            shutil.copyfile(self.timing_cache_path, scratch)
        commands = self.commands(work_dir, inputs)
        self.tools.run(commands, stage=self.name, work_dir=work_dir, reporter=reporter)
        self._keep_timing_cache(scratch)
        with naming_log(work_dir):
            engine = read_engine(work_dir)
            engine.require(self._expected())
        write_engine_document(
            work_dir, engine, inputs["download"], gpu_architecture=self.tools.gpu_architecture
        )

    def _limits(self, line: CommandLine) -> None:
        limits = self.limits
        line.option("--max_batch_size", limits.max_batch_size)
        line.option("--max_beam_width", limits.max_beam_width)
        if limits.max_seq_len is not None:
            line.option("--max_seq_len", limits.max_seq_len)
            # The default of 1024 would cut longer prompts; one token must fit after them.
            line.option("--max_input_len", max(1, limits.max_seq_len - 1))
        if limits.max_num_tokens is not None:
            line.option("--max_num_tokens", limits.max_num_tokens)

    def _workers(self) -> int:
        world_size = self.tp_size * self.pp_size
        if self.workers is not None:
            return min(self.workers, world_size)
        # The tool does not accept more workers than visible GPUs.
        return max(1, min(world_size, self.tools.gpu_count or world_size))

    def _mounts(self) -> tuple[Mount, ...]:
        if self.lora is None:
            return ()
        path = self.lora.lora_dir
        return (Mount(source=path, target=str(path), read_only=True),)

    def _expected(self) -> ExpectedEngine:
        return ExpectedEngine(
            version=self.tools.release.version,
            tp_size=self.tp_size,
            pp_size=self.pp_size,
            max_batch_size=self.limits.max_batch_size,
            max_seq_len=self.limits.max_seq_len,
            max_num_tokens=self.limits.max_num_tokens,
            max_beam_width=self.limits.max_beam_width,
            precision=self.recipe.precision,
            quant_algo=self.recipe.quant_algo,
        )

    def _keep_timing_cache(self, scratch: Path) -> None:
        if not scratch.exists():
            return
        kept = self.timing_cache_path
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Replaced, not rewritten, because another build may be reading it.
        partial = kept.with_name(f"{kept.name}.{scratch.parent.name}")
        shutil.copyfile(scratch, partial)
        partial.replace(kept)
        scratch.unlink()


def _scratch_timing_cache(work_dir: Path) -> Path:
    return work_dir / "timing.cache"
