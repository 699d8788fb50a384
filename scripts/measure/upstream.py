"""Row 9: TensorRT-LLM's own preprocessing and postprocessing on the same engine, beside ours.

Those models are not part of this checkout: ``--upstream DIR`` names a folder that has them, such
as TensorRT-LLM's ``triton_backend/all_models/inflight_batcher_llm``. Of it the ``model.py`` of
``preprocessing`` and ``postprocessing`` are taken. The engine beneath is the twin's, and sends
one response per token, as TensorRT-LLM does.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from scripts.measure.figures import Figure, Target
from scripts.measure.repository_copy import set_parameter
from scripts.measure.throughput import ENSEMBLE, FAST_TOKENS, Loads, new_plan, quantity

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.measure.workshop import Workshop

UPSTREAM = "upstream's ensemble"
OURS = "ensemble"
_MODELS = ("preprocessing", "postprocessing")


def upstream_repository(ours_dir: Path, upstream_dir: Path) -> Path:
    """Return a copy of a repository whose text path is TensorRT-LLM's own.

    Args:
        ours_dir: A twin's repository.
        upstream_dir: A folder with the two models.
    """
    repository_dir = ours_dir.with_name(f"{ours_dir.name}-upstream")
    shutil.copytree(ours_dir, repository_dir, dirs_exist_ok=True)
    for name in _MODELS:
        version_dir = repository_dir / name / "1"
        for path in version_dir.glob("*.py"):
            path.unlink()
        shutil.copyfile(upstream_dir / name / "1" / "model.py", version_dir / "model.py")
        tokenizer_dir = repository_dir / "preprocessing" / "1" / "tokenizer"
        set_parameter(repository_dir / name / "config.pbtxt", "tokenizer_dir", str(tokenizer_dir))
    with (repository_dir / "postprocessing" / "config.pbtxt").open("a") as config:
        config.write("dynamic_batching { }\n")
    set_parameter(repository_dir / "tensorrt_llm" / "config.pbtxt", "stream_interval_ms", "0")
    (repository_dir / "forge.manifest.json").unlink(missing_ok=True)
    return repository_dir


def upstream_figures(workshop: Workshop, upstream_dir: Path) -> list[Figure]:
    """Return the figures of row 9: both served at once, and loaded in turns."""
    ours_dir = workshop.build("sample", "int8")
    theirs_dir = upstream_repository(ours_dir, upstream_dir)
    loads = Loads()
    with workshop.serve(ours_dir) as (ours, _), workshop.serve(theirs_dir) as (theirs, _):
        for concurrency in (1, 4, 16, 64):
            for name, port in ((OURS, ours), (UPSTREAM, theirs)) * workshop.rounds:
                plan = new_plan(concurrency, FAST_TOKENS, workshop.window_s)
                found = workshop.load(port, ENSEMBLE, ours_dir, plan)
                loads.of[name, concurrency].append(found)
                print(f"  {name} at {concurrency}: {found}", file=sys.stderr, flush=True)
    figures = []
    for concurrency in (1, 4, 16, 64):
        is_bound = concurrency >= 16
        mode = f"sample int8, exact, {concurrency} at once"
        for what, bound in (
            ("tokens_per_s", Target(comparison=">=", bound=2.0)),
            ("ttft_p50_ms", Target(comparison="<=", bound=1.0)),
            ("gap_p95_ms", None),
        ):
            target = bound if is_bound else None
            pair = (OURS, UPSTREAM)
            figures.append(quantity(9, loads, pair, what, mode, concurrency, target))
    return figures
