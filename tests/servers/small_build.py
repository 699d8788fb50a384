"""A build of one small stage, as a process that says where it is and can be held there.

``python -m tests.servers.small_build CACHE OUTPUT [--precision P] [--pause-at POINT] ...`` prints
``at POINT`` and waits for a line on stdin, and tells what a reporter is told, one line each.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tests.small_stage import SmallStage
from trtllm_forge.cli.console import open_console
from trtllm_forge.files import staging
from trtllm_forge.pipeline import place, publish
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.publish import publish_entry
from trtllm_forge.pipeline.run import lock_of, run_plan
from trtllm_forge.pipeline.store import Store
from trtllm_forge.reporter import SilentReporter

if TYPE_CHECKING:
    from collections.abc import Sequence

POINTS = ("writing", "renaming-work", "renaming-entry", "placing", "swapping", "half-swapped")
"""In the order a build passes them; the last where folders cannot be exchanged in one step."""

SMALL = b"small"
LARGE = b"0123456789abcdef" * ((1 << 16) + 1)


class LineReporter(SilentReporter):
    """Prints what it is told."""

    def stage_started(self, name: str, reasons: Sequence[str]) -> None:
        say(f"started {name}: {'; '.join(reasons)}")

    def stage_skipped(self, name: str, reasons: Sequence[str]) -> None:
        say(f"skipped {name}: {'; '.join(reasons)}")

    def note(self, text: str) -> None:
        say(f"note {text}")


def say(line: str) -> None:
    print(line, flush=True)


def pause(point: str) -> None:
    """Say where this process is, and wait."""
    say(f"at {point}")
    # A signal that comes just before a read blocks is lost on it, so never block for long.
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        pass
    sys.stdin.readline()


def files_of(precision: str) -> dict[str, bytes]:
    """Return what the stage writes: a small file, and one large enough to be linked."""
    return {
        "ensemble/config.pbtxt": precision.encode() + SMALL,
        "engine/rank0.engine": precision.encode() + LARGE,
    }


def hold_at(point: str, output_dir: Path) -> None:
    """Make this process pause just before it does what ``point`` names."""
    rename, place_file, swap = Path.rename, place.place_file, staging.replace_folder

    def paused_rename(path: Path, target: Path) -> Path:
        reached = {
            "renaming-work": path.name.endswith(".work"),
            "renaming-entry": path.name.endswith(".staged") and target != output_dir,
            "half-swapped": path.name.endswith(".staged") and target == output_dir,
        }
        if reached[point]:
            pause(point)
        return rename(path, target)

    def paused_place(source: Path, target: Path, size_bytes: int) -> None:
        place_file(source, target, size_bytes)
        pause(point)

    def paused_swap(staged_dir: Path, output_dir: Path) -> None:
        pause(point)
        swap(staged_dir, output_dir)

    if point == "half-swapped":
        ctypes.CDLL = lambda *_, **__: object()  # type: ignore[assignment, misc]
    if point in ("renaming-work", "renaming-entry", "half-swapped"):
        Path.rename = paused_rename  # type: ignore[method-assign, assignment]
    elif point == "placing":
        publish.place_file = paused_place  # type: ignore[attr-defined]
    elif point == "swapping":
        publish.replace_folder = paused_swap  # type: ignore[attr-defined, assignment]


def main() -> None:
    """Build and publish."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cache_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--pause-at", choices=POINTS)
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--write-to", type=Path)
    arguments = parser.parse_args()
    if arguments.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_limit, arguments.file_limit))
    stage = SmallStage(
        parameters={"precision": arguments.precision}, files=files_of(arguments.precision)
    )

    def before_writing(work_dir: Path) -> None:
        (work_dir / "half").write_bytes(SMALL)
        if arguments.pause_at == "writing":
            pause("writing")
        if arguments.write_to:
            arguments.write_to.write_bytes(LARGE)
        (work_dir / "half").unlink()

    stage.before_writing = before_writing
    hold_at(arguments.pause_at or "", arguments.output_dir)
    with open_console():
        store = Store(arguments.cache_dir)
        results = run_plan(make_plan([stage], store), store, LineReporter())
        documents = {LOCK_NAME: lock_of(results).to_text()}
        publish_entry(results[-1].entry, arguments.output_dir, documents)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as end:
        sys.exit(end.exit_code)
