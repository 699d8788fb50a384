"""Decide which stages run, with the reasons as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.files.digest import canonical_json
from trtllm_forge.pipeline.stage import facts_of, stage_key

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.pipeline.lock import Lock, LockedStage
    from trtllm_forge.pipeline.stage import Keyed, Stage, StageFacts
    from trtllm_forge.pipeline.store import Entry, Store

FORCED = "forced"

_SHOWN_CHANGES = 8
_SHOWN_LENGTH = 40
_SHOWN_MEMBERS = 4
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """What would happen to one stage, and why.

    Attributes:
        stage: The stage.
        facts: Its parameters and tool versions at planning time.
        key: Computed from the facts and the keys of the stages before it.
        run: Whether it would run.
        reasons: Why it would run or be skipped.
        commands: The child processes it would start.
    """

    stage: Stage
    facts: StageFacts
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

    A stage that is fresh here still runs if an earlier one is rerun and produces other bytes.

    Args:
        stages: The stages in order; each one's key covers the keys of all before it.
        store: The store in which to look up fresh artifacts.
        previous: The lock of the last build, used to say what has changed since.
        force: Names of stages to run even if fresh; the stages after them keep their keys.
    """
    planned: list[PlannedStage] = []
    keys: dict[str, str] = {}
    digests: dict[str, str] = {}
    for stage in stages:
        facts = facts_of(stage)
        key = stage_key(facts, list(keys.values()))
        inputs = {
            name: store.entry_dir(name, upstream) / "files" for name, upstream in keys.items()
        }
        entry = store.find(stage.name, key)
        if stage.name in force:
            reasons: tuple[str, ...] = (FORCED,)
        elif entry is not None:
            reasons = reasons_of_other_inputs(entry, digests)
        elif store.is_damaged(stage.name, key):
            reasons = (f"the stored artifact {key[:12]} is damaged",)
        else:
            reasons = _reasons_of_absence(facts, key, keys, previous)
        planned.append(
            PlannedStage(
                stage=stage,
                facts=facts,
                key=key,
                run=bool(reasons),
                reasons=reasons or (f"key {key[:12]} is in the store",),
                commands=tuple(stage.commands(store.work_dir(stage.name, key), inputs)),
            )
        )
        keys[stage.name] = key
        if entry is not None and not reasons:
            digests[stage.name] = entry.digest
    return tuple(planned)


def reasons_of_other_inputs(entry: Entry, digests: Mapping[str, str]) -> tuple[str, ...]:
    """Return which earlier artifacts are not the ones that ``entry`` was made from.

    Keys do not show this: a stage that reruns under the same key may produce other bytes.
    """
    return tuple(
        f"it was made from another artifact of {name}"
        for name, digest in digests.items()
        if entry.input_digests.get(name) != digest
    )


def _reasons_of_absence(
    facts: StageFacts, key: str, upstream: Mapping[str, str], previous: Lock | None
) -> tuple[str, ...]:
    """Return why an artifact is missing from the store, judging by the last build's lock."""
    last = previous.stages.get(facts.name) if previous else None
    if previous is None or last is None:
        return ("never built",)
    if last.key == key:
        return ("its artifact is no longer in the store",)
    changes = changes_since(last, facts)
    if changes:
        rest = len(changes) - _SHOWN_CHANGES
        return (*changes[:_SHOWN_CHANGES], *([f"and {rest} more"] if rest > 0 else []))
    before = {name: stage.key for name, stage in previous.stages.items()}
    if any(before.get(name) != upstream_key for name, upstream_key in upstream.items()):
        return ("an earlier stage changed",)
    return ("this forge computes keys differently",)


def changes_since(last: LockedStage, stage: Keyed) -> list[str]:
    """Return which parameters and tool versions of a stage changed since ``last``."""
    return [
        *_changes("", last.parameters, stage.parameters),
        *_changes("version of ", last.tool_versions, stage.tool_versions),
    ]


def _changes(prefix: str, old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> list[str]:
    before, after = _flat(old), _flat(new)
    return [
        f"{prefix}{name}: {_difference(before.get(name), after.get(name))}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _difference(old: JsonValue, new: JsonValue) -> str:
    if isinstance(old, list) and isinstance(new, list):
        moved = [f"without {_shown(v)}" for v in old if v not in new]
        moved += [f"with {_shown(v)}" for v in new if v not in old]
        if moved:
            rest = len(moved) - _SHOWN_MEMBERS
            return ", ".join([*moved[:_SHOWN_MEMBERS], *([f"{rest} more"] if rest > 0 else [])])
    return f"{_shown(old)} -> {_shown(new)}"


def _flat(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """Return nested values under dotted names, to name the one that changed."""
    flat: dict[str, JsonValue] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(value: JsonValue) -> str:
    if value is None:
        return "unset"
    text = value if isinstance(value, str) else canonical_json(value)
    if _DIGEST.fullmatch(text):
        return text[:12]
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."
