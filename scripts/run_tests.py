"""Runs every test layer this machine can run: ``make test``.

The twin's layers, real OpenVINO and real Triton, are required: one that was skipped fails the
run. The gpu layer runs where an NVIDIA GPU is. Several processes run the tests, one file each at a
time: a test of a server waits more than it computes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# More than cores: see above. More than that, and what computes is late for the deadlines of others.
WORKERS = 3
LAYERS = "not gpu" if not Path("/proc/driver/nvidia/gpus").is_dir() else ""


def main() -> int:
    """Run pytest once over all layers, so that its last line counts all tests."""
    command = [
        *(sys.executable, "-m", "pytest", "-q"),
        *("-m", LAYERS),
        *("-n", str(WORKERS), "--dist", "loadgroup", "--no-loadscope-reorder"),
        *("--require", "openvino", "--require", "triton"),
        *sys.argv[1:],
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
