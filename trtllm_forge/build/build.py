"""Build a repository from MODEL: choose the stages, plan, run and publish."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trtllm_forge.build.document import BuildResult, PreparedBuild
from trtllm_forge.build.provenance import is_repeatable, manifest_of
from trtllm_forge.build.stages.check import CheckStage
from trtllm_forge.build.stages.download import DownloadStage, resolve_checkpoint
from trtllm_forge.build.stages.render import RenderStage
from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.errors import CheckpointError, ConfigError
from trtllm_forge.machine.survey import look_at_machine
from trtllm_forge.pipeline.lock import LOCK_NAME, read_lock
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.publish import (
    is_published,
    publish_entry,
    remove_leftovers,
    require_own_folder,
    warn_of_edits,
)
from trtllm_forge.pipeline.run import lock_of, run_plan
from trtllm_forge.pipeline.store import Store
from trtllm_forge.runtimes.choice import choose_runtime, require_known_release
from trtllm_forge.triton.repository.contract import DEFAULT_KV_FRACTION
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtllm_forge.build.estimates import Estimates
    from trtllm_forge.build.stages.download import ResolvedCheckpoint
    from trtllm_forge.checkpoint.hub_access import HubAccess
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.config.settings import Settings
    from trtllm_forge.pipeline.locked import HeldLock
    from trtllm_forge.pipeline.stage import Stage
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.runtimes.choice import RuntimeChoice

_DEFAULT_NUM_TOKENS = 8192
_DEFAULT_SEQ_LEN = 2048


def prepare_build(
    config: ForgeConfig,
    settings: Settings,
    reporter: Reporter,
    *,
    output_dir: Path | None = None,
    force: frozenset[str] = frozenset(),
    with_engine: bool = True,
    planning: bool = False,
) -> PreparedBuild:
    """Resolve the checkpoint, choose the runtime and plan the stages; works on any machine.

    Args:
        config: The configuration.
        settings: Where forge keeps its files.
        reporter: Receives the reasons for the choice of runtime.
        output_dir: Where to put the repository; None for a folder named after the model.
        force: Stages to run even if they are fresh.
        with_engine: Whether to make the engine; without it only the repository is rendered.
        planning: Nothing will run, so a checkpoint folder may lack its weights.

    Raises:
        ConfigError: The options contradict each other, or the output folder is not forge's.
        CheckpointError: The checkpoint is missing or incomplete.
        PrerequisiteError: The checkpoint needs a token.
    """
    # Before the first request to the Hub.
    require_known_release(config)
    checkpoint = _resolve(config, settings, reporter, planning=planning)
    architecture = find_architecture(checkpoint.config.architecture, model=str(config.model))
    choice = choose_runtime(
        config,
        architecture,
        look_at_machine(),
        settings,
        weights_bytes=checkpoint.weights_bytes,
        checkpoint_dir=checkpoint.reference.folder,
    )
    for reason in choice.reasons:
        reporter.note(reason)
    # From here on the release is set, even if the user named none.
    config = replace(config, trtllm_version=choice.release.version)
    choice.runtime.require_support(config, checkpoint.config)
    output_dir = output_dir or settings.model_repos_dir / _repository_name(config, checkpoint)
    require_own_folder(output_dir)
    stages: list[Stage] = [
        DownloadStage(checkpoint if with_engine else checkpoint.without_weights(), settings),
        *(choice.runtime.stages(config, checkpoint.config) if with_engine else ()),
        _render_stage(config, checkpoint, choice),
        _check_stage(config, choice),
    ]
    _require_known(force, stages)
    store = Store(settings.cache_dir)
    plan = make_plan(stages, store, previous=read_lock(output_dir), force=force)
    estimates, notes = _foresee(config, checkpoint, choice, reporter) if with_engine else (None, ())
    return PreparedBuild(
        config=config,
        checkpoint=checkpoint,
        choice=choice,
        store=store,
        plan=plan,
        output_dir=output_dir,
        estimates=estimates,
        evidence=tuple(choice.runtime.evidence(config, checkpoint.config)),
        notes=notes,
    )


def _foresee(
    config: ForgeConfig, checkpoint: ResolvedCheckpoint, choice: RuntimeChoice, reporter: Reporter
) -> tuple[Estimates | None, tuple[str, ...]]:
    """Return the estimates and the notes for the user; also report the notes as warnings."""
    estimates, unknown = _estimate(config, checkpoint, choice)
    notes = (*choice.runtime.notes(config, checkpoint.config), *((unknown,) if unknown else ()))
    for note in notes:
        reporter.warning(note)
    return estimates, notes


def run_build(
    prepared: PreparedBuild,
    reporter: Reporter,
    *,
    confirm: Callable[[str], bool],
    held_lock: HeldLock | None = None,
) -> BuildResult:
    """Run the plan and publish the repository with its lock and manifest.

    ``confirm`` is called before anything large is downloaded for the tools. If ``held_lock``,
    which has the plan's keys, is given, the result must match it.

    Raises:
        BuildError: The result differs from ``held_lock``.
        PrerequisiteError: This machine lacks something that a stage of the plan needs.
        ForgeError: A stage failed; nothing half-written was published.
    """
    if any(planned.run and planned.commands for planned in prepared.plan):
        # Before the download, which may take an hour.
        prepared.choice.runtime.require_machine(reporter, confirm=confirm)
    keys = {planned.stage.name: planned.key for planned in prepared.plan}
    with prepared.store.using(keys):
        results = run_plan(prepared.plan, prepared.store, reporter)
        if held_lock is not None:
            for path in held_lock.require_outputs(results, is_repeatable):
                reporter.note(
                    f"{path} differs from {held_lock.path}: no build can reproduce this file"
                )
        documents = {
            LOCK_NAME: lock_of(results).to_text(),
            MANIFEST_NAME: manifest_of(prepared, results).to_text(),
        }
        entry = next(r.entry for r in results if r.planned.stage.name == "render")
        in_place = is_published(entry, prepared.output_dir, documents)
        if in_place:
            remove_leftovers(prepared.output_dir)
        else:
            warn_of_edits(prepared.output_dir, entry.stage, reporter, documents=documents)
            publish_entry(entry, prepared.output_dir, documents)
        prepared.store.remember_repository(prepared.output_dir)
    return BuildResult(
        prepared=prepared,
        results=results,
        repository_dir=prepared.output_dir,
        skipped=in_place and not any(result.ran for result in results),
    )


def _resolve(
    config: ForgeConfig, settings: Settings, reporter: Reporter, *, planning: bool
) -> ResolvedCheckpoint:
    if config.model is None:
        what = "no model was given"
        why = "neither as an argument nor as `model` in forge.yaml"
        raise ConfigError(what, why=why, hint="forge build sample --int4")
    return resolve_checkpoint(
        config.model,
        settings=settings,
        reporter=reporter,
        revision=config.checkpoint.revision,
        allow_pickle=config.checkpoint.allow_pickle,
        trust_remote_code=config.checkpoint.trust_remote_code,
        access=_offline_access() if config.offline else None,
        planning=planning,
    )


def _offline_access() -> HubAccess:
    from trtllm_forge.checkpoint.hub import read_hub_access  # its library takes 0.2 s to load

    return replace(read_hub_access(), offline=True)


def _estimate(
    config: ForgeConfig, checkpoint: ResolvedCheckpoint, choice: RuntimeChoice
) -> tuple[Estimates | None, str]:
    """Return what the build needs, or None and why it cannot be estimated."""
    if choice.runtime.name == "openvino":
        return None, ""
    from trtllm_forge.build.estimates import estimate
    from trtllm_forge.checkpoint.geometry import read_geometry

    build = config.build
    try:
        geometry = read_geometry(checkpoint.config.document)
    except CheckpointError as error:
        # For example a model without attention; it can be built all the same.
        return None, f"no estimates: {error.what}"
    quantization = checkpoint.config.quantization
    is_gptq = quantization is not None and quantization.method in ("gptq", "awq")
    estimates = estimate(
        geometry,
        checkpoint_bytes=checkpoint.weights_bytes,
        precision="int4_gptq" if is_gptq else build.precision,
        kv_cache=build.kv_cache,
        tp_size=build.tp_size,
        pp_size=build.pp_size,
        max_batch_size=build.max_batch_size,
        max_seq_len=build.max_seq_len or checkpoint.config.max_seq_len or _DEFAULT_SEQ_LEN,
        max_num_tokens=build.max_num_tokens or _DEFAULT_NUM_TOKENS,
        max_beam_width=build.max_beam_width,
        # Default of trtllm-build's --tokens_per_block, which went from 64 to 32 after 0.18.
        tokens_per_block=64 if choice.release.is_before("0.19") else 32,
        workers=build.workers or 1,
        gpu=choice.gpu,
        fraction=_kv_fraction(config, checkpoint),
        flow="engine" if choice.runtime.name == "trtllm" else "pytorch",
    )
    return estimates, ""


def _kv_fraction(config: ForgeConfig, checkpoint: ResolvedCheckpoint) -> float:
    preset = checkpoint.preset
    from_preset = preset.kv_cache_free_gpu_mem_fraction if preset else None
    return config.repository.kv_cache_free_gpu_mem_fraction or from_preset or DEFAULT_KV_FRACTION


def _render_stage(
    config: ForgeConfig, checkpoint: ResolvedCheckpoint, choice: RuntimeChoice
) -> RenderStage:
    return RenderStage(
        trtllm_version=choice.release.contract,
        max_batch_size=config.build.max_batch_size,
        repository=config.repository,
        engine_model=choice.runtime.engine_model(config, _kv_fraction(config, checkpoint)),
    )


def _check_stage(config: ForgeConfig, choice: RuntimeChoice) -> CheckStage:
    select, ignore = config.check.selected, config.check.ignored
    if select or ignore:
        # Before hours of compiling, not after. Without codes the rules need no import.
        from trtllm_forge.check.registry import selected_rules

        selected_rules(select, ignore)
    return CheckStage(
        trtllm_version=choice.release.contract,
        mount_root=config.repository.mount_root,
        select=select,
        ignore=ignore,
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
        what = f"this build has no stage {unknown[0]}"
        raise ConfigError(what, why=f"its stages are {', '.join(names)}")
