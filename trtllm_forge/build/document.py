"""The output of ``forge build``, as text and as JSON: the plan and the result."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.text.quantities import show_size

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.build.estimates import Estimates
    from trtllm_forge.build.stages.download import ResolvedCheckpoint
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.pipeline.plan import PlannedStage
    from trtllm_forge.pipeline.run import StageResult
    from trtllm_forge.pipeline.store import Store
    from trtllm_forge.runtimes import Evidence
    from trtllm_forge.runtimes.choice import RuntimeChoice

DOCUMENT_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A build that is fully planned and not started.

    Attributes:
        config: The configuration, with the chosen release.
        checkpoint: The checkpoint, resolved to a commit unless planned without the Hub.
        choice: Runtime, release and executor, and why.
        store: The store for artifacts.
        plan: What each stage would do.
        output_dir: Where the repository will be.
        estimates: What a build for TensorRT-LLM needs; None for the twin.
        evidence: How well the facts about the release's tools are confirmed.
        notes: What the user should know before the run.
    """

    config: ForgeConfig
    checkpoint: ResolvedCheckpoint
    choice: RuntimeChoice
    store: Store
    plan: tuple[PlannedStage, ...]
    output_dir: Path
    estimates: Estimates | None
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return the plan as the JSON document of ``forge build --dry-run``."""
        build, choice = self.config.build, self.choice
        source = self.checkpoint.source
        return {
            "schema": DOCUMENT_SCHEMA,
            "model": {
                "repo_id": source.repo_id,
                "revision": source.revision,
                "architecture": self.checkpoint.config.architecture,
                "family": source.family,
            },
            "runtime": choice.runtime.name,
            "runtime_reason": choice.reasons[0],
            "reasons": list(choice.reasons),
            "trtllm_version": choice.release.version,
            "container": choice.image.reference if choice.image else None,
            "executor": choice.executor,
            "parallel": {
                "tp_size": build.tp_size,
                "pp_size": build.pp_size,
                "world_size": build.tp_size * build.pp_size,
            },
            "stages": [_stage_document(planned) for planned in self.plan],
            "estimates": self._estimates_document(),
            "evidence": [
                {"subject": e.subject, "evidence": e.level, "note": e.note, "source": e.source}
                for e in self.evidence
            ],
            "notes": [*self.checkpoint.notes, *self.notes],
            "repository": str(self.output_dir),
        }

    def text(self) -> str:
        """Return the plan as text."""
        lines = []
        for planned in self.plan:
            word = "run" if planned.run else "skip"
            lines.append(f"{planned.stage.name:<9}{word:<5}{'; '.join(planned.reasons)}")
            lines += [f"    $ {shlex.join(command.argv)}" for command in planned.commands]
        if self.estimates is not None:
            lines += _estimate_lines(self.estimates)
        for evidence in self.evidence:
            lines.append(f"flags     {evidence.level}: {evidence.subject}")
        if self.choice.image is not None:
            lines.append(f"image     {self.choice.image.reference}")
        lines.append(f"repository  {self.output_dir}")
        return "\n".join(lines)

    def _estimates_document(self) -> dict[str, object] | None:
        if self.estimates is not None:
            return self.estimates.document()
        if self.choice.runtime.name != "openvino":
            return None
        from trtllm_forge.build.sizes import openvino_bits

        bits = openvino_bits(self.config.build.precision)
        size = self.checkpoint.size_bytes
        if size:
            return {"checkpoint_bytes": size, "artifact_bytes": int(size * bits / 16)}
        # The Hub sent no list of files: count by the model's shape.
        from trtllm_forge.checkpoint.geometry import read_geometry
        from trtllm_forge.checkpoint.parameters import count_parameters

        geometry = read_geometry(self.checkpoint.config.document)
        parameters = count_parameters(geometry)
        return {
            "checkpoint_bytes": parameters * geometry.dtype_bytes,
            "artifact_bytes": int(parameters * bits / 8),
        }


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A finished build.

    Attributes:
        prepared: The plan that was run.
        results: The result of each stage.
        repository_dir: The published repository.
        skipped: Whether there was nothing to do.
    """

    prepared: PreparedBuild
    results: tuple[StageResult, ...]
    repository_dir: Path
    skipped: bool

    def document(self) -> dict[str, object]:
        """Return the result as the JSON document of ``forge build``."""
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


def _estimate_lines(estimates: Estimates) -> list[str]:
    """Return the estimates as lines; per-rank values show the largest rank."""
    sizes = [
        f"checkpoint {show_size(estimates.checkpoint_bytes)}",
        f"disk {show_size(estimates.disk_bytes)}",
        f"host memory {show_size(estimates.host_memory_bytes)}",
    ]
    rank = [f"weights {show_size(max(estimates.weight_bytes_per_rank))}"]
    if estimates.engine_bytes_per_rank:
        rank.append(f"engine {show_size(max(estimates.engine_bytes_per_rank))}")
    rank.append(f"KV cache {max(estimates.kv_bytes_per_token_per_rank)} bytes per token")
    lines = [f"needs     {', '.join(sizes)}", f"per rank  {', '.join(rank)}"]
    if estimates.gpu is not None:
        lines.append(
            f"fits      {estimates.gpu.name}: {estimates.kv_cache_tokens} tokens, "
            f"{estimates.concurrent_sequences} sequences of full length"
        )
    if estimates.recommendation is not None:
        lines.append(f"advice    {estimates.recommendation.reason}")
        lines += [
            f"          {change.option} {change.value} instead of {change.current} holds "
            f"{change.concurrent_sequences}"
            for change in estimates.recommendation.changes
        ]
        if together := estimates.recommendation.together:
            options = " and ".join(f"{change.option} {change.value}" for change in together)
            lines.append(f"          together, {options} hold {together[-1].concurrent_sequences}")
    lines += [f"          {note}" for note in estimates.notes]
    return lines


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
