"""Row 10: what prefix reuse costs where no prompt begins like another.

The same repository is served twice, with ``enable_kv_cache_reuse`` off and on, and the two servers
are loaded in turns with prompts that are all different.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from scripts.measure.repository_copy import set_parameter
from scripts.measure.throughput import CORE, ENSEMBLE, FAST_TOKENS, Loads, new_plan, quantity

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.measure.figures import Figure
    from scripts.measure.workshop import Workshop

_CONCURRENCIES = (1, 4, 16, 64)
_OFF, _ON = "reuse off", "reuse on"


def without_reuse(repository_dir: Path) -> Path:
    """Return a copy of a twin's repository that reuses no KV blocks."""
    copy_dir = repository_dir.with_name(f"{repository_dir.name}-no-reuse")
    shutil.copytree(repository_dir, copy_dir, dirs_exist_ok=True)
    set_parameter(copy_dir / "tensorrt_llm" / "config.pbtxt", "enable_kv_cache_reuse", "false")
    (copy_dir / "forge.manifest.json").unlink()
    return copy_dir


def reuse_figures(workshop: Workshop) -> list[Figure]:
    """Return, with reuse off and on, the ensemble against the core model, and on against off."""
    on_dir = workshop.build("sample", "int8")
    off_dir = without_reuse(on_dir)
    loads = Loads()
    with workshop.serve(on_dir) as (on, _), workshop.serve(off_dir) as (off, _):
        for concurrency in _CONCURRENCIES:
            for state, port in ((_OFF, off), (_ON, on)) * workshop.rounds:
                for model in (CORE, ENSEMBLE):
                    plan = new_plan(concurrency, FAST_TOKENS, workshop.window_s)
                    found = workshop.load(port, model, on_dir, plan)
                    loads.of[f"{model}, {state}", concurrency].append(found)
                    print(f"  {model}, {state}, at {concurrency}: {found}", file=sys.stderr)
    return [
        quantity(10, loads, pair, what, f"sample int8, exact, {concurrency} at once", concurrency)
        for concurrency in _CONCURRENCIES
        for pair in (
            (f"{ENSEMBLE}, {_OFF}", f"{CORE}, {_OFF}"),
            (f"{ENSEMBLE}, {_ON}", f"{CORE}, {_ON}"),
            (f"{ENSEMBLE}, {_ON}", f"{ENSEMBLE}, {_OFF}"),
        )
        for what in ("tokens_per_s", "ttft_p50_ms")
    ]
