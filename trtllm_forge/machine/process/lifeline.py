"""Ends a process group when the forge that started it is gone, for whatever reason.

Run as a script, by ``process.ManagedProcess``, in a session of its own::

    python lifeline.py GRACE_S RECORD PATTERN...    stdin: a pipe whose other end forge holds

The first line of stdin is the process group and its leader's start time. One more byte means
that forge has cleaned up. End of file without it means that forge was killed: the group gets
TERM, a wait and KILL, and whatever matches the patterns is removed: files or, for a pattern
``container:LABEL``, the containers with that docker label. The file ``RECORD`` is removed too if
it is not empty and describes that same leader. Only the standard library is imported, so that
``-I -S`` works.

A group means the whole session that its leader started: ``mpirun`` gives each rank a process
group of its own and leaves them all behind when it is killed.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

START_TIME_FIELD = 19
"""Field 22 of ``/proc/<pid>/stat``, counted from the state, which is field 3."""

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
"""Variables that tell a process its rank, the most reliable first."""

CONTAINER_PREFIX = "container:"
"""Prefix of a pattern that names containers, by their label, instead of paths."""

_SESSION_FIELD = 3
_POLL_S = 0.05
_DOCKER_WAIT_S = 60.0
# Pauses before each look for containers. When docker was killed while creating one, the daemon
# may still be creating it.
_LOOKS_S = (0.0, 0.0, 0.0)
_PATIENT_LOOKS_S = (0.0, 0.5, 1.0, 2.0)


def living_members(group: int) -> tuple[int, ...]:
    """Return the processes of a group, without zombies."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        fields = stat_fields(int(entry.name))
        if fields and fields[0] not in "ZX" and fields[_SESSION_FIELD] == str(group):
            members.append(int(entry.name))
    return tuple(sorted(members))


def stat_fields(pid: int) -> tuple[str, ...]:
    """Return ``/proc/<pid>/stat`` from the state on, or nothing when there is no such process.

    The command before it is in parentheses and may contain any character.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ()
    return tuple(text[text.rindex(")") + 2 :].split())


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a group, ignoring one that is gone."""
    _signal(living_members(group), number)


def ask_to_end(group: int) -> None:
    """Send TERM to rank 0 of an MPI job, else to the whole group.

    ``mpirun`` reacts to TERM by killing its ranks a second later. When rank 0 ends, the others
    follow, and ``mpirun`` after them.
    """
    members = living_members(group)
    leaders = tuple(pid for pid in members if pid != group and _mpi_rank(pid) == "0")
    _signal(leaders or members, signal.SIGTERM)


def _signal(pids: tuple[int, ...], number: signal.Signals) -> None:
    for process_group in {int(fields[2]) for fields in map(stat_fields, pids) if fields}:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process_group, number)


def _mpi_rank(pid: int) -> str | None:
    """Return the rank of a process that ``mpirun`` or ``srun`` started, or of a child of one."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    for name in RANK_VARIABLES:
        for entry in environ:
            if entry.startswith(f"{name}=".encode()):
                return entry.partition(b"=")[2].decode()
    return None


def wait_for_end(group: int, seconds: float) -> bool:
    """Return whether the last member of a group ended within ``seconds``."""
    deadline = time.monotonic() + seconds
    while living_members(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def remove_leftovers(patterns: tuple[str, ...], *, is_patient: bool = False) -> None:
    """Remove the files, folders and containers that match; links are not followed.

    Args:
        patterns: What to remove.
        is_patient: Whether a container may still be being created.
    """
    for pattern in patterns:
        if pattern.startswith(CONTAINER_PREFIX):
            _remove_containers(pattern.removeprefix(CONTAINER_PREFIX), is_patient=is_patient)
            continue
        for found in glob.glob(pattern):  # noqa: PTH207 - the patterns are absolute
            path = Path(found)
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _remove_containers(label: str, *, is_patient: bool) -> None:
    """Remove the containers that have a label, running or not, and what they wrote with them."""
    if shutil.which("docker") is None:
        return
    has_removed = False
    for pause_s in _PATIENT_LOOKS_S if is_patient else _LOOKS_S:
        time.sleep(pause_s)
        found = _ask_docker("ps", "--all", "--quiet", "--filter", f"label={label}").split()
        if found:
            _ask_docker("rm", "--force", "--volumes", *found)
            has_removed = True
        elif has_removed or not is_patient:
            return


def _ask_docker(*arguments: str) -> str:
    """Return docker's answer, or an empty text without one."""
    import subprocess

    try:
        answer = subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DOCKER_WAIT_S,
            # Keep Ctrl-C away from it.
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode(errors="replace")


def remove_record(path: str, pid: int, started_ticks: int) -> None:
    """Remove a server's record, unless it now describes another process."""
    try:
        document = json.loads(Path(path).read_text())
        is_own = (document["pid"], document["started_ticks"]) == (pid, started_ticks)
    except (OSError, ValueError, KeyError, TypeError):
        return
    if is_own:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def main() -> None:
    """Wait until forge reports cleanup or ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    grace_s, record, patterns = float(sys.argv[1]), sys.argv[2], tuple(sys.argv[3:])
    stream = sys.stdin.buffer
    line = stream.readline()
    if stream.read(1):
        return
    if line.strip():
        group, started_ticks = map(int, line.split())
        ask_to_end(group)
        wait_for_end(group, grace_s)
        signal_group(group, signal.SIGKILL)
        wait_for_end(group, grace_s)
        if record:
            remove_record(record, group, started_ticks)
    remove_leftovers(patterns, is_patient=True)


if __name__ == "__main__":
    main()
