"""The twin's place in an MPI job: which rank this is, and when all of them are there.

TensorRT-LLM in leader mode runs one server per rank. Rank 0 answers; the others stay in
``initialize``, without ports, until it leaves, and end with code 0. The twin does the same and
shares no work: rank 0 holds the whole engine, the others hold nothing.

Rank 0 listens on an abstract socket, which is no file, and takes each other rank's line::

    rank 1 of 2

It answers ``all here`` once everybody has come, and ``leave`` when it is unloaded. A connection
that ends without that word tells either side that the other one died.
"""

import contextlib
import ctypes
import os
import re
import selectors
import signal
import socket
import struct
import threading
import time
from pathlib import Path

_RANK_NAMES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
_JOB_NAMES = ("FORGE_RENDEZVOUS", "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri")
_DEADLINE_NAME = "FORGE_RENDEZVOUS_DEADLINE_S"
_DEADLINE_S = 60.0
_POLL_S = 0.05
_HELLO = re.compile(r"rank (\d+) of (\d+)\n")
_LINE_BYTES = 64
_PR_SET_PDEATHSIG = 1
_START_TIME_FIELD = 19  # of /proc/<pid>/stat, counted from the state

# By rank. Not closed when rank 0 gives up: the others shall hear of it after it has said why.
_joined = {}


class RendezvousError(Exception):
    """A rank is missing, or has gone."""


def join_ranks(log):
    """Return this rank once all are there; one above 0 returns when rank 0 has left.

    Without MPI, or with one rank, nothing happens. ``log`` takes a line of text.

    Raises:
        RendezvousError: After the deadline, with the ranks that are missing.
    """
    rank, size = _number(_RANK_NAMES, 0), _world_size()
    if size == 1:
        return Leader(())
    allowed_s = float(os.environ.get(_DEADLINE_NAME, _DEADLINE_S))
    deadline = time.monotonic() + allowed_s - _age_s(os.getppid())
    if rank == 0:
        return _gather(size, deadline, log)
    _follow(rank, size, deadline, log)
    return Follower()


class Leader:
    """Rank 0, with a connection to each of the others."""

    is_leader = True

    def __init__(self, connections):
        self._connections = connections

    def leave(self):
        """Let the other ranks end."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sendall(b"leave\n")
            connection.close()


class Follower:
    """A rank above 0 whose leader has left: it ends its server as well, with code 0."""

    is_leader = False

    def __init__(self):
        threading.Thread(target=_end_server, args=(os.getppid(),), daemon=True).start()

    def leave(self):
        """Hold nobody up."""


def _gather(size, deadline, log):
    """Wait for every other rank; return the leader."""
    joined = _joined
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(_address())
        listener.listen(size)
        selector.register(listener, selectors.EVENT_READ)
        while len(joined) < size - 1:
            missing = [rank for rank in range(1, size) if rank not in joined]
            if time.monotonic() > deadline:
                raise RendezvousError(f"{_named(missing)} of {size} did not join in time")
            for key, _ in selector.select(_POLL_S):
                if key.fileobj is not listener:
                    raise RendezvousError(f"rank {key.data} of {size} left before all had joined")
                connection, rank = _accepted(listener, size, joined)
                if connection is not None:
                    joined[rank] = connection
                    selector.register(connection, selectors.EVENT_READ, data=rank)
                    log(f"rank {rank} of {size} has joined, {len(joined) + 1} of {size} are here")
    for connection in joined.values():
        connection.sendall(b"all here\n")
    return Leader(tuple(joined.values()))


def _accepted(listener, size, joined):
    """Return a connection and its rank, or nothing for a stranger."""
    connection, _ = listener.accept()
    connection.settimeout(1)
    hello = None
    if _is_own(connection):
        with contextlib.suppress(OSError):
            hello = _HELLO.fullmatch(connection.recv(_LINE_BYTES).decode(errors="replace"))
    if hello is None or int(hello[2]) != size or not 0 < int(hello[1]) < size:
        connection.close()
        return None, 0
    if int(hello[1]) in joined:
        connection.close()
        raise RendezvousError(f"rank {hello[1]} of {size} came twice")
    connection.settimeout(None)
    return connection, int(hello[1])


def _follow(rank, size, deadline, log):
    """Join rank 0 and stay until it leaves."""
    # Triton looks after its stubs only once they have loaded, which this one has not.
    _on_server_death(signal.SIGKILL)
    with _connected(rank, size, deadline) as connection:
        connection.sendall(f"rank {rank} of {size}\n".encode())
        said = b""
        while not said.endswith(b"leave\n"):
            part = connection.recv(_LINE_BYTES)
            if not part:
                when = "after all had joined" if said else "before all had joined"
                raise RendezvousError(f"rank 0 of {size} has gone, {when}")
            said += part
        log(f"rank 0 has left, so rank {rank} ends")
    _on_server_death(0)


def _connected(rank, size, deadline):
    """Return a connection to rank 0, which may come later than this one."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(_address())
        except OSError:
            connection.close()
        else:
            if _is_own(connection):
                return connection
            connection.close()
            raise RendezvousError("rank 0 belongs to another user")
        if time.monotonic() > deadline:
            raise RendezvousError(f"rank 0 of {size} was not there in time for rank {rank}")
        time.sleep(_POLL_S)


def _address():
    """Return the socket's name, the same for every rank of a job and for no other job."""
    job = next((os.environ[name] for name in _JOB_NAMES if os.environ.get(name)), "one")
    return f"\0forge-ranks-{os.getuid()}-{job}"[:100]


def _is_own(connection):
    """Return whether a process of the same user is at the other end."""
    form = struct.Struct("3i")
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    return form.unpack(peer)[1] == os.getuid()


def _age_s(pid):
    """Return how long ago a process started; the deadline counts from its server's start."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started_s = int(fields[_START_TIME_FIELD]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    return 0.0


def _end_server(server_pid):
    """End the server of this rank once it waits for TERM.

    One that comes after it has begun to listen, and before it waits, would not wake it.
    """
    before = None
    while os.getppid() == server_pid:
        now = _status(server_pid)
        if _waits_for_term(now) and now == before:
            os.kill(server_pid, signal.SIGTERM)
            return
        before = now
        time.sleep(_POLL_S)


def _waits_for_term(status):
    """Return whether a process catches TERM, and its main thread sleeps."""
    caught = int(status.get("SigCgt", "0"), 16)
    return bool(caught & 1 << (signal.SIGTERM - 1)) and status.get("State", "").startswith("S")


def _on_server_death(number):
    """Have the kernel send this process a signal when its server dies; 0 for none."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def _status(pid):
    """Return what tells whether the main thread of a process has done anything since."""
    names = ("State", "SigCgt", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        pairs = [line.split(":", 1) for line in lines]
        return {name: text.strip() for name, text in pairs if name in names}
    return {}


def _world_size():
    # A batch script of Slurm has those variables as well, and is no rank of anything.
    is_launched = "FORGE_RENDEZVOUS" in os.environ
    slurm = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if is_launched else ()
    return _number(("OMPI_COMM_WORLD_SIZE", *slurm), 1)


def _number(names, default):
    """Return the first of some variables, as a number."""
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def _named(ranks):
    word = "rank" if len(ranks) == 1 else "ranks"
    return f"{word} {', '.join(map(str, ranks))}"
