"""Measures the targets that can be measured now, and prints them as one table.

python -m scripts.measure [--quick] [--rows 1,2] [--json FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.measure import durations, fingerprint, paced, reuse, throughput, upstream
from scripts.measure.figures import Figure, table
from scripts.measure.processor import ProcessorMeter
from scripts.measure.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = 1
ROWS = {
    1: "the ensemble and the BLS model against the core model alone (fast engine)",
    2: "the core model and the ensemble against the bare engine loop (fast engine)",
    3: "the same with a slow engine",
    4: "building, cold and unchanged, and its memory",
    5: "forge --help against importing Typer",
    6: "forge serve until ready against bare tritonserver",
    7: "rendering and checking a repository",
    8: "fast math against exact arithmetic",
    9: "TensorRT-LLM's own text path beside ours, with --upstream",
    10: "prefix reuse off and on, where no prompt begins like another",
    11: "the text path around an engine that takes no core, with --upstream beside that one",
}
UPSTREAM_ROW = 9


def main() -> int:
    """Measure the rows that were asked for; 0 also when a target is missed."""
    arguments = _arguments()
    rows = arguments.rows or set(ROWS) - ({UPSTREAM_ROW} if arguments.upstream is None else set())
    found = fingerprint.fingerprint()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="forge-measure-") as folder:
        workshop = Workshop(
            root=Path(folder),
            rounds=1 if arguments.quick else 3,
            window_s=1.0 if arguments.quick else 2.5,
        )
        figures, others = measure(workshop, rows, arguments.upstream)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    print(f"{today}, {time.monotonic() - started:.0f} s\n\n{fingerprint.text(found)}\n")
    print(table(figures))
    used = ", ".join(f"row {name} {cores:.2f}" for name, cores in others.items())
    print(f"\nCores that other processes used meanwhile: {used}")
    if arguments.json:
        document = {
            "schema": SCHEMA,
            "date": today,
            "quick": arguments.quick,
            "environment": found,
            "cores_used_by_others": others,
            "figures": [figure.document() for figure in figures],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(
    workshop: Workshop, rows: set[int], upstream_dir: Path | None
) -> tuple[list[Figure], dict[str, float]]:
    """Return the figures of some rows, and the cores others used during each step."""
    slow_dir = workshop.root / "slow-86m"
    if rows & {3, 4, 8}:
        workshop.run([sys.executable, "-m", "scripts.measure.checkpoint", str(slow_dir)])
    # Building comes first: its cache has to be empty, and then serves the others.
    steps: list[tuple[set[int], Callable[[], list[Figure]]]] = [
        ({4}, lambda: durations.builds(workshop, slow_dir)),
        ({5}, lambda: durations.command_start(workshop)),
        ({7}, lambda: durations.rendering(workshop)),
        ({6}, lambda: durations.server_start(workshop)),
        ({1, 2}, lambda: throughput.fast_engine(workshop, rows)),
        ({3}, lambda: throughput.slow_engine(workshop, slow_dir)),
        ({8}, lambda: throughput.fast_math(workshop, slow_dir)),
        ({10}, lambda: reuse.reuse_figures(workshop)),
        ({11}, lambda: paced.paced_figures(workshop, upstream_dir)),
    ]
    if upstream_dir is not None:
        steps.append(({UPSTREAM_ROW}, lambda: upstream.upstream_figures(workshop, upstream_dir)))
    figures: list[Figure] = []
    others: dict[str, float] = {}
    for numbers, step in steps:
        if numbers & rows:
            meter = ProcessorMeter()
            names = ", ".join(ROWS[number] for number in sorted(numbers & rows))
            print(f"row {sorted(numbers & rows)}: {names}", file=sys.stderr, flush=True)
            figures += step()
            others["+".join(map(str, sorted(numbers & rows)))] = round(meter.others(), 2)
    return sorted(figures, key=lambda figure: figure.row), others


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.measure",
        description="Measure the targets that can be measured now, side by side in one run.",
        epilog="rows: " + "; ".join(f"{number} {what}" for number, what in ROWS.items()),
    )
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--rows", type=_row_set, help="numbers, as 1,2,5")
    parser.add_argument(
        "--upstream",
        type=Path,
        metavar="DIR",
        help="folder with TensorRT-LLM's preprocessing and postprocessing models, for row 9",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a JSON document")
    arguments = parser.parse_args()
    if arguments.upstream is None and UPSTREAM_ROW in (arguments.rows or ()):
        parser.error(f"row {UPSTREAM_ROW} needs --upstream DIR")
    return arguments


def _row_set(text: str) -> set[int]:
    known = ", ".join(map(str, ROWS))
    try:
        rows = {int(word) for word in text.split(",")}
    except ValueError:
        message = f"{text!r} is no list of row numbers ({known})"
        raise argparse.ArgumentTypeError(message) from None
    if rows - set(ROWS):
        message = f"there is no row {min(rows - set(ROWS))}; the rows are {known}"
        raise argparse.ArgumentTypeError(message)
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
