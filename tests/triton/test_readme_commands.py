"""The documented commands that build, serve and ask, run in a shell as a reader would type them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.contract.test_readme import NOT_RUN
from tests.documentation import ShownCommand, normalized, shown_commands
from tests.twin import TwinWorkshop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The commands as shown serve on the usual ports.
pytestmark = pytest.mark.triton

COMMAND_DEADLINE_S = 120
DETACH = "forge serve sample --detach --name coder --restart on-failure"
ASK = (
    "forge ps",
    "forge ps --all --json",
    "forge status coder",
    "forge status --json",
    "forge logs coder -n 20",
)
FOLLOW = "forge logs coder -f"
STOP = "forge stop coder"
STOP_ALL = "forge stop --all --timeout 5"
IN_BACKGROUND = sorted(shown_commands(), key=lambda command: command.page != "docs/serve.md")
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Reader(TwinWorkshop):
    """Somebody with a shell, whose builds find in the cache what the test run has made."""

    @property
    def environment(self) -> dict[str, str]:
        folders = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**super().environment, "PATH": folders}
        # The reader has set none: repositories are built below the working folder.
        del environment["FORGE_MODEL_REPOS"]
        return environment

    def start(self, line: str) -> subprocess.Popen[str]:
        """Start a command line; its two streams come as one, as on a terminal."""
        return subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, line: str) -> tuple[int, str]:
        """Run a command line to its end; return its exit code and what it printed."""
        with self.start(line) as process:
            output, _ = process.communicate(timeout=COMMAND_DEADLINE_S)
        return process.returncode, output


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """The reader's first terminal, in which the server runs."""

    reader: Reader
    build: tuple[int, str]
    greeting: str
    http: str


@pytest.fixture(scope="module")
def terminal(
    workshop: TwinWorkshop, int4_document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Terminal]:
    reader = Reader(root=tmp_path_factory.mktemp("reader"), cache_dir=workshop.cache_dir)
    (reader.root / "bin").mkdir()
    forge = reader.root / "bin" / "forge"
    forge.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m trtllm_forge "$@"\n')
    forge.chmod(0o755)
    build = reader.type("forge build sample --int4")
    with reader.start("forge serve sample") as server:
        try:
            greeting = _lines_until(server, "next: ")
            http = next((w for w in greeting.split() if w.startswith("http://")), "")
            yield Terminal(reader=reader, build=build, greeting=greeting, http=http)
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.send_signal(signal.SIGINT)
            server.wait(timeout=COMMAND_DEADLINE_S)
    assert server.returncode == INTERRUPTED


def shown(page: str, line: str) -> ShownCommand:
    return next(c for c in shown_commands() if (c.page, c.line) == (page, line))


def questions() -> list[ShownCommand]:
    verbs = ("probe", "complete")
    commands = [c for c in shown_commands() if c.needs_triton and c.line not in NOT_RUN]
    return [command for command in commands if command.line.split()[1] in verbs]


def test_build_prints_what_readme_shows(terminal: Terminal) -> None:
    code, output = terminal.build

    assert code == 0
    home = str(terminal.reader.root)
    expected = shown("README.md", "forge build sample --int4").output
    assert normalized(output, home) == normalized(expected, home)


def test_serve_prints_what_readme_shows(terminal: Terminal) -> None:
    home = str(terminal.reader.root)

    expected = shown("README.md", "forge serve sample").output
    assert normalized(terminal.greeting, home) == normalized(expected, home)


@pytest.mark.parametrize("command", questions(), ids=str)
def test_question_is_answered_as_shown(command: ShownCommand, terminal: Terminal) -> None:
    code, output = terminal.reader.type(command.line)

    assert code == 0, output
    if "probe" in command.line and command.output:
        home = str(terminal.reader.root)
        assert normalized(output, home) == normalized(command.output, home)
    elif "complete" in command.line:
        # What is written may differ between processors; that something is, may not.
        first, *text = output.splitlines()
        assert first == f"using the running server sample at {terminal.http}"
        assert "".join(text).strip()


@pytest.mark.parametrize(
    "command",
    # What needs the key of a start is asked in test_endpoints.py.
    [c for c in shown_commands(program="curl") if "forge-control-key" not in c.line],
    ids=str,
)
def test_request_shown_is_answered_by_the_ensemble(
    terminal: Terminal, command: ShownCommand
) -> None:
    url, body = (word for word in shlex.split(command.line) if word[0] in "h{")

    path = httpx.URL(url).path
    answer = httpx.post(f"{terminal.http}{path}", json=json.loads(body), timeout=60).json()

    # Without exclude_input_in_output the prompt comes first, as the limits say.
    assert answer["id"] == "1"
    assert answer["text_output"].startswith("import ")
    assert len(answer["text_output"]) > len("import ")


def test_model_that_does_not_load_is_told_as_troubleshooting_shows(terminal: Terminal) -> None:
    reader = terminal.reader
    shutil.copytree(reader.root / "model_repos" / "sample", reader.root / "broken")
    # With its manifest, serve would refuse the edited model before Triton sees it.
    (reader.root / "broken" / "forge.manifest.json").unlink()
    model_path = reader.root / "broken" / "postprocessing" / "1" / "model.py"
    model_path.chmod(0o644)
    model_path.write_text('raise ValueError("broken on purpose")\n')
    command = shown("docs/troubleshooting.md", "forge serve ./broken")

    code, output = reader.type(command.line)

    assert code == command.exit_code
    home = str(reader.root)
    assert normalized(output, home) == normalized(command.output, home)


def test_servers_in_the_background_are_as_serving_shows(terminal: Terminal, tmp_path: Path) -> None:
    # Somebody else, whose servers are not those of the first terminal.
    reader = replace(terminal.reader, root=tmp_path)
    for name in ("bin", "model_repos"):
        (tmp_path / name).symlink_to(terminal.reader.root / name)
    home = str(terminal.reader.root)

    def type_as_shown(line: str) -> None:
        code, output = reader.type(line)
        assert code == 0, output
        shown_output = next(c.output for c in IN_BACKGROUND if c.line == line)
        if shown_output:
            evened = [
                re.sub(r"\s+", " ", normalized(text.replace(str(tmp_path), home), home))
                for text in (output, shown_output)
            ]
            assert evened[0] == evened[1]

    type_as_shown(DETACH)
    try:
        for line in ASK:
            type_as_shown(line)
        with reader.start(FOLLOW) as following:
            type_as_shown(STOP)
            text, _ = following.communicate(timeout=COMMAND_DEADLINE_S)
    finally:
        type_as_shown(STOP_ALL)

    assert (following.returncode, text.splitlines()[-1]) == (0, "coder is stopped")


def test_every_command_that_needs_triton_is_run_here() -> None:
    run = {"forge build sample --int4", "forge serve sample", "forge serve ./broken", *NOT_RUN}
    run |= {command.line for command in questions()} | {DETACH, *ASK, FOLLOW, STOP, STOP_ALL}

    assert {c.line for c in shown_commands() if c.needs_triton} <= run


def _lines_until(process: subprocess.Popen[str], beginning: str) -> str:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith(beginning):
            break
    assert beginning in text, text
    return text
