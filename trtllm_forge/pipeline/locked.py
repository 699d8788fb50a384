"""Hold a build to a ``forge.lock``: ``forge build --locked``.

Before anything runs, every stage must have the key in the lock. Afterwards every file must have
the digest in the lock, except those that no build can reproduce. The lock itself is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import BuildError, ConfigError
from trtllm_forge.files.digest import JsonValue
from trtllm_forge.pipeline.lock import LOCK_NAME, read_lock_file
from trtllm_forge.pipeline.plan import changes_since

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtllm_forge.pipeline.lock import Lock, LockedStage
    from trtllm_forge.pipeline.plan import PlannedStage
    from trtllm_forge.pipeline.run import StageResult
    from trtllm_forge.pipeline.store import Entry

IsRepeatable = Callable[[str, Mapping[str, JsonValue], str], bool]
"""Return whether an output has the same bytes in every build, by stage, parameters and path."""

_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class HeldLock:
    """The lock that a build is held to, and where it was found."""

    path: Path
    lock: Lock

    def require_plan(self, plan: Sequence[PlannedStage]) -> None:
        """Compare the plan with the lock, before anything is built.

        Raises:
            ConfigError: A stage has another key; says what differs.
        """
        locked = self.lock.stages
        differences: list[str] = []
        for planned in plan:
            name = planned.stage.name
            last = locked.get(name)
            if last is None:
                differences.append(f"{name}: this stage is not in the lock")
            elif last.key != planned.key:
                differences += _differences(planned, last, has_earlier=bool(differences))
        names = [planned.stage.name for planned in plan]
        differences += [f"{name}: only in the lock" for name in locked if name not in names]
        if differences:
            what = f"this build would differ from {self.path}"
            raise ConfigError(what, why=_lines(differences))

    def require_outputs(
        self, results: Sequence[StageResult], is_repeatable: IsRepeatable
    ) -> tuple[str, ...]:
        """Compare the built files with the lock, before they are published.

        Returns:
            The files whose digests differ because no build can reproduce them.

        Raises:
            BuildError: Any other file differs from the lock.
        """
        wrong: list[str] = []
        exempt: list[str] = []
        for result in results:
            name, parameters = result.planned.stage.name, result.planned.facts.parameters
            for path in _other_outputs(self.lock.stages[name], result.entry):
                is_wrong = is_repeatable(name, parameters, path)
                (wrong if is_wrong else exempt).append(f"{name}: {path}")
        if wrong:
            files = "1 built file does" if len(wrong) == 1 else f"{len(wrong)} built files do"
            what = f"{files} not match {self.path}"
            raise BuildError(what, why=_lines(wrong))
        return tuple(exempt)


def find_held_lock(lock_path: Path | None, *, config_dir: Path, output_dir: Path) -> HeldLock:
    """Return the named lock, or else the one beside ``forge.yaml``, or else the repository's.

    Raises:
        ConfigError: No lock was found, or it cannot be read.
    """
    places = [lock_path] if lock_path else [config_dir / LOCK_NAME, output_dir / LOCK_NAME]
    for path in places:
        lock = read_lock_file(path)
        if lock is not None:
            return HeldLock(path=path, lock=lock)
    what = f"--locked needs a {LOCK_NAME}, but there is no {' and no '.join(map(str, places))}"
    why = "a build writes one into the repository; keep a copy beside forge.yaml"
    raise ConfigError(what, why=why)


def _differences(planned: PlannedStage, last: LockedStage, *, has_earlier: bool) -> list[str]:
    changes = changes_since(last, planned.facts)
    if not changes and not has_earlier:
        changes = ["this forge computes keys differently"]
    return [f"{planned.stage.name}: {change}" for change in changes]


def _other_outputs(last: LockedStage, entry: Entry) -> list[str]:
    before = {output.path: output.sha256 for output in last.outputs}
    after = {output.path: output.sha256 for output in entry.outputs}
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def _lines(texts: Sequence[str]) -> str:
    rest = len(texts) - _SHOWN
    return "\n".join([*texts[:_SHOWN], *([f"and {rest} more"] if rest > 0 else [])])
