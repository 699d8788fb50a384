"""Runs every test layer this machine can run: ``make test``.

The twin's layers, real OpenVINO and real Triton, are required: one that was skipped fails the
run. The gpu layer runs where an NVIDIA GPU is. One process runs them all: the files share servers
and the usual ports, which tests in several processes would compete for.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = "not gpu" if not Path("/proc/driver/nvidia/gpus").is_dir() else ""


def main() -> int:
    """Run pytest once over all layers, so that its last line counts all tests."""
    command = [
        *(sys.executable, "-m", "pytest", "-q"),
        *("-m", LAYERS),
        *("--require", "openvino", "--require", "triton"),
        *sys.argv[1:],
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
