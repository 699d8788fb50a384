"""A twin served on several ranks by a real ``forge serve``, and what is left when it has ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.ports import port_flags
from tests.process.recording import eventually, is_running
from trtllm_forge.machine.process.lifeline import living_members, stat_fields
from trtllm_forge.machine.process.rank_log import rank_log_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.twin import TwinWorkshop

DEADLINE_S = 60.0


@dataclass(kw_only=True)
class RankedServe:
    """A running ``forge serve``.

    Attributes:
        process: The command itself.
        state_dir: Its state folder, of its own.
        temp_dir: Its folder for temporary files, of its own.
        stdout: What it wrote, up to now; likewise the other one.
    """

    process: subprocess.Popen[str]
    state_dir: Path
    temp_dir: Path
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)

    @property
    def document(self) -> dict[str, Any]:
        """Return its one document, empty as long as there is none."""
        with contextlib.suppress(ValueError):
            found: dict[str, Any] = json.loads("".join(self.stdout))
            return found
        return {}

    def wait_until_ready(self) -> dict[str, Any]:
        """Return the document once it is there."""
        reached = eventually(
            lambda: bool(self.document) or self.process.poll() is not None, within_s=DEADLINE_S
        )
        assert reached, self.log()
        assert "http" in self.document, "".join([*self.stderr, *self.stdout])
        return self.document

    def wait(self) -> int:
        """Return its exit code."""
        return self.process.wait(timeout=DEADLINE_S)

    @property
    def leader(self) -> int | None:
        """Return the process that leads all others, ``mpirun``, once it is there."""
        for entry in Path("/proc").iterdir():
            fields = stat_fields(int(entry.name)) if entry.name.isdigit() else ()
            if fields and fields[1] == str(self.process.pid) and fields[3] == entry.name:
                command = (entry / "cmdline").read_bytes()
                if b"lifeline" not in command:
                    return int(entry.name)
        return None

    def members(self) -> tuple[int, ...]:
        """Return all processes of the job."""
        leader = self.leader
        return living_members(leader) if leader is not None else ()

    def server(self, rank: int) -> int:
        """Return the ``tritonserver`` of a rank."""
        found = [pid for pid in self.members() if is_server(pid) and rank_of(pid) == rank]
        assert len(found) == 1
        return found[0]

    def log_path(self, rank: int = 0) -> Path:
        """Return where a rank's lines are."""
        paths = list((self.state_dir / "logs").glob("*.log"))
        main = min(paths, key=lambda path: len(path.name))
        return rank_log_path(main, rank)

    def log(self, rank: int = 0) -> str:
        """Return a rank's lines, up to now."""
        with contextlib.suppress(OSError, ValueError):
            return self.log_path(rank).read_text()
        return ""

    def leftovers(self) -> list[str]:
        """Return what it left: shared memory, sockets, files of its own and of ``mpirun``."""
        shared = [str(path) for path in Path("/dev/shm").glob(f"forge_{self.process.pid}_*")]
        sockets = Path("/proc/net/unix").read_text().splitlines()
        meetings = [
            line for line in sockets if f"forge-ranks-{os.getuid()}-{self.process.pid}_" in line
        ]
        records = [str(path) for path in (self.state_dir / "servers").glob("*.json")]
        runs = [str(path) for path in (self.state_dir / "run").glob("*")]
        return [*shared, *meetings, *records, *runs, *map(str, self.temp_dir.iterdir())]


@contextlib.contextmanager
def serve_ranks(
    workshop: TwinWorkshop,
    repository_dir: Path | str,
    *flags: str,
    state_dir: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[RankedServe]:
    """Run ``forge serve --json`` on free ports, and see that nothing at all is left of it."""
    ports = port_flags()
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        state_dir = state_dir or Path(folder) / "state"
        temp_dir = Path(folder) / "tmp"
        temp_dir.mkdir()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "trtllm_forge", "serve", str(repository_dir), "--json"),
                *(ports if not any("-port" in flag for flag in flags) else []),
                *flags,
            ],
            env={
                **workshop.environment,
                "FORGE_STATE_DIR": str(state_dir),
                "TMPDIR": str(temp_dir),
                **(variables or {}),
            },
            cwd=workshop.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        run = RankedServe(process=process, state_dir=state_dir, temp_dir=temp_dir)
        readers = [
            threading.Thread(target=run.stdout.extend, args=(process.stdout,)),
            threading.Thread(target=run.stderr.extend, args=(process.stderr,)),
        ]
        for reader in readers:
            reader.start()
        members: tuple[int, ...] = ()
        try:
            yield run
            members = run.members()
        finally:
            if process.poll() is None:
                members = run.members()
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=DEADLINE_S)
            finally:
                process.kill()
                for reader in readers:
                    reader.join()
                process.stdout.close()
                process.stderr.close()
        assert eventually(lambda: not any(map(is_running, members)))
        assert eventually(lambda: run.leftovers() == []), run.leftovers()


def rank_of(pid: int) -> int | None:
    """Return the rank that a process's environment tells."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith((b"OMPI_COMM_WORLD_RANK=", b"SLURM_PROCID=")):
                return int(entry.partition(b"=")[2])
    return None


def is_server(pid: int) -> bool:
    """Return whether a process is a ``tritonserver``, and not what it starts or was started by."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/exe").resolve().name == "tritonserver"
    return False
