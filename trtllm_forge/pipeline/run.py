"""Run a plan: make the missing artifacts, publish them to the store and return the lock."""

from __future__ import annotations

import errno
import resource
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trtllm_forge.errors import BuildError
from trtllm_forge.pipeline.lock import Lock, LockedStage
from trtllm_forge.pipeline.plan import FORCED, reasons_of_other_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.pipeline.plan import PlannedStage
    from trtllm_forge.pipeline.stage import Stage
    from trtllm_forge.pipeline.store import Entry, Store
    from trtllm_forge.reporter import Reporter

_FULL = {
    errno.ENOSPC: "no space left on the disk that holds",
    errno.EDQUOT: "the quota is used up on the disk that holds",
    errno.EFBIG: "a file is larger than allowed (ulimit -f) below",
}


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of one planned stage; ``seconds`` is the time this run took, 0 if skipped."""

    planned: PlannedStage
    entry: Entry
    ran: bool
    seconds: float


def run_plan(
    plan: Sequence[PlannedStage], store: Store, reporter: Reporter
) -> tuple[StageResult, ...]:
    """Make every missing artifact of the plan, in order.

    Raises:
        BuildError: No space is left, or a stage did not write one of its outputs.
    """
    results: list[StageResult] = []
    inputs: dict[str, Entry] = {}
    for planned in plan:
        name = planned.stage.name
        entry = None if planned.run else store.find(name, planned.key)
        stale = reasons_of_other_inputs(entry, _digests(inputs)) if entry else ()
        if entry is not None and not stale:
            reporter.stage_skipped(name, planned.reasons)
            result = StageResult(planned=planned, entry=entry, ran=False, seconds=0.0)
        else:
            if stale:
                planned = replace(planned, run=True, reasons=stale)
            result = _run_stage(planned, store, inputs, reporter)
        inputs[name] = result.entry
        results.append(result)
    return tuple(results)


def lock_of(results: Sequence[StageResult]) -> Lock:
    """Return the lock that records ``results``."""
    return Lock(
        stages={
            result.planned.stage.name: LockedStage(
                key=result.planned.key,
                parameters=result.planned.facts.parameters,
                tool_versions=result.planned.facts.tool_versions,
                outputs=result.entry.outputs,
            )
            for result in results
        }
    )


def _run_stage(
    planned: PlannedStage, store: Store, inputs: Mapping[str, Entry], reporter: Reporter
) -> StageResult:
    stage, key = planned.stage, planned.key
    digests = _digests(inputs)
    started = time.monotonic()
    try:
        with store.writer(stage.name, key, reporter) as work_dir:
            # Another process may have made it while this one was waiting for the lock.
            found = store.find(stage.name, key)
            if (
                found is not None
                and planned.reasons != (FORCED,)
                and not reasons_of_other_inputs(found, digests)
            ):
                reporter.stage_skipped(stage.name, ("another process just built it",))
                return StageResult(planned=planned, entry=found, ran=False, seconds=0.0)
            reporter.stage_started(stage.name, planned.reasons)
            stage.run(work_dir, {name: e.files_dir for name, e in inputs.items()}, reporter)
            _require_outputs(stage, work_dir)
            seconds = time.monotonic() - started
            entry = store.publish(
                work_dir,
                stage.name,
                key,
                inputs={
                    "parameters": dict(planned.facts.parameters),
                    "tools": dict(planned.facts.tool_versions),
                },
                input_digests=digests,
                seconds=seconds,
                peak_rss_bytes=_peak_child_rss_bytes() if planned.commands else 0,
            )
    except OSError as error:
        if error.errno not in _FULL:
            raise
        what = f"{stage.name}: {_FULL[error.errno]} {store.root}"
        why = "the half-written artifact was removed; nothing else was touched"
        hint = "FORGE_CACHE_DIR=/larger/disk forge build ..."
        raise BuildError(what, why=why, hint=hint) from error
    reporter.stage_finished(stage.name, seconds)
    return StageResult(planned=planned, entry=entry, ran=True, seconds=seconds)


def _digests(entries: Mapping[str, Entry]) -> dict[str, str]:
    return {name: entry.digest for name, entry in entries.items()}


def _require_outputs(stage: Stage, work_dir: Path) -> None:
    missing = [output for output in stage.outputs if not (work_dir / output).exists()]
    if missing:
        what = f"{stage.name} ended without an error but did not write {', '.join(missing)}"
        raise BuildError(what)


def _peak_child_rss_bytes() -> int:
    # Linux reports kilobytes.
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
