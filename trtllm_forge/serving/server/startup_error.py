"""Makes the error of a server that ended or was not ready, with the cause from its log."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from trtllm_forge.errors import ServerError
from trtllm_forge.machine.process.failures import find_failure
from trtllm_forge.machine.process.rank_log import rank_log_path
from trtllm_forge.serving.server.rank_failure import before_blame, find_rank_ending
from trtllm_forge.triton.launch.startup_log import find_startup_failure, models_still_loading

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.machine.process.managed import ManagedProcess
    from trtllm_forge.serving.server.rank_failure import RankEnding
    from trtllm_forge.serving.server.stub_watch import DeadStub

# On TERM and INT Triton exits by itself, with 0.
_OUTSIDE = "it was stopped from outside"
_OUTSIDE_ENDINGS = ("exit code 0", "signal SIGTERM", "signal SIGINT")
_LAST_LINES = 3
_READ_BYTES = 10_000_000
# Messages of the twin's ranks about ranks that did not join or that ended.
_ABSENT_RANKS = re.compile(r"ranks? ([\d, ]+) of \d+ did not join in time")
_OTHER_RANK = re.compile(r"RendezvousError: rank \d+ of \d+ (?:has gone|left before)")
_SIGNAL = re.compile(r"signal (?P<name>SIG\w+)")


def not_started_error(process: ManagedProcess, ranks: int = 1) -> ServerError:
    """Return why a server, or one of its ``ranks``, ended before it was ready."""
    lines = _log_lines(process)
    if ranks > 1:
        ending = find_rank_ending(lines)
        rank = _rank_to_blame(process.log_path, ranks, ending)
        if rank is not None:
            is_known = ending is not None and ending.rank == rank
            how = ending.text() if ending and is_known else process.ending()
            code = ending.returncode if ending and is_known else process.returncode
            own_path = rank_log_path(process.log_path, rank)
            own = before_blame(_lines_of(own_path))
            error = _startup_error(f"rank {rank} of {ranks}", how, code, own, own_path)
            error.why = "; ".join([error.why, *_absent_ranks(process.log_path, error.what)])
            return error
    return _startup_error("Triton", process.ending(), process.returncode, lines, process.log_path)


def _rank_to_blame(log_path: Path, ranks: int, ending: RankEnding | None) -> int | None:
    """Return the rank whose model did not load, else the one the launcher blames.

    A rank that waits for a missing one ends too, possibly before the one that failed.
    """
    failures = {}
    for rank in range(ranks):
        failure = find_startup_failure(_lines_of(rank_log_path(log_path, rank)))
        if failure is not None and failure.model:
            failures[rank] = failure
    for rank, failure in failures.items():
        if not _OTHER_RANK.search(failure.message):
            return rank
    return next(iter(failures), None) if ending is None else ending.rank


def _absent_ranks(log_path: Path, message: str) -> list[str]:
    """Return the last lines of the ranks that did not join rank 0."""
    match = _ABSENT_RANKS.search(message)
    absent = [int(rank) for rank in match[1].split(", ")] if match else []
    return [
        f"rank {rank}: {_last_words(_lines_of(rank_log_path(log_path, rank)))}" for rank in absent
    ]


def _startup_error(
    who: str, ending: str, returncode: int | None, lines: list[str], log_path: Path
) -> ServerError:
    failure = find_startup_failure(lines, returncode=returncode)
    if failure is None:
        what = f"{who} ended with {ending} before it was ready"
        return ServerError(what, why=_last_words(lines), log_path=log_path)
    diagnosis = failure.diagnosis
    cause, hint = (diagnosis.cause, diagnosis.hint) if diagnosis else ("", "")
    if failure.model:
        what = f"model {failure.model} did not load: {failure.message}"
        facts = [failure.place, cause]
    else:
        what = f"Triton did not start: {failure.message}"
        facts = [cause or f"it ended with {ending}"]
    if who != "Triton":
        what = f"{who}: {what}"
    why = "; ".join(filter(None, facts))
    return ServerError(what, why=why, hint=hint, log_path=log_path)


def not_ready_error(process: ManagedProcess, ready_timeout_s: float, command: str) -> ServerError:
    """Return the error of a server that was not ready in time, with what it was doing."""
    loading = ", ".join(models_still_loading(_log_lines(process)))
    what = f"Triton was not ready within {ready_timeout_s:g} s"
    why = f"it is alive and still loading {loading}" if loading else "it is alive"
    hint = f"{command} --ready-timeout-s {ready_timeout_s * 2:g}"
    return ServerError(what, why=why, hint=hint, log_path=process.log_path)


def ended_error(
    process: ManagedProcess,
    log_offset: int,
    name: str,
    command: str,
    ranks: int = 1,
    *,
    container: str | None = None,
) -> ServerError:
    """Return how a ready server, one of its ``ranks`` or its container ended.

    ``log_offset`` is the size of its log when it became ready: startup messages are not the
    cause.
    """
    ending = find_rank_ending(_log_lines(process)) if ranks > 1 else None
    if ending is not None:
        own_path = rank_log_path(process.log_path, ending.rank)
        what = f"rank {ending.rank} of {ranks}, which served {name}, ended with {ending.text()}"
        why = _last_words(before_blame(_lines_of(own_path)))
        if ending.text() in (*_OUTSIDE_ENDINGS, "signal SIGKILL"):
            why = f"{_OUTSIDE}; {why}"
        return ServerError(what, why=why, hint=command, log_path=own_path)
    who = f"container {container}" if container else f"Triton (process {process.pid})"
    what = f"{who}, which served {name}, ended with {process.ending()}"
    if process.ending() in _OUTSIDE_ENDINGS:
        return ServerError(what, why=_OUTSIDE, hint=command, log_path=process.log_path)
    lines = _log_lines(process, log_offset)
    known = find_failure(lines, where="serve", returncode=process.returncode)
    why, hint = (known.cause, known.hint) if known else ("", command)
    return ServerError(what, why=why, hint=hint, log_path=process.log_path)


def dead_stub_error(
    process: ManagedProcess, log_offset: int, dead: DeadStub, name: str, command: str
) -> ServerError:
    """Return which process of a ready server ended, and why if known."""
    number = _SIGNAL.fullmatch(dead.ending)
    returncode = -signal.Signals[number["name"]] if number else None
    lines = _log_lines(process, log_offset)
    known = find_failure(lines, where="serve", returncode=returncode)
    facts = (known.cause if known else "", "Triton would answer every request with an error")
    return ServerError(
        f"{dead.text()}, so {name} cannot serve",
        why="; ".join(filter(None, facts)),
        hint=known.hint if known else command,
        log_path=process.log_path,
    )


def _log_lines(process: ManagedProcess, offset: int = 0) -> list[str]:
    lines = _lines_of(process.log_path, offset)
    # On a full disk there is no log.
    return lines if lines or offset else list(process.last_lines)


def _lines_of(log_path: Path, offset: int = 0) -> list[str]:
    try:
        with log_path.open(errors="replace") as log:
            log.seek(max(offset, log_path.stat().st_size - _READ_BYTES))
            return log.read().splitlines()
    except OSError:  # a rank that wrote nothing has no log
        return []


def _last_words(lines: list[str]) -> str:
    last = " | ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip())
    return f"its last lines: {last}" if last else "it wrote nothing"
