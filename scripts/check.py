"""Runs the lint: ruff, mypy, import contracts and generated files; ``make lint`` calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CHECKS = (
    (str(BIN / "ruff"), "format", "--check", "."),
    (str(BIN / "ruff"), "check", "."),
    (str(BIN / "mypy"),),
    (str(BIN / "lint-imports"),),
    (sys.executable, "scripts/generate_docs.py", "--check"),
    (sys.executable, "scripts/render_examples.py", "--check"),
)


def main() -> int:
    """Run every check, also after one has failed; return how many failed."""
    failed = 0
    for command in CHECKS:
        print(f"$ {' '.join(Path(part).name for part in command[:1])} {' '.join(command[1:])}")
        failed += subprocess.run(command, cwd=ROOT, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
