"""The ``convert`` stage: make a TRT-LLM checkpoint of one precision from an HF checkpoint.

The release's own scripts do the work: ``convert_checkpoint.py`` for plain and weight-only
weights and for checkpoints that are already quantised, ``quantize.py`` for precisions that need
sample texts. They write the artifact: ``config.json`` and one ``rank{N}.safetensors`` per rank.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import BuildError
from trtllm_forge.machine.process.docker import Mount
from trtllm_forge.releases.flags import CommandLine
from trtllm_forge.runtimes.trtllm.tools import naming_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.checkpoint.architectures import Architecture
    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.runtimes.trtllm.recipe import Recipe
    from trtllm_forge.runtimes.trtllm.tools import Tools

# A model larger than this share of the GPU's memory is converted on the CPU.
_GPU_SHARE = 0.8
# Upstream's instructions for these switch off the unified converter.
# Source: NVIDIA/TensorRT-LLM@258c7540c035:examples/granite/README.md.
_OF_OWN_CONVERTER = ("GraniteForCausalLM", "GraniteMoeForCausalLM")
# The precisions with one scale per group of weights, whose size is an option of quantize.py.
_GROUPED = ("int4_awq", "w4a8_awq")


@dataclass(frozen=True, kw_only=True)
class ConvertStage:
    """Makes the TRT-LLM checkpoint.

    Attributes:
        recipe: How the precision is made.
        architecture: The model's architecture.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        group_size: Weights per scale, for ``int4_awq`` and ``w4a8_awq``.
        calib_dataset: Folder or Hub name of calibration data, None for the release's default.
        calib_size: Number of calibration samples.
        weights_bytes: Size of the HF checkpoint's weights, None if unknown.
        workers: Ranks converted at once, None to choose by the machine.
        tools: The release's scripts.
    """

    recipe: Recipe
    architecture: Architecture
    tp_size: int
    pp_size: int
    group_size: int
    calib_dataset: str | None
    calib_size: int
    weights_bytes: int | None
    workers: int | None
    tools: Tools

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return "convert"

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """Return what the checkpoint depends on; not the workers or the machine."""
        recipe = self.recipe
        calibration: dict[str, JsonValue] = {}
        if recipe.needs_calibration:
            calibration = {
                "calib_dataset": self._calibration_name(),
                "calib_size": self.calib_size,
            }
        if recipe.precision in _GROUPED:
            calibration["group_size"] = self.group_size
        return {
            "tool": recipe.tool,
            "family": self.architecture.converter,
            "gpt_variant": self.architecture.gpt_variant,
            "precision": recipe.precision,
            "dtype": recipe.dtype,
            "kv_cache": recipe.kv_cache,
            "tp_size": self.tp_size,
            "pp_size": self.pp_size,
            **calibration,
        }

    @property
    def tool_versions(self) -> Mapping[str, str]:
        """Return the release, which includes the scripts."""
        return {"tensorrt_llm": self.tools.release.version}

    @property
    def outputs(self) -> Sequence[str]:
        """Return the configuration and one file per rank."""
        ranks = range(self.tp_size * self.pp_size)
        return ("config.json", *(f"rank{rank}.safetensors" for rank in ranks))

    def commands(self, work_dir: Path, inputs: Mapping[str, Path]) -> Sequence[Command]:
        """Return the one command that makes the TRT-LLM checkpoint."""
        line = CommandLine(table=self.recipe.table)
        if self.recipe.tool == "quantize":
            self._quantize(line, work_dir, inputs["download"])
        else:
            self._convert(line, work_dir, inputs["download"])
        script = self.tools.script(self.recipe.table.path)
        command = self.tools.command(
            (self.tools.python, script, *line.argv),
            stage=self.name,
            work_dir=work_dir,
            mounts=self._calibration_mounts(),
            needs_network=self.downloads_calibration,
            variables=self._variables(),
        )
        return (command,)

    @property
    def downloads_calibration(self) -> bool:
        """Return whether the script downloads its sample texts."""
        return self.recipe.needs_calibration and not self._has_local_calibration()

    def run(self, work_dir: Path, inputs: Mapping[str, Path], reporter: Reporter) -> None:
        """Run the script and read its configuration back."""
        commands = self.commands(work_dir, inputs)
        self.tools.run(commands, stage=self.name, work_dir=work_dir, reporter=reporter)
        with naming_log(work_dir):
            self._require_agreement(work_dir)
            self._require_rank_files(work_dir)

    def _convert(self, line: CommandLine, work_dir: Path, checkpoint_dir: Path) -> None:
        """Add the options of ``convert_checkpoint.py``; families spell some differently."""
        table = line.table
        for flag, *values in table.needs:
            if values:
                line.option(flag, *values)
            else:
                line.switch(flag)
        line.option(_spelling(table.flags, "--model_dir", "--model-dir"), checkpoint_dir)
        line.option(_spelling(table.flags, "--output_dir", "--output-model-dir"), work_dir)
        if self.architecture.gpt_variant:
            line.option("--gpt_variant", self.architecture.gpt_variant)
        line.option("--dtype", self.recipe.dtype)
        line.option(
            _spelling(table.flags, "--tp_size", "--world-size", "--world_size"), self.tp_size
        )
        if self.pp_size > 1 or table.has("--pp_size"):
            line.option("--pp_size", self.pp_size)
        if self.recipe.precision in ("int8", "int4"):
            _weight_only(line, self.recipe.precision)
        if self._is_too_large_for_gpu():
            for switch in ("--load_model_on_cpu", "--load_by_shard"):
                if table.has(switch):
                    line.switch(switch)
                    break
        line.option_if_known("--workers", self._workers())

    def _quantize(self, line: CommandLine, work_dir: Path, checkpoint_dir: Path) -> None:
        recipe = self.recipe
        line.option("--model_dir", checkpoint_dir)
        line.option("--output_dir", work_dir)
        line.option("--dtype", recipe.dtype)
        line.option("--qformat", recipe.qformat)
        line.option("--tp_size", self.tp_size)
        line.option("--pp_size", self.pp_size)
        if recipe.kv_cache:
            line.option("--kv_cache_dtype", recipe.kv_cache)
        if recipe.precision in _GROUPED:
            line.option("--awq_block_size", self.group_size)
        if recipe.needs_calibration:
            line.option("--calib_size", self.calib_size)
            if self.calib_dataset is not None:
                line.option("--calib_dataset", self._calibration_path())

    def _variables(self) -> dict[str, str]:
        needs_own = self.architecture.name in _OF_OWN_CONVERTER
        if needs_own and self.recipe.tool == "convert_checkpoint":
            return {"TRTLLM_DISABLE_UNIFIED_CONVERTER": "1"}
        return {}

    def _workers(self) -> int:
        """Return how many ranks to convert at once; each one holds the whole model."""
        world_size = self.tp_size * self.pp_size
        if self.workers is not None:
            return min(self.workers, world_size)
        if not self.weights_bytes:
            return 1
        fitting = self.tools.free_memory_bytes // self.weights_bytes
        return max(1, min(world_size, fitting, self.tools.cpu_count))

    def _is_too_large_for_gpu(self) -> bool:
        memory = self.tools.gpu_memory_bytes
        return bool(memory and (self.weights_bytes or 0) > _GPU_SHARE * memory)

    def _has_local_calibration(self) -> bool:
        return self.calib_dataset is not None and Path(self.calib_dataset).expanduser().exists()

    def _calibration_path(self) -> str:
        assert self.calib_dataset is not None
        if self._has_local_calibration():
            return os.fspath(Path(self.calib_dataset).expanduser().resolve())
        return self.calib_dataset

    def _calibration_name(self) -> str:
        if self.calib_dataset is None:
            return "default of the release"
        if not self._has_local_calibration():
            return self.calib_dataset
        from trtllm_forge.files.digest import sha256_file, sha256_tree

        path = Path(self._calibration_path())
        return f"sha256:{sha256_tree(path) if path.is_dir() else sha256_file(path)}"

    def _calibration_mounts(self) -> tuple[Mount, ...]:
        if not (self.recipe.needs_calibration and self._has_local_calibration()):
            return ()
        path = Path(self._calibration_path())
        return (Mount(source=path, target=str(path), read_only=True),)

    def _require_rank_files(self, work_dir: Path) -> None:
        names = [f"rank{rank}.safetensors" for rank in range(self.tp_size * self.pp_size)]
        paths = [work_dir / name for name in names]
        missing = [p.name for p in paths if not p.is_file() or not p.stat().st_size]
        if missing:
            found = len(names) - len(missing)
            what = f"the converted checkpoint has {found} of {len(names)} rank files"
            verb = "is" if len(missing) == 1 else "are"
            why = f"{', '.join(missing)} {verb} missing or empty"
            raise BuildError(what, why=f"the converter ended without an error, but {why}")

    def _require_agreement(self, work_dir: Path) -> None:
        """Check that the checkpoint is the requested one.

        Source: facts on config.json of a TRT-LLM checkpoint, ``mapping`` and ``quantization``.
        """
        path = work_dir / "config.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            mapping, quantization = document["mapping"], document["quantization"]
            found = (mapping["tp_size"], mapping["pp_size"], quantization["quant_algo"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = "convert ended without an error, but its config.json is invalid"
            raise BuildError(what, why=f"{type(error).__name__}: {error}") from error
        wanted = (self.tp_size, self.pp_size, self.recipe.quant_algo)
        if found != wanted and not self._is_near(found):
            names = ("tp_size", "pp_size", "quant_algo")
            what = f"the converted checkpoint has {_pairs(names, found)}"
            raise BuildError(what, why=f"expected {_pairs(names, wanted)}")

    def _is_near(self, found: tuple[object, object, object]) -> bool:
        # SmoothQuant's name includes the kind of scales, which ModelOpt chooses.
        sizes_agree = found[:2] == (self.tp_size, self.pp_size)
        is_named = str(found[2]).startswith(("W8A8_SQ_", "W8A16_GPTQ", "W4A16_"))
        return sizes_agree and is_named and self.recipe.precision in ("int8_sq", "int4_gptq")


def _pairs(names: Sequence[str], values: Sequence[object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))


def _spelling(flags: Mapping[str, object], *spellings: str) -> str:
    return next((name for name in spellings if name in flags), spellings[0])


def _weight_only(line: CommandLine, precision: str) -> None:
    if line.table.has("--use_weight_only"):
        line.switch("--use_weight_only")
        line.option("--weight_only_precision", precision)
    else:
        line.option("--use-weight-only-with-precision", precision)
