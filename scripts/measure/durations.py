"""Rows 4 to 7: how long forge's own commands take, and the memory of a build."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.measure.figures import Figure, Target

if TYPE_CHECKING:
    from scripts.measure.workshop import Workshop

_GIGABYTE = 1e9
_START_ROUNDS = 10
_REBUILDS = 5


def builds(workshop: Workshop, slow_checkpoint_dir: Path) -> list[Figure]:
    """Return the figures of row 4: cold and unchanged builds, and their memory."""
    from trtllm_forge.files.resources import sample_checkpoint_dir

    sample_dir = sample_checkpoint_dir()
    cold, plain, peaks = [], [], []
    for _ in range(min(2, workshop.rounds)):
        workshop.clear_cache()
        built = workshop.forge("build", "sample", "--int4", "--json", "--quiet")
        cold.append(built.seconds)
        peaks.append(built.peak_rss_bytes / _GIGABYTE)
        plain.append(_export(workshop, sample_dir))
    again = [_rebuild(workshop, "sample") for _ in range(_REBUILDS)]
    slow = workshop.forge("build", str(slow_checkpoint_dir), "--int4", "--quiet")
    slow_again = [_rebuild(workshop, str(slow_checkpoint_dir)) for _ in range(_REBUILDS)]
    half_second = Target(comparison="<=", bound=0.5)
    return [
        Figure(
            row=4,
            what="cold build: forge against optimum-cli",
            mode="sample int4",
            unit="s",
            ours=tuple(cold),
            other=tuple(plain),
            target=Target(comparison="<=", bound=1.1),
        ),
        Figure(
            row=4,
            what="build with nothing changed",
            mode="sample int4",
            unit="s",
            ours=tuple(again),
            target=half_second,
        ),
        Figure(
            row=4,
            what="build with nothing changed",
            mode="86 M random int4",
            unit="s",
            ours=tuple(slow_again),
            target=half_second,
        ),
        _memory("sample int4", sample_dir, tuple(peaks)),
        _memory("86 M random int4", slow_checkpoint_dir, (slow.peak_rss_bytes / _GIGABYTE,)),
    ]


def _rebuild(workshop: Workshop, model: str) -> float:
    done = workshop.forge("build", model, "--int4", "--json", "--quiet")
    if not json.loads(done.stdout)["skipped"]:
        message = f"a second build of {model} was not skipped"
        raise RuntimeError(message)
    return done.seconds


def _export(workshop: Workshop, checkpoint_dir: Path) -> float:
    output_dir = workshop.root / "export"
    shutil.rmtree(output_dir, ignore_errors=True)
    argv = [
        str(Path(sys.executable).parent / "optimum-cli"),
        *("export", "openvino", "--model", str(checkpoint_dir)),
        *("--task", "text-generation-with-past", "--weight-format", "int4"),
        *("--group-size", "128", "--ratio", "1.0", "--disable-convert-tokenizer"),
        str(output_dir),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return workshop.run(argv, offline).seconds


def _memory(mode: str, checkpoint_dir: Path, peaks: tuple[float, ...]) -> Figure:
    size = sum(path.stat().st_size for path in checkpoint_dir.glob("*.safetensors")) / _GIGABYTE
    return Figure(
        row=4,
        what="peak memory of a cold build",
        mode=mode,
        unit="GB",
        ours=peaks,
        target=Target(comparison="<=", bound=round(1.3 * size + 1.0, 3)),
        note=f"{mode}: the checkpoint's fp16 weights are {size:.3f} GB",
    )


def command_start(workshop: Workshop) -> list[Figure]:
    """Return the figure of row 5: ``forge --help`` against importing Typer."""
    python = [sys.executable, "-c", "import typer"]
    ours, other = [], []
    for _ in range(1 + max(_START_ROUNDS, workshop.rounds)):
        ours.append(1000 * workshop.forge("--help").seconds)
        other.append(1000 * workshop.run(python).seconds)
    return [
        Figure(
            row=5,
            what='forge --help against python -c "import typer"',
            mode=f"{_START_ROUNDS} each, in turns",
            unit="ms",
            ours=tuple(ours[1:]),  # the first fill the caches
            other=tuple(other[1:]),
            target=Target(comparison="<=", bound=1.5),
        )
    ]


def server_start(workshop: Workshop) -> list[Figure]:
    """Return the figure of row 6: until ready, ``forge serve`` against bare tritonserver."""
    repository_dir = workshop.build("sample", "int8")
    ours, other = [], []
    for _ in range(1 + workshop.rounds):
        with workshop.serve(repository_dir) as (_, seconds):
            ours.append(seconds)
        with workshop.serve_bare(repository_dir) as (_, seconds):
            other.append(seconds)
    return [
        Figure(
            row=6,
            what="until ready: forge serve against tritonserver",
            mode="sample int8",
            unit="s",
            ours=tuple(ours[1:]),
            other=tuple(other[1:]),
            target=Target(comparison="<=", bound=1.2),
        )
    ]


def rendering(workshop: Workshop) -> list[Figure]:
    """Return the figure of row 7: rendering and checking a repository, once started."""
    done = workshop.run([sys.executable, "-m", "scripts.measure.render", str(workshop.root)])
    first, *rest = json.loads(done.stdout)
    return [
        Figure(
            row=7,
            what="render a repository and read it back",
            mode="sample, without an engine",
            unit="ms",
            ours=tuple(rest),
            target=Target(comparison="<=", bound=50.0),
            note=f"the first one, which also imports jinja2 and protobuf, took {first:.0f} ms",
        )
    ]
