"""The twin's ranks meeting each other: threads stand for the ranks, in one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.template_modules import template_module

if TYPE_CHECKING:
    from collections.abc import Iterator

rendezvous = template_module("rendezvous")


class Ranks:
    """Ranks of one job, each with an environment of its own and a log that all share."""

    def __init__(self, size: int, pool: ThreadPoolExecutor, patch: pytest.MonkeyPatch) -> None:
        self.size = size
        self.lines: list[str] = []
        self._pool = pool
        self._local = threading.local()
        self._environ = {
            "OMPI_COMM_WORLD_SIZE": str(size),
            "FORGE_RENDEZVOUS": uuid.uuid4().hex,
            "FORGE_RENDEZVOUS_DEADLINE_S": "20",
        }
        patch.setattr(rendezvous, "_number", self._number)
        patch.setattr(rendezvous, "_joined", {})
        patch.setattr(rendezvous, "_on_server_death", lambda _: None)
        patch.setattr(rendezvous, "_end_server", lambda _: None)
        # What started these ranks may have started long ago.
        patch.setattr(rendezvous, "_age_s", lambda _: 0.0)
        for name, value in self._environ.items():
            patch.setenv(name, value)

    def join(self, rank: int) -> Future[Any]:
        return self._pool.submit(self._join, rank)

    def _join(self, rank: int) -> Any:
        self._local.rank = rank
        return rendezvous.join_ranks(self.lines.append)

    def _number(self, names: tuple[str, ...], _: int) -> int:
        if names[0] == "OMPI_COMM_WORLD_RANK":
            return int(self._local.rank)
        return self.size


MakeRanks = Callable[[int], Ranks]


@pytest.fixture
def make_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRanks]:
    """Give jobs of any size; what their ranks held is closed, as when a process ends."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield lambda size: Ranks(size, pool, monkeypatch)
        close_connections()


def close_connections() -> None:
    for connection in rendezvous._joined.values():
        connection.close()


def test_without_mpi_there_is_a_leader_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_SIZE", "FORGE_RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    # What a batch script of Slurm has, which is no rank of anything.
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")

    rank = rendezvous.join_ranks(print)
    rank.leave()

    assert rank.is_leader


def test_ranks_meet_in_any_order_and_end_with_their_leader(make_ranks: MakeRanks) -> None:
    ranks = make_ranks(3)
    second = ranks.join(2)
    leader = ranks.join(0)
    first = ranks.join(1)

    met = leader.result(timeout=20)
    assert met.is_leader
    assert not first.done()
    assert not second.done()
    met.leave()

    assert not first.result(timeout=20).is_leader
    assert not second.result(timeout=20).is_leader
    assert [line for line in ranks.lines if "3 of 3 are here" in line]


def test_missing_ranks_are_named_after_the_deadline(
    make_ranks: MakeRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = make_ranks(4)
    monkeypatch.setenv("FORGE_RENDEZVOUS_DEADLINE_S", "0.3")
    follower = ranks.join(2)
    with pytest.raises(rendezvous.RendezvousError, match=r"^ranks 1, 3 of 4 did not join in time$"):
        ranks.join(0).result(timeout=20)

    close_connections()
    with pytest.raises(rendezvous.RendezvousError, match="rank 0 of 4 has gone, before all"):
        follower.result(timeout=20)


def test_a_follower_names_the_leader_that_does_not_come(
    make_ranks: MakeRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = make_ranks(2)
    monkeypatch.setenv("FORGE_RENDEZVOUS_DEADLINE_S", "0")

    with pytest.raises(rendezvous.RendezvousError, match="rank 0 of 2 was not there in time"):
        ranks.join(1).result(timeout=20)


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        (b"rank 1 of 3\n", "rank 1 of 3 left before all had joined"),
        (b"rank 1 of 4\n", "ranks 1, 2 of 3 did not join in time"),
        (b"rank 3 of 3\n", "ranks 1, 2 of 3 did not join in time"),
        (b"GET / HTTP/1.1\r\n", "ranks 1, 2 of 3 did not join in time"),
    ],
    ids=["gone again", "of another job", "beyond the world", "a stranger"],
)
def test_who_is_no_rank_or_leaves_does_not_count(
    make_ranks: MakeRanks, monkeypatch: pytest.MonkeyPatch, hello: bytes, message: str
) -> None:
    ranks = make_ranks(3)
    monkeypatch.setenv("FORGE_RENDEZVOUS_DEADLINE_S", "0.5")
    leader = ranks.join(0)
    with socket.socket(socket.AF_UNIX) as stranger:
        connect(stranger)
        stranger.sendall(hello)

    with pytest.raises(rendezvous.RendezvousError, match=message):
        leader.result(timeout=20)


def test_one_rank_that_comes_twice_is_an_error(make_ranks: MakeRanks) -> None:
    ranks = make_ranks(3)
    leader = ranks.join(0)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        for connection in (one, other):
            connect(connection)
            connection.sendall(b"rank 2 of 3\n")
        with pytest.raises(rendezvous.RendezvousError, match="rank 2 of 3 came twice"):
            leader.result(timeout=20)


def connect(stranger: socket.socket) -> None:
    """Connect as soon as rank 0 listens."""
    while True:
        try:
            stranger.connect(rendezvous._address())
        except OSError:
            continue
        return


LISTENER = """
import signal, sys, time
sys.stdin.readline()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
until = time.monotonic() + 0.3
while time.monotonic() < until:
    pass
signal.pause()
"""


def test_a_server_gets_term_when_it_listens_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as server:
        assert server.stdin is not None
        monkeypatch.setattr(rendezvous.os, "getppid", lambda: server.pid)
        ending = threading.Thread(target=rendezvous._end_server, args=(server.pid,))
        ending.start()
        server.stdin.write(b"listen\n")
        server.stdin.flush()
        ending.join(timeout=20)
        code = server.wait(timeout=20)

    assert code == 0


def test_a_process_that_is_gone_waits_for_nothing() -> None:
    assert rendezvous._status(1 << 30) == {}
    assert not rendezvous._waits_for_term({})


def test_the_deadline_counts_from_the_start_of_the_server() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as server:
        age_s = rendezvous._age_s(server.pid)

    assert 0 <= age_s < 20
    assert rendezvous._age_s(os.getppid()) >= age_s
    assert rendezvous._age_s(1 << 30) == 0.0
