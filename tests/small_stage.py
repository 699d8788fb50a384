"""A real stage as small as it comes: it writes files, and counts how often it was asked to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trtllm_forge.cli.console import error_text
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.run import lock_of, run_plan
from trtllm_forge.reporter import SilentReporter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.errors import ForgeError
    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.pipeline.lock import Lock
    from trtllm_forge.pipeline.run import StageResult
    from trtllm_forge.pipeline.store import Store
    from trtllm_forge.reporter import Reporter


@dataclass(kw_only=True)
class SmallStage:
    """Writes ``files``; ``before_writing`` is called with the scratch folder first."""

    name: str = "compile"
    parameters: Mapping[str, JsonValue] = field(default_factory=lambda: {"precision": "int4"})
    tool_versions: Mapping[str, str] = field(default_factory=lambda: {"tool": "1.0"})
    files: dict[str, bytes] = field(default_factory=lambda: {"engine.bin": b"engine"})
    outputs: Sequence[str] = ()
    before_writing: Callable[[Path], None] | None = None
    runs: int = 0
    seen_inputs: Mapping[str, Path] = field(default_factory=dict)

    # ARG002: the signatures are those of the Stage protocol.
    def commands(
        self,
        work_dir: Path,  # noqa: ARG002
        inputs: Mapping[str, Path],  # noqa: ARG002
    ) -> Sequence[Command]:
        return ()

    def run(
        self,
        work_dir: Path,
        inputs: Mapping[str, Path],
        reporter: Reporter,  # noqa: ARG002
    ) -> None:
        self.runs += 1
        self.seen_inputs = inputs
        if self.before_writing:
            self.before_writing(work_dir)
        for name, content in self.files.items():
            path = work_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


class RecordingReporter(SilentReporter):
    """Keeps what stages tell."""

    def __init__(self) -> None:
        self.started: list[tuple[str, tuple[str, ...]]] = []
        self.skipped: list[tuple[str, tuple[str, ...]]] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def stage_started(self, name: str, reasons: Sequence[str]) -> None:
        self.started.append((name, tuple(reasons)))

    def stage_skipped(self, name: str, reasons: Sequence[str]) -> None:
        self.skipped.append((name, tuple(reasons)))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def build(
    store: Store,
    *stages: SmallStage,
    previous: Lock | None = None,
    force: Collection[str] = (),
    reporter: Reporter | None = None,
) -> tuple[StageResult, ...]:
    """Plan and run the stages."""
    plan = make_plan(stages, store, previous=previous, force=force)
    return run_plan(plan, store, reporter or SilentReporter())


def reasons_to_run(
    store: Store, *stages: SmallStage, previous: Lock | None = None, force: Collection[str] = ()
) -> list[tuple[str, ...]]:
    """Return the reasons of the plan, stage by stage; empty for one that would not run."""
    plan = make_plan(stages, store, previous=previous, force=force)
    return [planned.reasons if planned.run else () for planned in plan]


def lock_after(store: Store, *stages: SmallStage) -> Lock:
    """Build the stages and return the lock."""
    return lock_of(build(store, *stages))


def printed(error: ForgeError) -> tuple[str, int]:
    """Return an error's full text as the console prints it, and the exit code it ends in."""
    return error_text(error), error.exit_code
