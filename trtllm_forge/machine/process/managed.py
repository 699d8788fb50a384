"""Owned child processes: started, watched, logged and stopped as a whole group.

A ``ManagedProcess`` leads its own process group. Its output goes into a log file and,
line by line, to the reporter. It is stopped with TERM, a wait and KILL on the whole group; a small
``lifeline`` process does the same when forge itself is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import PrerequisiteError, reason_of
from trtllm_forge.machine.process import lifeline
from trtllm_forge.machine.process.rank_log import RankLog
from trtllm_forge.machine.process.secrets import environment_without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import IO

    from typing_extensions import Self

    from trtllm_forge.machine.process.rank_log import SplitRank
    from trtllm_forge.reporter import Reporter

WaitOutcome = Literal["ready", "ended", "timeout"]

_KEPT_LINES = 200
_LINE_LIMIT_BYTES = 1 << 16
_POLL_S = 0.02
_KILL_WAIT_S = 5.0
_DRAIN_WAIT_S = 1.0


class ManagedProcess:
    """A child process and everything it starts, as a context manager.

    Args:
        argv: The command.
        source: The tag of its lines in the reporter.
        log_path: The file its stdout and stderr are appended to.
        reporter: Gets the command before it runs and each line, from a thread of its own.
        env: The child's whole environment, or None for forge's own.
        cwd: Its working directory, or None for forge's own.
        grace_s: Seconds between TERM and KILL.
        leftovers: Patterns of absolute paths to remove once the group has ended.
        shares_cores: Run it as a batch process, so that it does not interrupt processes that
            compute on the same cores.
        record_path: A JSON file that may be written while it runs; also removed when forge is
            killed, if its ``pid`` and ``started_ticks`` are the child's.
        split_rank: Tells which rank wrote a line, if it starts several; see ``rank_log``.
        secrets: Placeholders in the command, each with the secret that replaces it when run.
            Messages and reports show the placeholders.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        source: str,
        log_path: Path,
        reporter: Reporter,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_s: float = 10.0,
        leftovers: Sequence[str] = (),
        record_path: Path | None = None,
        shares_cores: bool = False,
        split_rank: SplitRank | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.argv = tuple(argv)
        self.log_path = log_path
        self._source = source
        self._reporter = reporter
        self._env = env
        self._cwd = cwd
        self._grace_s = grace_s
        self._leftovers = tuple(leftovers)
        self._shares_cores = shares_cores
        self._record = "" if record_path is None else str(record_path)
        self._split_rank = split_rank
        self._secrets = dict(secrets or {})
        self._started_ticks = 0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._child: subprocess.Popen[bytes] | None = None
        self._lifeline: subprocess.Popen[bytes] | None = None
        self._drain: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start the child.

        Raises:
            PrerequisiteError: The executable is missing or cannot be run, or the log's folder
                cannot be written.
        """
        self._reporter.command_started(self.argv)
        log = self._open_log()
        self._lifeline = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", lifeline.__file__),
                *(str(self._grace_s), self._record, *self._leftovers),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment_without_secrets(),
            start_new_session=True,
        )
        try:
            self._child = subprocess.Popen(
                self._whole_argv(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=None if self._env is None else dict(self._env),
                cwd=self._cwd,
                start_new_session=True,
            )
        except OSError as error:
            log.close()
            lifeline.remove_leftovers(self._leftovers)
            self._release_lifeline()
            what = f"{self.argv[0]} cannot be started"
            raise PrerequisiteError(what, why=reason_of(error)) from error
        if self._shares_cores:
            # Set before it has threads, which inherit it. If not allowed, only speed is lost.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._child.pid, os.SCHED_BATCH, os.sched_param(0))
        # Until it is reaped, its process id stays taken even after it has ended.
        fields = lifeline.stat_fields(self._child.pid)
        self._started_ticks = int(fields[lifeline.START_TIME_FIELD]) if fields else 0
        self._tell_lifeline(f"{self._child.pid} {self._started_ticks}\n".encode())
        assert self._child.stdout is not None
        self._drain = threading.Thread(
            target=self._drain_output,
            args=(self._child.stdout, log),
            name=f"log of {self._source}",
        )
        self._drain.daemon = True
        self._drain.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Return the child's process id, which is also its group's."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """Return the exit code, minus the signal's number for a signal, None while it runs."""
        return self._started().poll()

    @property
    def is_running(self) -> bool:
        """Return whether it is running."""
        return self._child is not None and self._child.poll() is None

    @property
    def last_lines(self) -> tuple[str, ...]:
        """Return the last lines it wrote, at most 200."""
        return tuple(self._lines)

    def ending(self) -> str:
        """Return how it ended, in words: ``exit code 1`` or ``signal SIGKILL``."""
        code = self.returncode
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"

    def wait_until(self, ready: Callable[[], bool], deadline_s: float) -> WaitOutcome:
        """Wait until ``ready`` holds, the child ends or ``deadline_s`` seconds have passed.

        Each time, checks that the child is alive before calling ``ready``: another process
        could be the one that answers.
        """
        deadline = time.monotonic() + deadline_s
        while True:
            if self.returncode is not None:
                self._join_drain()
                return "ended"
            if ready():
                return "ready"
            if time.monotonic() > deadline:
                return "timeout"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._started().wait(timeout=_POLL_S)

    def wait(self) -> int:
        """Wait until the child ends; return its exit code."""
        code = self._started().wait()
        self._join_drain()
        return code

    def wait_ended(self, seconds: float) -> bool:
        """Return whether the child ended within ``seconds``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._started().wait(timeout=seconds)
            self._join_drain()
            return True
        return False

    def stop(self, grace_s: float | None = None) -> None:
        """End the whole group, if any: TERM, a wait, KILL.

        An exception during the wait, such as a second Ctrl-C, goes straight to KILL.
        """
        child = self._child
        if child is None or self._lifeline is None:
            return
        was_running = child.poll() is None
        try:
            if was_running:
                lifeline.ask_to_end(child.pid)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=self._grace_s if grace_s is None else grace_s)
        finally:
            # The rest of the group: a child that ignores TERM, or processes it started.
            lifeline.signal_group(child.pid, signal.SIGKILL)
            child.wait()
            lifeline.wait_for_end(child.pid, _KILL_WAIT_S)
            self._join_drain()
            # An interrupted docker client may have left a container being created.
            is_patient = was_running and child.returncode != 0
            lifeline.remove_leftovers(self._leftovers, is_patient=is_patient)
            self._release_lifeline()

    def _whole_argv(self) -> list[str]:
        argv = list(self.argv)
        for part, secret in self._secrets.items():
            argv = [word.replace(part, secret) for word in argv]
        return argv

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            message = "the process has not been started"
            raise RuntimeError(message)
        return self._child

    def _open_log(self) -> RankLog:
        try:
            return RankLog(self.log_path, self._split_rank)
        except OSError as error:
            what = f"{self.log_path.parent} cannot be written"
            why = f"the log of {self._source} goes there: {reason_of(error)}"
            raise PrerequisiteError(what, why=why) from error

    def _drain_output(self, stream: IO[bytes], log: RankLog) -> None:
        with stream, log:
            while raw := stream.readline(_LINE_LIMIT_BYTES):
                # A full disk or a closed terminal must not end the child, as a pipe without
                # a reader would.
                rank, line = log.write(raw)
                if rank == 0:
                    self._lines.append(line)
                source = f"{self._source} rank {rank}" if rank else self._source
                with contextlib.suppress(Exception):
                    self._reporter.child_line(source, line)

    def _join_drain(self) -> None:
        # A process that left the group may keep the pipe open forever.
        if self._drain is not None:
            self._drain.join(timeout=_DRAIN_WAIT_S)

    def _tell_lifeline(self, message: bytes) -> None:
        if self._lifeline is not None and self._lifeline.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._lifeline.stdin.write(message)
                self._lifeline.stdin.flush()

    def _release_lifeline(self) -> None:
        if self._lifeline is None:
            return
        self._tell_lifeline(b"\n." if self._child is None else b".")
        process, self._lifeline = self._lifeline, None
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        process.wait()
