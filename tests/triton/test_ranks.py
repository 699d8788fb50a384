"""The twin on several ranks: a real Open MPI, a real Triton for each, and real signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.process.recording import eventually, is_running
from tests.triton.ranks import RankedServe, is_server, rank_of, serve_ranks
from trtllm_forge.serving.plan.ports import port_holders

if TYPE_CHECKING:
    from tests.twin import TwinWorkshop

pytestmark = pytest.mark.triton

STAND_INS_DIR = Path(__file__).parent.parent / "stand_ins"
GATED = """\
import os, time
from pathlib import Path

rank = os.environ.get("OMPI_COMM_WORLD_RANK")
while Path(__file__).with_name(f"closed{rank}").exists():
    time.sleep(0.02)
if Path(__file__).with_name(f"broken{rank}").exists():
    raise ValueError(f"rank {rank} has no weights")
"""


@pytest.fixture(scope="module")
def repository_dir(fp16_document: dict[str, Any]) -> Path:
    return Path(fp16_document["repository"])


@pytest.fixture
def gated_dir(repository_dir: Path, tmp_path: Path) -> Path:
    """Return a twin of which ranks can be held up, or broken, by a file beside their model."""
    copy = Path(shutil.copytree(repository_dir, tmp_path / "gated"))
    for name in ("forge.manifest.json", "forge.lock"):
        (copy / name).unlink()
    path = copy / "tensorrt_llm" / "1" / "model.py"
    path.write_text(GATED + path.read_text())
    return copy


def gate(repository_dir: Path, rank: int, word: str = "closed") -> Path:
    path = repository_dir / "tensorrt_llm" / "1" / f"{word}{rank}"
    path.touch()
    return path


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_serve_until_they_are_told_to_stop(
    workshop: TwinWorkshop, repository_dir: Path, size: int
) -> None:
    with serve_ranks(workshop, repository_dir, "--world-size", str(size)) as run:
        document = run.wait_until_ready()
        answered = workshop.forge(
            *("complete", "def add(a, b):", "--max-tokens", "4", "--json"),
            *("--http", document["http"]),
        )
        probed = workshop.forge("probe", "--json", "--http", document["http"])
        members = run.members()
        servers = {rank_of(pid): pid for pid in members if is_server(pid)}
        engines = {rank_of(pid) for pid in members if maps_openvino(pid)}
        listening = {pid for port in ports_of(document) for pid, _ in port_holders(port)}
        run.process.send_signal(signal.SIGTERM)
        code = run.wait()
        logs = [run.log(rank) for rank in range(size)]

    assert code == 0
    assert document["world_size"] == size
    assert json.loads(answered.stdout)["usage"]["completion_tokens"] == 4
    assert all(probe["ok"] for probe in json.loads(probed.stdout)["probes"])
    assert set(servers) == set(range(size))
    assert engines == {0}
    assert listening == {servers[0]}
    assert "noticed" not in logs[0]
    assert "detected" not in logs[0]
    for rank in range(1, size):
        assert f"rank 0 has left, so rank {rank} ends" in logs[rank]
        # It ended by itself, and was not killed when the time for it was over.
        assert "Found 0 live models" in logs[rank]
        assert f"rank {rank} of {size} has joined" in logs[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_takes_the_others_along_and_is_named(
    workshop: TwinWorkshop, repository_dir: Path, rank: int
) -> None:
    with serve_ranks(workshop, repository_dir, "--world-size", "2") as run:
        run.wait_until_ready()
        members = run.members()
        os.kill(run.server(rank), signal.SIGKILL)
        code = run.wait()
        log_path = run.log_path(rank)
        error, why, hint, log = "".join(run.stderr).splitlines()[-4:]

    assert code == 7
    assert error == f"error: rank {rank} of 2, which served fp16, ended with signal SIGKILL"
    assert why.startswith("  why:  it was stopped from outside; its last lines: ")
    assert hint == "  try:  forge serve fp16 --world-size 2"
    assert log == f"  log:  {log_path}"
    assert not any(map(is_running, members))


@pytest.mark.parametrize("victim", ["forge", "mpirun"])
def test_nothing_outlives_the_one_that_started_it(
    workshop: TwinWorkshop, repository_dir: Path, victim: str
) -> None:
    with serve_ranks(workshop, repository_dir, "--world-size", "2") as run:
        run.wait_until_ready()
        members = run.members()
        leader = run.leader
        assert leader is not None
        os.kill(run.process.pid if victim == "forge" else leader, signal.SIGKILL)
        code = run.wait()
        assert eventually(lambda: not any(map(is_running, members)), within_s=40)

    assert len(members) >= 1 + 2 + 2
    assert code == (-signal.SIGKILL if victim == "forge" else 7)


def test_a_port_that_is_taken_is_told_before_any_rank_starts(
    workshop: TwinWorkshop, repository_dir: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ("--world-size", "2", f"--http-port={port}")
        with serve_ranks(workshop, repository_dir, *flags) as run:
            code = run.wait()

    assert code == 7
    assert error_of(run)["what"] == f"port {port}, requested for HTTP, is taken"
    assert not (run.state_dir / "logs").exists()


def test_rank_0_is_ready_when_the_slowest_has_joined(
    workshop: TwinWorkshop, gated_dir: Path
) -> None:
    gates = [gate(gated_dir, rank) for rank in (1, 2)]
    with serve_ranks(workshop, gated_dir, "--world-size", "3") as run:
        assert eventually(lambda: "loading: tensorrt_llm" in run.log(1), within_s=30)
        gates[0].unlink()
        assert eventually(
            lambda: "rank 1 of 3 has joined, 2 of 3 are here" in run.log(), within_s=30
        )
        assert not run.document
        assert "rank 2" not in run.log()
        gates[1].unlink()

        document = run.wait_until_ready()
        ready = httpx.get(f"{document['http']}/v2/health/ready", timeout=30)

    assert ready.status_code == 200
    assert "rank 2 of 3 has joined, 3 of 3 are here" in run.log() or run.process.returncode == 0


def test_ranks_that_never_join_are_named(workshop: TwinWorkshop, gated_dir: Path) -> None:
    gate(gated_dir, 1)
    gate(gated_dir, 3)
    flags = ("--world-size", "4", "--ready-timeout-s", "12")
    with serve_ranks(workshop, gated_dir, *flags) as run:
        code = run.wait()
        log_path = run.log_path()

    error = error_of(run)
    assert code == 7
    assert error["what"] == (
        "rank 0 of 4: model tensorrt_llm did not load: "
        "RendezvousError: ranks 1, 3 of 4 did not join in time"
    )
    assert "; rank 1: its last lines: " in error["why"]
    assert "; rank 3: its last lines: " in error["why"]
    assert error["log_path"] == str(log_path)


def test_a_rank_that_does_not_load_is_told_with_its_own_error(
    workshop: TwinWorkshop, gated_dir: Path
) -> None:
    gate(gated_dir, 1, "broken")
    with serve_ranks(workshop, gated_dir, "--world-size", "2") as run:
        code = run.wait()
        log_path = run.log_path(1)

    error = error_of(run)
    assert code == 7
    assert error["what"] == (
        "rank 1 of 2: model tensorrt_llm did not load: ValueError: rank 1 has no weights"
    )
    assert error["log_path"] == str(log_path)


def test_a_stop_while_ranks_still_load_leaves_nothing(
    workshop: TwinWorkshop, gated_dir: Path
) -> None:
    gate(gated_dir, 1)
    with serve_ranks(workshop, gated_dir, "--world-size", "2") as run:
        assert eventually(lambda: "loading: tensorrt_llm" in run.log(1), within_s=30)
        members = run.members()
        run.process.send_signal(signal.SIGTERM)
        code = run.wait()

    assert code == 0
    assert not any(map(is_running, members))


def test_ranks_do_with_odd_paths(
    workshop: TwinWorkshop, repository_dir: Path, tmp_path: Path
) -> None:
    state_dir = tmp_path / "the état of things"
    with serve_ranks(workshop, repository_dir, "--world-size", "2", state_dir=state_dir) as run:
        run.wait_until_ready()
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0


@pytest.mark.parametrize("ending", ["stopped", "rank 1 killed"])
def test_srun_starts_the_ranks_inside_an_allocation(
    workshop: TwinWorkshop, repository_dir: Path, tmp_path: Path, ending: str
) -> None:
    srun = tmp_path / "srun"
    srun.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_INS_DIR / "srun.py"} "$@"\n')
    srun.chmod(0o755)
    variables = {"SLURM_JOB_ID": "17", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    flags = ("--world-size", "2")
    with serve_ranks(workshop, repository_dir, *flags, variables=variables) as run:
        run.wait_until_ready()
        if ending == "stopped":
            run.process.send_signal(signal.SIGTERM)
        else:
            os.kill(run.server(1), signal.SIGKILL)
        code = run.wait()
        logs = [run.log(rank) for rank in range(2)]

    assert "rank 1 of 2 has joined, 2 of 2 are here" in logs[0]
    assert "loading: tensorrt_llm" in logs[1]
    if ending == "stopped":
        assert code == 0
    else:
        assert code == 7
        assert run.stderr[-4].startswith("error: rank 1 of 2, which served fp16, ended with signal")


def error_of(run: RankedServe) -> dict[str, Any]:
    error: dict[str, Any] = json.loads("".join(run.stdout))["error"]
    return error


def ports_of(document: dict[str, Any]) -> list[int]:
    addresses = (document["http"], document["grpc"], document["metrics"].removesuffix("/metrics"))
    return [int(str(address).rpartition(":")[2]) for address in addresses]


def maps_openvino(pid: int) -> bool:
    try:
        return "libopenvino" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
