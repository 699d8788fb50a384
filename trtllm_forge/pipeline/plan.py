"""Decides which stages run, and says why, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.pipeline.stage import stage_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from trtllm_forge.digest import JsonValue
    from trtllm_forge.pipeline.lock import Lock
    from trtllm_forge.pipeline.stage import Command, Stage
    from trtllm_forge.pipeline.store import Store


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """What would happen to one stage, and for which reasons."""

    stage: Stage
    key: str
    run: bool
    reasons: tuple[str, ...]
    commands: tuple[Command, ...]


def make_plan(
    stages: Sequence[Stage],
    store: Store,
    *,
    previous: Lock | None = None,
    force: Collection[str] = (),
) -> tuple[PlannedStage, ...]:
    """Return what a run would do with each stage, without doing it.

    Args:
        stages: The stages in order; each one's key covers the keys of all before it.
        store: Where fresh artifacts are looked up.
        previous: The lock of the last build, to say what has changed since.
        force: Names of stages to run even when fresh; the stages after them keep their keys.
    """
    planned: list[PlannedStage] = []
    keys: dict[str, str] = {}
    for stage in stages:
        key = stage_key(stage, list(keys.values()))
        inputs = {
            name: store.entry_dir(name, upstream) / "files" for name, upstream in keys.items()
        }
        reasons = _reasons_to_run(stage, key, store, previous, force)
        planned.append(
            PlannedStage(
                stage=stage,
                key=key,
                run=bool(reasons),
                reasons=reasons or (f"key {key[:12]} is in the store",),
                commands=tuple(stage.commands(store.work_dir(stage.name, key), inputs)),
            )
        )
        keys[stage.name] = key
    return tuple(planned)


def _reasons_to_run(
    stage: Stage, key: str, store: Store, previous: Lock | None, force: Collection[str]
) -> tuple[str, ...]:
    if stage.name in force:
        return ("forced",)
    if store.find(stage.name, key) is not None:
        return ()
    if store.is_damaged(stage.name, key):
        return (f"the stored artifact {key[:12]} is damaged",)
    last = previous.stages.get(stage.name) if previous else None
    if last is None:
        return ("never built",)
    changes = [
        *_changes("", last.parameters, stage.parameters),
        *_changes("version of ", last.tool_versions, stage.tool_versions),
    ]
    if changes:
        return tuple(changes)
    if last.key == key:
        return ("its artifact is no longer in the store",)
    return ("an earlier stage changed",)


def _changes(prefix: str, old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> list[str]:
    return [
        f"{prefix}{name}: {_shown(old.get(name))} -> {_shown(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _shown(value: JsonValue) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
