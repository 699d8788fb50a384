"""Starts and stops a detached server again and again: is anything left behind?

A process, a file in shared memory, a file below the state folder or the system's temporary one:
after each cycle there must be none of that start, and at the end no more in the state folder than
after the first. Every ``--kill-each``-th cycle its owner is killed with SIGKILL instead of being
stopped. By default the real Triton serves a small mock repository; ``--fake`` takes a stand-in
that answers as a Triton does and nothing more, ``--repository`` anybody's.

    python scripts/serve_cycles.py --cycles 200
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.process.fake_triton import build_repository  # noqa: E402 - the checkout is no package
from tests.triton.mock_repository import build_mock_repository  # noqa: E402
from trtllm_forge.machine.process.lifeline import living_members  # noqa: E402
from trtllm_forge.serving.plan.ports import free_port  # noqa: E402
from trtllm_forge.serving.records.record import ServerRecord, read_record, record_path  # noqa: E402
from trtllm_forge.triton.launch.argv import DEFAULT_HOST  # noqa: E402

NAME = "cycles"
DEADLINE_S = 60.0
_POLL_S = 0.02


@dataclass
class Times:
    """Seconds of each cycle's parts."""

    start_s: list[float] = field(default_factory=list)
    stop_s: list[float] = field(default_factory=list)
    kill_s: list[float] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the median and the longest of each part."""
        parts = {
            "start until ready": self.start_s,
            "stop": self.stop_s,
            "gone after SIGKILL of the owner": self.kill_s,
        }
        return [
            f"  {label}: {len(values)} times, median {statistics.median(values):.2f} s, "
            f"longest {max(values):.2f} s"
            for label, values in parts.items()
            if values
        ]


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """A state folder of its own, and what is served from it."""

    root: Path
    repository_dir: Path
    environment: dict[str, str]
    port_flags: tuple[str, ...]

    @property
    def state_dir(self) -> Path:
        """Where forge keeps what runs."""
        return self.root / "state"

    def forge(self, *words: str) -> Any:
        """Return the document of a command that must end well."""
        done = subprocess.run(
            [sys.executable, "-m", "trtllm_forge", *words, "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S * 2,
            check=False,
        )
        assert done.returncode == 0, f"forge {' '.join(words)}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def start(self) -> ServerRecord:
        """Start the server and return its record."""
        words = ("serve", str(self.repository_dir), "--detach", "--name", NAME)
        self.forge(*words, *self.port_flags)
        record = read_record(record_path(self.state_dir, NAME))
        assert record is not None
        assert record.state == "ready"
        return record

    def state_files(self) -> list[str]:
        """Return the files below the state folder, logs left out."""
        files = (path for path in self.state_dir.rglob("*") if path.is_file())
        names = (str(path.relative_to(self.state_dir)) for path in files)
        return sorted(name for name in names if not name.startswith("logs/"))


def left_behind(record: ServerRecord) -> list[str]:
    """Return what there is of a server that has ended."""
    assert record.triton is not None
    found = [f"process {pid}" for pid in living_members(record.triton.pid)]
    found += [f"process {pid} of the owner" for pid in living_members(record.owner.pid)]
    patterns = (f"/dev/shm/forge_{record.stamp}_*", f"{tempfile.gettempdir()}/forge-{record.stamp}")
    for pattern in patterns:
        path = Path(pattern)
        found += map(str, path.parent.glob(path.name))
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            is_marked = f"FORGE_CYCLES_MARK={record.log_path.parent}".encode() in (
                process.read_bytes()
            )
        except OSError:
            continue
        if is_marked and process.parent.name != str(os.getpid()):
            found.append(f"process {process.parent.name}")
    return found


def wait_until_gone(record: ServerRecord) -> float:
    """Return the seconds until nothing was left of a server whose owner was killed."""
    started = time.monotonic()
    while found := left_behind(record):
        assert time.monotonic() - started < DEADLINE_S, f"left behind: {found}"
        time.sleep(_POLL_S)
    return time.monotonic() - started


def run(cycles: Cycles, count: int, kill_each: int) -> Times:
    """Run the cycles."""
    times = Times()
    first_files: list[str] = []
    for number in range(1, count + 1):
        started = time.monotonic()
        record = cycles.start()
        times.start_s.append(time.monotonic() - started)
        if kill_each and number % kill_each == 0:
            os.kill(record.owner.pid, signal.SIGKILL)
            times.kill_s.append(wait_until_gone(record))
        else:
            started = time.monotonic()
            cycles.forge("stop", NAME)
            times.stop_s.append(time.monotonic() - started)
            assert not (found := left_behind(record)), f"cycle {number} left behind: {found}"
        first_files = first_files or cycles.state_files()
        assert cycles.state_files() == first_files, (first_files, cycles.state_files())
        if number % 20 == 0:
            print(f"{number} cycles, nothing is left behind", flush=True)
    return times


def main() -> None:
    """Run the cycles and print how long they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--kill-each", type=int, default=10, metavar="N", help="0 for never")
    parser.add_argument("--repository", type=Path, help="what to serve instead of the mock")
    parser.add_argument("--fake", action="store_true", help="a stand-in for Triton")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="forge-cycles-") as name:
        root = Path(name)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FORGE_CACHE_DIR": str(root / "cache"),
            "FORGE_STATE_DIR": str(root / "state"),
            "FORGE_CYCLES_MARK": str(root / "state" / "logs"),
        }
        if arguments.fake:
            repository_dir = build_repository(root / "mock")
            executable = root / "bin" / "tritonserver"
            executable.parent.mkdir()
            text = (ROOT / "tests" / "servers" / "fake_triton.py").read_text()
            executable.write_text(f"#!{sys.executable} -B\n{text}")
            executable.chmod(0o755)
            path = f"{executable.parent}{os.pathsep}{os.environ['PATH']}"
            environment |= {"PATH": path, "FAKE_TRITON": "ready"}
        else:
            repository_dir = arguments.repository or build_mock_repository(root / "mock")
        cycles = Cycles(
            root=root,
            repository_dir=repository_dir.absolute(),
            environment=environment,
            # The usual ones may be those of another state folder's servers.
            port_flags=tuple(
                f"--{name}-port={free_port(DEFAULT_HOST)}" for name in ("http", "grpc", "metrics")
            ),
        )
        try:
            times = run(cycles, arguments.cycles, arguments.kill_each)
        finally:
            # So that a cycle that failed leaves nothing either.
            cycles.forge("stop", "--all", "--timeout", "0")
        logs = list((cycles.state_dir / "logs").iterdir())
        print(f"{arguments.cycles} cycles, nothing is left behind but {len(logs)} logs")
        print("\n".join(times.lines()))


if __name__ == "__main__":
    main()
