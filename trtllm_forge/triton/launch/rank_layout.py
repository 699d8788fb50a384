"""Decides the servers of a repository: one, one per rank, or an orchestrator of ranks.

- *Leader mode*: one ``tritonserver`` per rank of the engine. Rank 0 answers; the others load
  only the engine models, connect to rank 0 there, and end when it does.
- *Orchestrator mode*: for several engines. Rank 0 has no engine; it starts the ranks of each
  engine itself, or uses the started ranks that ``participant_ids`` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


RankMode = Literal["leader", "orchestrator"]

EngineKind = Literal["trtllm", "llmapi", "twin"]


@dataclass(frozen=True, kw_only=True)
class RankLayout:
    """The servers of one repository.

    Attributes:
        mode: One of the modes above.
        world_size: The number of servers to start.
        engine_models: The models that servers above rank 0 load.
        spawns: Whether rank 0 starts more ranks itself.
        is_llmapi: Whether ``trtllm-llmapi-launch`` has to start Triton.
        is_topology_only: Whether the ranks above 0 have no work, as for the twin.
    """

    mode: RankMode = "leader"
    world_size: int = 1
    engine_models: tuple[str, ...] = ()
    spawns: bool = False
    is_llmapi: bool = False
    is_topology_only: bool = False

    @property
    def needs_launcher(self) -> bool:
        """Return whether ``mpirun`` or ``srun`` starts the servers."""
        return self.world_size > 1 or self.mode == "orchestrator"


def lay_out_ranks(
    engines: Sequence[EngineRanks],
    *,
    wanted: int | None,
    mode: RankMode | None,
    command: str,
) -> RankLayout:
    """Return the servers for some engines.

    Args:
        engines: The engines of the repository.
        wanted: The requested world size, or None for the engine's own.
        mode: The requested mode, or None for the one that fits.
        command: The command that serves the repository, for hints.

    Raises:
        ConfigError: The request does not match the engines.
    """
    tensorrt = [engine for engine in engines if engine.kind == "trtllm"]
    llmapi = [engine for engine in engines if engine.kind == "llmapi"]
    if mode == "orchestrator" and not tensorrt:
        what = "--mode orchestrator needs a TensorRT engine, and no model here has one"
        raise ConfigError(what, why="it is a mode of the tensorrtllm backend", hint=command)
    if tensorrt:
        chosen = mode or _fitting_mode(tensorrt)
        if chosen == "orchestrator":
            return _orchestrator(tensorrt, wanted, command)
        return _leader(tensorrt, wanted, command)
    if llmapi:
        return _llmapi(llmapi, wanted, command)
    if any(engine.kind == "twin" for engine in engines):
        names = tuple(engine.model for engine in engines)
        return RankLayout(world_size=wanted or 1, engine_models=names, is_topology_only=True)
    _require_size(1, "no model here runs on several ranks", "", wanted, command)
    return RankLayout()


def _fitting_mode(engines: Sequence[EngineRanks]) -> RankMode:
    has_ranks = any(engine.world_size > 1 for engine in engines)
    return "orchestrator" if has_ranks and len(engines) > 1 else "leader"


def _leader(engines: Sequence[EngineRanks], wanted: int | None, command: str) -> RankLayout:
    first = engines[0]
    for other in engines[1:]:
        if other.world_size != first.world_size:
            what = (
                f"{first.model} has {_ranks(first.world_size)}, {other.model} "
                f"has {other.world_size}: in leader mode all engines share the same ranks"
            )
            why = f"{first.source}; {other.source}"
            raise ConfigError(what, why=why, hint=f"{command} --mode orchestrator")
    found = f"engine {first.model} has {_ranks(first.world_size)}"
    _require_size(first.world_size, found, first.source, wanted, command)
    names = tuple(engine.model for engine in engines)
    return RankLayout(world_size=first.world_size, engine_models=names)


def _orchestrator(engines: Sequence[EngineRanks], wanted: int | None, command: str) -> RankLayout:
    names = tuple(engine.model for engine in engines)
    named = [engine for engine in engines if engine.participants]
    if not named:
        found = "an orchestrator is 1 rank and starts those of each engine itself"
        why = "; ".join(f"{engine.model}: {engine.source}" for engine in engines)
        _require_size(1, found, why, wanted, command)
        return RankLayout(mode="orchestrator", engine_models=names, spawns=True)
    for engine in engines:
        count = len(engine.participants)
        if count != engine.world_size:
            what = (
                f"participant_ids of {engine.model} names {_ranks(count)}, "
                f"its engine has {engine.world_size}"
            )
            raise ConfigError(what, why=engine.source)
    taken = sorted(rank for engine in engines for rank in engine.participants)
    if taken != list(range(1, len(taken) + 1)):
        shown = ", ".join(map(str, taken))
        what = f"participant_ids names ranks {shown}; it must name each rank from 1 on once"
        raise ConfigError(what, why="rank 0 is the orchestrator, and no rank serves two engines")
    found = f"the orchestrator and its participants are {_ranks(len(taken) + 1)}"
    why = f"participant_ids names {_ranks(len(taken))}, and rank 0 is the orchestrator"
    _require_size(len(taken) + 1, found, why, wanted, command)
    return RankLayout(mode="orchestrator", world_size=len(taken) + 1, engine_models=names)


def _llmapi(engines: Sequence[EngineRanks], wanted: int | None, command: str) -> RankLayout:
    if len(engines) > 1:
        # Launched ranks belong to one engine each; without MPI each engine starts its own.
        names = ", ".join(engine.model for engine in engines)
        _require_size(1, f"each of {names} starts its own ranks", "", wanted, command)
        return RankLayout()
    engine = engines[0]
    found = f"model {engine.model} has {_ranks(engine.world_size)}"
    _require_size(engine.world_size, found, engine.source, wanted, command)
    return RankLayout(
        world_size=engine.world_size,
        engine_models=(engine.model,),
        is_llmapi=engine.world_size > 1,
    )


def _require_size(size: int, found: str, why: str, wanted: int | None, command: str) -> None:
    if wanted is not None and wanted != size:
        what = f"--world-size {wanted} does not fit: {found}"
        raise ConfigError(what, why=why, hint=f"{command} --world-size {size}")


def _ranks(count: int) -> str:
    return f"{count} rank" if count == 1 else f"{count} ranks"


@dataclass(frozen=True, kw_only=True)
class EngineRanks:
    """The ranks of one engine model.

    Attributes:
        model: Its folder in the repository.
        kind: The runtime; the twin's engine always has one rank.
        world_size: The number of ranks it was built for.
        source: Where that is recorded, for messages.
        participants: The ranks that ``participant_ids`` names, in orchestrator mode.
    """

    model: str
    kind: EngineKind
    world_size: int
    source: str
    participants: tuple[int, ...] = ()
