"""Times ``forge build`` with nothing to do, when the engine in the store has 30 GB.

Builds the sample's twin, makes its weights a sparse file of that size, in the store and in its
records alike, and builds again: once to publish it, then the measured runs. Prints the wall time
of each and the bytes that the process read, as /proc counts them. Needs the extra ``cpu``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "openvino_model.bin"
GIB = 1 << 30

# The command line itself, which then tells what it read.
_FORGE = """
import sys
from trtllm_forge.cli.app import main
try:
    main()
finally:
    io = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    print("read", io["rchar"], io["read_bytes"], file=sys.stderr)
"""


def enlarge(cache_dir: Path, size_bytes: int) -> None:
    """Make the weights of every entry sparse files of a size, and let the records say so."""
    for entry_path in cache_dir.glob("*/??/*/entry.json"):
        document = json.loads(entry_path.read_text(encoding="utf-8"))
        for output in document["outputs"]:
            if not output["path"].endswith(WEIGHTS):
                continue
            path = entry_path.parent / "files" / output["path"]
            # Entries share the file: it is written to once.
            if path.stat().st_size != size_bytes:
                path.chmod(0o644)
                os.truncate(path, size_bytes)
                path.chmod(0o444)
            output["size_bytes"] = size_bytes
            document["mtimes_ns"][output["path"]] = path.stat().st_mtime_ns
        entry_path.write_text(json.dumps(document, indent=2, sort_keys=True), encoding="utf-8")


def build(root: Path) -> tuple[float, int, int]:
    """Build the sample and return the seconds it took and the bytes it read, all and from disk."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _FORGE, "build", "sample", "--int4", "--runtime", "openvino"],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FORGE_CACHE_DIR": str(root / "cache"),
            "FORGE_MODEL_REPOS": str(root / "model_repos"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    _, read, from_disk = done.stderr.splitlines()[-1].split()
    return seconds, int(read), int(from_disk)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=30)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(root)
        small = build(root)
        enlarge(root / "cache", int(arguments.gib * GIB))
        publishing = build(root)
        runs = [build(root) for _ in range(arguments.runs)]
        engine = root / "model_repos" / "sample" / "tensorrt_llm" / "1" / "engine" / WEIGHTS
        print(f"engine      {engine.stat().st_size / GIB:.1f} GiB in {engine.name}")
        print(f"as built    {small[0]:.2f} s, {small[1] / 1e6:.1f} MB read")
        print(f"publishing  {publishing[0]:.2f} s, {publishing[1] / 1e6:.1f} MB read")
    seconds = [run[0] for run in runs]
    print(
        f"unchanged   {statistics.median(seconds):.2f} s median of {len(runs)}, "
        f"{min(seconds):.2f} to {max(seconds):.2f} s; {max(run[1] for run in runs) / 1e6:.1f} MB "
        f"read, {max(run[2] for run in runs) / 1e6:.1f} MB of them from disk"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
