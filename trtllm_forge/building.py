"""A build from MODEL to a repository: puts the stages together, plans, runs, publishes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError
from trtllm_forge.pipeline.lock import LOCK_NAME, read_lock
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.publish import (
    is_published,
    publish_entry,
    require_own_folder,
    warn_of_edits,
)
from trtllm_forge.pipeline.run import lock_of, run_plan
from trtllm_forge.pipeline.store import Store
from trtllm_forge.runtimes import choose_runtime
from trtllm_forge.stages.download import DownloadStage, resolve_checkpoint
from trtllm_forge.stages.render import RenderStage
from trtllm_forge.triton.contract import read_contract

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.config.models import ForgeConfig
    from trtllm_forge.pipeline.plan import PlannedStage
    from trtllm_forge.pipeline.run import StageResult
    from trtllm_forge.pipeline.stage import Command, Stage
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.runtimes import RuntimeChoice
    from trtllm_forge.settings import Settings
    from trtllm_forge.stages.download import ResolvedCheckpoint

DOCUMENT_SCHEMA = 1
DEFAULT_KV_FRACTION = 0.9

_WEIGHT_BITS = {"fp16": 16.0, "bf16": 16.0, "int8": 8.5, "int4": 5.0}


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A build of which everything is known and nothing is done yet.

    Attributes:
        config: What was asked for.
        checkpoint: The checkpoint, resolved to a commit.
        choice: The runtime, and why.
        store: Where artifacts are kept.
        plan: What each stage would do.
        output_dir: Where the repository will be.
    """

    config: ForgeConfig
    checkpoint: ResolvedCheckpoint
    choice: RuntimeChoice
    store: Store
    plan: tuple[PlannedStage, ...]
    output_dir: Path

    def document(self) -> dict[str, object]:
        """Return the plan as the JSON document of ``forge build --dry-run``."""
        build = self.config.build
        source = self.checkpoint.source
        return {
            "schema": DOCUMENT_SCHEMA,
            "model": {
                "repo_id": source.repo_id,
                "revision": source.revision,
                "architecture": self.checkpoint.config.architecture,
                "family": source.family,
            },
            "runtime": self.choice.runtime.name,
            "runtime_reason": self.choice.reason,
            "trtllm_version": self.config.trtllm_version,
            "container": None,
            "parallel": {
                "tp_size": build.tp_size,
                "pp_size": build.pp_size,
                "world_size": build.tp_size * build.pp_size,
            },
            "stages": [_stage_document(planned) for planned in self.plan],
            "estimates": self._estimates(),
            "repository": str(self.output_dir),
        }

    def text(self) -> str:
        """Return the plan for a person."""
        lines = []
        for planned in self.plan:
            word = "run" if planned.run else "skip"
            lines.append(f"{planned.stage.name:<9}{word:<5}{'; '.join(planned.reasons)}")
            lines += [f"    $ {shlex.join(command.argv)}" for command in planned.commands]
        lines.append(f"repository  {self.output_dir}")
        return "\n".join(lines)

    def _estimates(self) -> dict[str, object]:
        bits = _WEIGHT_BITS[self.config.build.precision]
        size = self.checkpoint.size_bytes
        return {"checkpoint_bytes": size, "artifact_bytes": int(size * bits / 16)}


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A build that is done.

    Attributes:
        prepared: The build that was run.
        results: What became of each stage.
        repository_dir: The repository, in place.
        skipped: Whether nothing had to be done.
    """

    prepared: PreparedBuild
    results: tuple[StageResult, ...]
    repository_dir: Path
    skipped: bool

    def document(self) -> dict[str, object]:
        """Return what was done as the JSON document of ``forge build``."""
        stages = [
            {
                **_stage_document(result.planned),
                "run": result.ran,
                "seconds": round(result.seconds, 3),
                "peak_rss_bytes": result.entry.peak_rss_bytes,
            }
            for result in self.results
        ]
        return {
            **self.prepared.document(),
            "stages": stages,
            "repository": str(self.repository_dir),
            "lock": str(self.repository_dir / LOCK_NAME),
            "skipped": self.skipped,
        }


def prepare_build(
    config: ForgeConfig,
    settings: Settings,
    reporter: Reporter,
    *,
    output_dir: Path | None = None,
    force: frozenset[str] = frozenset(),
    with_engine: bool = True,
) -> PreparedBuild:
    """Resolve the checkpoint, choose the runtime and plan the stages; any machine can.

    Args:
        config: What is asked for.
        settings: Where forge keeps things.
        reporter: Told which runtime was chosen, and why.
        output_dir: Where the repository goes; None for a folder named after the model.
        force: Stages to run even when they are fresh.
        with_engine: Whether the engine is made; without it the repository alone is rendered.

    Raises:
        ConfigError: What was asked for does not fit together, or the output folder is not ours.
        CheckpointError: The checkpoint is not there or not whole.
        PrerequisiteError: The runtime's engines cannot be built by this release.
    """
    # Before the engine is made, which may take an hour.
    read_contract(config.trtllm_version)
    choice = choose_runtime(config.runtime)
    reporter.note(choice.reason)
    checkpoint = _resolve(config, settings, reporter)
    choice.runtime.require_support(config, checkpoint.config)
    output_dir = output_dir or settings.model_repos_dir / _repository_name(config, checkpoint)
    require_own_folder(output_dir)
    stages: list[Stage] = [
        DownloadStage(checkpoint if with_engine else checkpoint.without_weights(), settings),
        *(choice.runtime.stages(config, checkpoint.config) if with_engine else ()),
        _render_stage(config, checkpoint, choice),
    ]
    _require_known(force, stages)
    store = Store(settings.cache_dir)
    plan = make_plan(stages, store, previous=read_lock(output_dir), force=force)
    return PreparedBuild(
        config=config,
        checkpoint=checkpoint,
        choice=choice,
        store=store,
        plan=plan,
        output_dir=output_dir,
    )


def run_build(prepared: PreparedBuild, reporter: Reporter) -> BuildResult:
    """Run what the plan says and put the repository in place.

    Raises:
        PrerequisiteError: This machine lacks what a stage that has to run needs.
        ForgeError: A stage failed; nothing half-written is left where the user looks.
    """
    if any(planned.run and planned.commands for planned in prepared.plan):
        # Before the download, which may take an hour.
        prepared.choice.runtime.require_machine()
    results = run_plan(prepared.plan, prepared.store, reporter)
    lock_text = lock_of(results).to_text()
    entry = results[-1].entry
    in_place = is_published(entry, prepared.output_dir, lock_text)
    if not in_place:
        warn_of_edits(prepared.output_dir, entry.stage, reporter)
        publish_entry(entry, prepared.output_dir, lock_text)
    return BuildResult(
        prepared=prepared,
        results=results,
        repository_dir=prepared.output_dir,
        skipped=in_place and not any(result.ran for result in results),
    )


def _resolve(config: ForgeConfig, settings: Settings, reporter: Reporter) -> ResolvedCheckpoint:
    if config.model is None:
        what = "no model was named"
        why = "neither as an argument nor as `model` in forge.yaml"
        raise ConfigError(what, why=why, hint="forge build sample --int4")
    return resolve_checkpoint(
        config.model,
        settings=settings,
        reporter=reporter,
        revision=config.checkpoint.revision,
        allow_pickle=config.checkpoint.allow_pickle,
        trust_remote_code=config.checkpoint.trust_remote_code,
    )


def _render_stage(
    config: ForgeConfig, checkpoint: ResolvedCheckpoint, choice: RuntimeChoice
) -> RenderStage:
    preset = checkpoint.preset
    from_preset = preset.kv_cache_free_gpu_mem_fraction if preset else None
    fraction = config.repository.kv_cache_free_gpu_mem_fraction or from_preset
    return RenderStage(
        trtllm_version=config.trtllm_version,
        max_batch_size=config.build.max_batch_size,
        repository=config.repository,
        engine_model=choice.runtime.engine_model(config, fraction or DEFAULT_KV_FRACTION),
    )


def _repository_name(config: ForgeConfig, checkpoint: ResolvedCheckpoint) -> str:
    if config.name:
        return config.name
    if checkpoint.preset:
        return checkpoint.preset.name
    return checkpoint.source.repo_id.rsplit("/", 1)[-1]


def _require_known(force: frozenset[str], stages: list[Stage]) -> None:
    names = [stage.name for stage in stages]
    unknown = sorted(force - set(names))
    if unknown:
        what = f"there is no stage {unknown[0]} in this build"
        raise ConfigError(what, why=f"its stages are {', '.join(names)}")


def _stage_document(planned: PlannedStage) -> dict[str, object]:
    return {
        "name": planned.stage.name,
        "run": planned.run,
        "reasons": list(planned.reasons),
        "key": planned.key,
        "commands": [_command_document(command) for command in planned.commands],
        "outputs": list(planned.stage.outputs),
    }


def _command_document(command: Command) -> dict[str, object]:
    return {
        "argv": list(command.argv),
        "inner_argv": list(command.inner_argv),
        "env": dict(command.env),
        "cwd": str(command.cwd) if command.cwd else None,
    }
