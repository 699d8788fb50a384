"""Row 11: the text path around an engine that takes no core of the machine.

On a CPU the engine and what is around it share the cores, so a slower CPU hides what the text path
costs. Here ``paced_engine`` stands in the engine's place, and keeps a GPU's pace.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.measure import paced_engine
from scripts.measure.figures import Target
from scripts.measure.throughput import (
    BARE,
    BLS,
    CORE,
    ENSEMBLE,
    FAST_TOKENS,
    Loads,
    new_plan,
    quantity,
)
from scripts.measure.upstream import UPSTREAM, upstream_repository

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.measure.figures import Figure
    from scripts.measure.workshop import Workshop

_CONCURRENCIES = (1, 4, 16, 64)
_ROW = 11
_OURS = (BARE, CORE, ENSEMBLE, BLS)
# What is held against what, in which quantity, and the target from 16 requests at once on.
_FIGURES = (
    (CORE, BARE, "tokens_per_s", None),
    (ENSEMBLE, BARE, "tokens_per_s", Target(comparison=">=", bound=0.70)),
    (ENSEMBLE, CORE, "tokens_per_s", Target(comparison=">=", bound=0.90)),
    (ENSEMBLE, CORE, "ttft_p50_ms", None),
    (ENSEMBLE, CORE, "gap_p95_ms", None),
    (BLS, CORE, "tokens_per_s", None),
    (BLS, CORE, "ttft_p50_ms", None),
)
_AGAINST_UPSTREAM = (
    (ENSEMBLE, UPSTREAM, "tokens_per_s", Target(comparison=">=", bound=2.0)),
    (ENSEMBLE, UPSTREAM, "ttft_p50_ms", Target(comparison="<=", bound=1.0)),
    (ENSEMBLE, UPSTREAM, "gap_p95_ms", None),
)


def paced_repository(repository_dir: Path) -> Path:
    """Return a copy of a twin's repository around an engine that keeps a pace."""
    copy_dir = repository_dir.with_name(f"{repository_dir.name}-paced")
    shutil.copytree(repository_dir, copy_dir, dirs_exist_ok=True)
    shutil.copyfile(Path(paced_engine.__file__), copy_dir / "tensorrt_llm" / "1" / "engine.py")
    # It is not what was built.
    (copy_dir / "forge.manifest.json").unlink()
    return copy_dir


def paced_figures(workshop: Workshop, upstream_dir: Path | None) -> list[Figure]:
    """Return the figures of row 11, with upstream's text path beside ours where there is one."""
    built_dir = workshop.build("sample", "int8")
    ours_dir = paced_repository(built_dir)
    figures = list(_FIGURES)
    loads = Loads()
    with contextlib.ExitStack() as stack:
        served = dict.fromkeys(_OURS, (ours_dir, stack.enter_context(workshop.serve(ours_dir))[0]))
        if upstream_dir is not None:
            theirs_dir = upstream_repository(ours_dir, upstream_dir)
            served[UPSTREAM] = (theirs_dir, stack.enter_context(workshop.serve(theirs_dir))[0])
            figures += _AGAINST_UPSTREAM
        for concurrency in _CONCURRENCIES:
            _load(workshop, loads, concurrency, served)
    return [
        quantity(
            _ROW,
            loads,
            (ours, other),
            what,
            f"an engine that takes no core, {concurrency} at once",
            concurrency,
            target if concurrency >= 16 else None,
        )
        for concurrency in _CONCURRENCIES
        for ours, other, what, target in figures
    ]


def _load(
    workshop: Workshop, loads: Loads, concurrency: int, served: Mapping[str, tuple[Path, int]]
) -> None:
    for name in tuple(served) * workshop.rounds:
        repository_dir, port = served[name]
        plan = new_plan(concurrency, FAST_TOKENS, workshop.window_s)
        found = (
            workshop.load_bare(repository_dir, plan)
            if name == BARE
            else workshop.load(port, ENSEMBLE if name == UPSTREAM else name, repository_dir, plan)
        )
        loads.of[name, concurrency].append(found)
        print(f"  {name} at {concurrency}: {found}", file=sys.stderr, flush=True)
