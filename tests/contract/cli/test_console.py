"""What the console writes where, and what errors become."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from trtllm_forge import errors
from trtllm_forge.cli.console import open_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtllm_forge.cli.console import Console

ROOT = Path(__file__).resolve().parents[3]
FAILURE = errors.BuildError(
    "compile ended with exit code 1",
    why="argv: optimum-cli export openvino\nlast line: killed",
    hint="forge build sample -vv",
    log_path=Path("logs/compile.log"),
)


def failing(
    error: BaseException, *, json: bool = False, verbose: int = 0, quiet: bool = False
) -> int:
    with (
        pytest.raises(typer.Exit) as caught,
        open_console(json=json, verbose=verbose, quiet=quiet),
    ):
        raise error
    return caught.value.exit_code


@pytest.mark.parametrize("quiet", [False, True], ids=["plain", "quiet"])
def test_error_is_printed_whole_on_stderr(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    assert failing(FAILURE, quiet=quiet) == 5

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "error: compile ended with exit code 1\n"
        "  why:  argv: optimum-cli export openvino\n"
        "        last line: killed\n"
        "  try:  forge build sample -vv\n"
        "  log:  logs/compile.log\n"
    )


def test_error_in_json_mode_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(FAILURE, json=True) == 5

    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "schema": 1,
        "error": {
            "what": "compile ended with exit code 1",
            "why": "argv: optimum-cli export openvino\nlast line: killed",
            "hint": "forge build sample -vv",
            "log_path": "logs/compile.log",
            "exit_code": 5,
        },
    }


@pytest.mark.parametrize(
    ("error_class", "code"),
    [
        (errors.ConfigError, 2),
        (errors.PrerequisiteError, 3),
        (errors.CheckpointError, 4),
        (errors.BuildError, 5),
        (errors.RenderError, 6),
        (errors.ServerError, 7),
        (errors.ProbeError, 8),
    ],
)
def test_each_error_has_its_exit_code(error_class: type[errors.ForgeError], code: int) -> None:
    assert failing(error_class("no")) == code


def test_what_is_waited_for_is_told_with_its_detail_and_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_console() as console:
        console.waiting("loading a", "")
        console.waiting("loading b", "1 s")
        console.waiting("loading b", "2 s")

    assert capsys.readouterr().err == "loading a\nloading b (1 s)\n"


def test_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_interrupt_in_json_mode_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(KeyboardInterrupt(), json=True) == 130
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 130


def test_bug_shows_its_traceback_and_where_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(ZeroDivisionError("division by zero")) == 1

    captured = capsys.readouterr()
    assert captured.err.startswith("Traceback (most recent call last):\n")
    assert captured.err.endswith(
        "error: forge has a bug: ZeroDivisionError: division by zero\n"
        "  try:  report the traceback above together with the output of: forge --version\n"
    )


def test_bug_in_json_mode_is_a_document_beside_the_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing(ZeroDivisionError("no"), json=True) == 1

    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["what"] == "forge has a bug: ZeroDivisionError: no"
    assert "Traceback" in captured.err


def test_cause_is_shown_with_v_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def chained() -> errors.ForgeError:
        try:
            Path("absent").read_text(encoding="utf-8")
        except OSError as cause:
            error = errors.ConfigError("no file")
            error.__cause__ = cause
            return error
        raise AssertionError

    failing(chained())
    assert "FileNotFoundError" not in capsys.readouterr().err
    failing(chained(), verbose=1)
    assert "FileNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize("is_bug", [True, False], ids=["bug", "cause"])
def test_traceback_shows_no_password_of_an_address(
    capsys: pytest.CaptureFixture[str], is_bug: bool
) -> None:
    cause = OSError("no answer from https://user:pass%2Fw@hub.example:8443/api/x?y=a@b")
    error: Exception = cause
    if not is_bug:
        error = errors.CheckpointError("no answer")
        error.__cause__ = cause

    failing(error, verbose=1)

    written = capsys.readouterr().err
    assert "no answer from https://hub.example:8443/api/x?y=a@b" in written
    assert "pass%2Fw" not in written


def test_exit_and_abort_pass_through() -> None:
    with pytest.raises(typer.Exit) as caught, open_console():
        raise typer.Exit(3)
    assert caught.value.exit_code == 3
    with pytest.raises(typer.Abort), open_console():
        raise typer.Abort


def tell_all(console: Console) -> None:
    console.note("runtime openvino: asked for")
    console.stage_skipped("download", ["key 12ab is in the store"])
    console.stage_started("compile", ["never built"])
    console.command_started(["optimum-cli", "--model", "a b"])
    console.child_line("compile", "loading\n")
    console.progress("model.safetensors", 5, 10, "bytes")
    console.stage_finished("compile", 12.34)
    console.warning("old driver")
    console.result("built: model_repos/sample", {"schema": 1})
    console.next_step("forge serve sample")


PLAIN = (
    "runtime openvino: asked for\n"
    "download  fresh     key 12ab is in the store\n"
    "compile   12.3 s    never built\n"
    "warning: old driver\n"
    "next: forge serve sample\n"
)
VERBOSE = (
    "runtime openvino: asked for\n"
    "download  fresh     key 12ab is in the store\n"
    "compile   run       never built\n"
    "  $ optimum-cli --model 'a b'\n"
    "compile   12.3 s    never built\n"
    "warning: old driver\n"
    "next: forge serve sample\n"
)


@pytest.mark.parametrize(
    ("verbose", "quiet", "expected"),
    [
        (0, False, PLAIN),
        (1, False, VERBOSE),
        (2, False, VERBOSE.replace("'a b'\n", "'a b'\n  compile | loading\n")),
        (0, True, "warning: old driver\n"),
    ],
    ids=["plain", "v", "vv", "quiet"],
)
def test_moments_go_to_stderr_and_the_result_to_stdout(
    capsys: pytest.CaptureFixture[str], verbose: int, quiet: bool, expected: str
) -> None:
    with open_console(verbose=verbose, quiet=quiet) as console:
        tell_all(console)

    captured = capsys.readouterr()
    assert captured.out == "built: model_repos/sample\n"
    assert captured.err == expected


def test_json_mode_writes_the_document_and_no_next_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_console(json=True) as console:
        console.stream("def ")
        tell_all(console)

    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"schema": 1}
    assert "next:" not in captured.err


def test_stream_is_written_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with open_console() as console:
        console.stream("def f")
        assert capsys.readouterr().out == "def f"
        console.stream("()\n")
        assert capsys.readouterr().out == "()\n"


def in_child(body: str, stdout: int, stderr: int, **environment: str) -> subprocess.Popen[bytes]:
    code = f"from trtllm_forge.cli.console import open_console\nwith open_console() as c:\n{body}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_reader_that_goes_away_gives_the_code_of_sigpipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    child = subprocess.Popen(
        [sys.executable, "-m", "trtllm_forge", "config", "show"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(write_end)
    _, complaint = child.communicate(timeout=30)

    assert (child.returncode, complaint) == (141, b"")


NO_ROOM = "error: cannot write the result: No space left on device\n"
CLOSED = "error: cannot write the result: stdout is closed\n"
MISTAKE = (
    "error: there is no configuration file /nowhere/f.yaml\n"
    "  why:  given with --config\n"
    "  try:  forge init\n"
)


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("config show >/dev/full", 1, "", NO_ROOM),
        ("config show --json >/dev/full", 1, "", NO_ROOM),
        ("config show >&-", 1, "", CLOSED),
        ("config show nonsense --int4 --dry >/dev/full 2>/dev/full", 2, "", ""),
        ("config show >/dev/full 2>/dev/full", 1, "", ""),
        ("config show >&- 2>&-", 1, "", ""),
        ("config show --config /nowhere/f.yaml --json >/dev/full", 2, "", MISTAKE + NO_ROOM),
        ("config show --config /nowhere/f.yaml --json >&-", 2, "", MISTAKE + CLOSED),
        ("build nonsense 2>/dev/full", 2, "", ""),
        ("build nonsense 2>&-", 2, "", ""),
    ],
)
def test_stream_that_takes_nothing_gives_no_traceback(
    line: str, code: int, out: str, err: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m trtllm_forge {line}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_result_is_written_when_stderr_takes_nothing(redirection: str) -> None:
    command = f"{sys.executable} -m trtllm_forge build sample --dry-run {redirection}"
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0
    assert done.stdout.startswith("download run ")


@pytest.mark.parametrize(
    ("environment", "shows_bar", "shows_colour"),
    [
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, True, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
    ids=["terminal", "no-color", "dumb"],
)
def test_bars_are_for_terminals_and_honour_no_color(
    environment: dict[str, str], shows_bar: bool, shows_colour: bool
) -> None:
    body = "  c.progress('weights', 5, 10, 'bytes')\n  c.note('done')\n"
    leader, follower = pty.openpty()
    child = in_child(body, subprocess.DEVNULL, follower, **environment)
    os.close(follower)
    written = _read_until_closed(lambda: os.read(leader, 65536))
    os.close(leader)

    assert child.wait(timeout=30) == 0
    assert b"done" in written
    assert (b"weights" in written) is shows_bar
    assert bool(re.search(rb"\x1b\[[0-9;]*[1-9][0-9;]*m", written)) is shows_colour


def _read_until_closed(read: Callable[[], bytes]) -> bytes:
    written = b""
    while True:
        try:
            piece = read()
        except OSError:
            # Linux's word for a terminal whose other side is closed.
            return written
        if not piece:
            return written
        written += piece
