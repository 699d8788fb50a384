"""Builds the sample, serves it, probes it, completes twice and stops: ``make quickstart``.

It runs the ``forge`` commands a person would type, prints them, and stops at the first failure.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

FORGE = str(Path(sys.executable).parent / "forge")


def run(*arguments: str) -> None:
    """Run one forge command in the foreground, shown as a person would type it."""
    show(*arguments)
    subprocess.run([FORGE, *arguments], check=True)


def show(*arguments: str) -> None:
    """Print a command."""
    print(f"\n$ forge {shlex.join(arguments)}", flush=True)


def read_document(server: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the one JSON document that ``forge serve --json`` prints, ready or failed."""
    assert server.stdout is not None
    text = ""
    for line in server.stdout:
        text += line
        with contextlib.suppress(ValueError):
            document: dict[str, Any] = json.loads(text)
            return document
    return {}


def main() -> int:
    """Run the whole thing; return the exit code of what failed, or 0."""
    try:
        run("build", "sample", "--int4")
        show("serve", "sample")
        server = subprocess.Popen(
            [FORGE, "serve", "sample", "--json"], stdout=subprocess.PIPE, text=True
        )
        try:
            document = read_document(server)
            if "http" not in document:
                return server.wait()
            print(f"ready after {document['ready_s']:.1f} s at {document['http']}", flush=True)
            run("probe")
            run("complete", "def read_json(path):\n    ", "--max-tokens", "40")
            run(
                "complete",
                "def add(a, b):\n    ",
                *("--suffix", "\n\nprint(add(1, 2))\n", "--max-tokens", "24"),
            )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
        print("\nserver stopped")
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
