"""A managed process against real children that misbehave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.recording import RecordingReporter, eventually, is_running
from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.process import lifeline
from trtllm_forge.machine.process.lifeline import living_members
from trtllm_forge.machine.process.managed import ManagedProcess

SERVERS_DIR = Path(__file__).parent.parent.parent / "servers"
CHECKOUT_DIR = SERVERS_DIR.parent.parent
CHATTY_LINES = 20_000


def managed(
    server: str,
    tmp_path: Path,
    reporter: RecordingReporter | None = None,
    leftovers: tuple[str, ...] = (),
    grace_s: float = 0.2,
) -> ManagedProcess:
    return ManagedProcess(
        [sys.executable, str(SERVERS_DIR / f"{server}.py")],
        source=server,
        log_path=tmp_path / "logs" / f"{server}.log",
        reporter=reporter or RecordingReporter(),
        grace_s=grace_s,
        leftovers=leftovers,
    )


def first_line(process: ManagedProcess) -> str:
    assert process.wait_until(lambda: bool(process.last_lines), 10) == "ready"
    return process.last_lines[0]


def test_all_output_of_a_chatty_child_reaches_log_and_reporter(tmp_path: Path) -> None:
    reporter = RecordingReporter()

    with managed("chatty", tmp_path, reporter) as process:
        code = process.wait()

    assert code == 0
    assert len(reporter.lines) == CHATTY_LINES + 1
    assert reporter.lines[-1] == ("chatty", "the last line")
    assert process.log_path.read_text().splitlines() == [line for _, line in reporter.lines]
    assert process.last_lines[-1] == "the last line"
    assert len(process.last_lines) == 200


class RaisingReporter(RecordingReporter):
    def child_line(self, source: str, line: str) -> None:
        super().child_line(source, line)
        raise BrokenPipeError


def test_a_child_outlives_a_full_disk_and_a_reporter_that_raises() -> None:
    reporter = RaisingReporter()
    process = ManagedProcess(
        [sys.executable, str(SERVERS_DIR / "chatty.py")],
        source="chatty",
        log_path=Path("/dev/full"),
        reporter=reporter,
    )

    with process:
        code = process.wait()

    assert code == 0
    assert len(reporter.lines) == CHATTY_LINES + 1
    assert process.last_lines[-1] == "the last line"


def test_a_log_that_cannot_be_written_is_told_before_the_child_runs(tmp_path: Path) -> None:
    process = ManagedProcess(
        ["/nowhere/tritonserver"],
        source="triton",
        log_path=Path("/proc/nope/triton.log"),
        reporter=RecordingReporter(),
    )

    with pytest.raises(PrerequisiteError) as caught, process:
        pass

    assert caught.value.what == "/proc/nope cannot be written"
    assert caught.value.why == "the log of triton goes there: no such file or directory"


def test_the_command_is_reported_before_it_runs(tmp_path: Path) -> None:
    reporter = RecordingReporter()

    with managed("dying", tmp_path, reporter) as process:
        process.wait()

    assert reporter.commands == [(sys.executable, str(SERVERS_DIR / "dying.py"))]


def test_waiting_for_a_child_that_dies_ends_at_once_and_tells_how(tmp_path: Path) -> None:
    with managed("dying", tmp_path) as process:
        outcome = process.wait_until(lambda: False, 60)

        assert outcome == "ended"
        assert process.ending() == "exit code 3"
        assert sorted(process.last_lines) == ["no weights here", "warming up"]


def test_a_dead_child_is_not_ready_even_where_something_answers(tmp_path: Path) -> None:
    with managed("dying", tmp_path) as process:
        process.wait()

        assert process.wait_until(lambda: True, 60) == "ended"


def test_a_deadline_passes_while_the_child_lives(tmp_path: Path) -> None:
    with managed("deaf_to_term", tmp_path) as process:
        assert process.wait_until(lambda: False, 0.1) == "timeout"
        assert process.ending() == "still running"


def test_a_child_deaf_to_term_is_killed_after_the_grace(tmp_path: Path) -> None:
    with managed("deaf_to_term", tmp_path) as process:
        assert first_line(process) == "deaf"
        process.stop()

    # KILL and not TERM, to which it is deaf: the stop came to an end of its own.
    assert process.ending() == "signal SIGKILL"


def test_stopping_ends_the_whole_group(tmp_path: Path) -> None:
    with managed("parent", tmp_path) as process:
        grandchild = int(first_line(process).split()[1])
        assert living_members(process.pid) == tuple(sorted((process.pid, grandchild)))

    assert not is_running(process.pid)
    assert not is_running(grandchild)


def test_what_a_dead_leader_started_is_ended_too(tmp_path: Path) -> None:
    with managed("parent", tmp_path) as process:
        grandchild = int(first_line(process).split()[1])
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert is_running(grandchild)

    assert process.ending() == "signal SIGKILL"
    assert not is_running(grandchild)


def test_leftovers_are_removed_when_the_group_has_ended(tmp_path: Path) -> None:
    region, folder = tmp_path / "shm_1", tmp_path / "mirror"
    region.touch()
    (folder / "below").mkdir(parents=True)
    kept = tmp_path / "other"
    kept.touch()

    with managed("dying", tmp_path, leftovers=(str(tmp_path / "shm_*"), str(folder))) as process:
        process.wait()
        assert region.exists()

    assert not region.exists()
    assert not folder.exists()
    assert kept.exists()


def test_an_mpi_job_is_asked_to_end_through_its_rank_0(tmp_path: Path) -> None:
    with managed("ranks", tmp_path, grace_s=20) as process:
        ranks = rank_pids(process)
        process.stop()

    assert process.ending() == "exit code 0"
    assert process.last_lines[-2:] == ("asked", "all ended")
    assert not any(map(is_running, ranks))


def test_ranks_that_a_killed_launcher_left_are_ended(tmp_path: Path) -> None:
    with managed("ranks", tmp_path) as process:
        ranks = rank_pids(process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert living_members(process.pid) == ranks

    assert not any(map(is_running, ranks))


def rank_pids(process: ManagedProcess) -> tuple[int, ...]:
    assert process.wait_until(lambda: len(process.last_lines) == 2, 10) == "ready"
    return tuple(sorted(int(line.split()[2]) for line in process.last_lines))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_nothing_outlives_an_owner_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    region = tmp_path / "region"
    region.touch()
    owner = subprocess.Popen(
        [sys.executable, str(SERVERS_DIR / "owner.py"), str(tmp_path / "log"), str(region)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT_DIR)},
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        owner.send_signal(number)

        assert owner.wait(timeout=10) == -number
        assert eventually(lambda: not any(map(is_running, pids)))
        assert eventually(lambda: not region.exists())


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "of-another"])
def test_a_lifeline_removes_the_record_of_its_own_process_alone(
    tmp_path: Path, is_own: bool
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    record, leftover = tmp_path / "server.json", tmp_path / "leftover"
    started_ticks = 12 if is_own else 13
    record.write_text(json.dumps({"pid": child.pid, "started_ticks": started_ticks}))
    leftover.touch()

    subprocess.run(
        [sys.executable, lifeline.__file__, "0", str(record), str(leftover)],
        input=f"{child.pid} 12\n".encode(),
        check=True,
    )

    assert record.exists() is not is_own
    assert not leftover.exists()


def test_an_interrupt_while_stopping_kills_at_once(tmp_path: Path) -> None:
    process = managed("deaf_to_term", tmp_path)
    process.__enter__()
    first_line(process)
    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.stop(grace_s=60)
    finally:
        signal.signal(signal.SIGALRM, previous)

    assert process.ending() == "signal SIGKILL"


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def test_child_that_shares_its_cores_is_started_as_a_batch_process(tmp_path: Path) -> None:
    process = ManagedProcess(
        [sys.executable, str(SERVERS_DIR / "deaf_to_term.py")],
        source="child",
        log_path=tmp_path / "child.log",
        reporter=RecordingReporter(),
        grace_s=0.2,
        shares_cores=True,
    )
    with process:
        assert os.sched_getscheduler(process.pid) == os.SCHED_BATCH


def test_a_missing_executable_is_named(tmp_path: Path) -> None:
    process = ManagedProcess(
        ["/nowhere/tritonserver"],
        source="triton",
        log_path=tmp_path / "log",
        reporter=RecordingReporter(),
    )

    with pytest.raises(PrerequisiteError) as caught, process:
        pass

    assert caught.value.what == "/nowhere/tritonserver cannot be started"
    assert caught.value.why == "no such file or directory"
    assert caught.value.exit_code == 3
