"""The owner of a detached server, started by ``serving.detach`` and not by users.

It owns Triton as the foreground ``forge serve`` does. Its messages go to the starter until the
server is ready, and then into the server's log, marked ``forge:``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from trtllm_forge.errors import ForgeError
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.serving.server.detach import error_word, read_request
from trtllm_forge.serving.server.serve import start_server
from trtllm_forge.serving.server.sigterm import leaving_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class SupervisorReporter(SilentReporter):
    """Reports to the starter over stdout; once detached, to the server's log."""

    def __init__(self) -> None:
        self._log_path: Path | None = None

    def say(self, word: Mapping[str, object]) -> None:
        """Send to the starter, which may be gone."""
        with contextlib.suppress(OSError):
            sys.stdout.write(json.dumps(word) + "\n")
            sys.stdout.flush()

    def let_go(self, log_path: Path) -> None:
        """Detach from the starter's streams and write to the log from now on."""
        self._log_path = log_path
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, sys.stderr.fileno())
        os.close(log)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._report("note", text)

    def decision(self, text: str) -> None:
        """Pass it on."""
        self._report("decision", text)

    def warning(self, text: str) -> None:
        """Pass it on."""
        self._report("warning", text)

    def waiting(self, what: str, detail: str) -> None:
        """Pass it on."""
        self._report("waiting", what, detail)

    def command_started(self, argv: Sequence[str]) -> None:
        """Pass it on while somebody listens."""
        if self._log_path is None:
            self._report("command_started", list(argv))

    def child_line(self, source: str, line: str) -> None:
        """Pass it on while the starter listens; the log has it anyway."""
        if self._log_path is None:
            self._report("child_line", source, line)

    def _report(self, moment: str, *words: object) -> None:
        if self._log_path is None:
            self.say({"report": moment, "words": words})
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = ", ".join(map(str, words))
        with contextlib.suppress(OSError), self._log_path.open("a") as log:
            log.write(f"{now} forge: {text}\n")


def main() -> None:
    """Serve the request on stdin until the server ends or SIGTERM arrives."""
    if os.fork():
        os._exit(0)  # the starter need not wait for it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    reporter = SupervisorReporter()
    reporter.say({"pid": os.getpid()})
    request = sys.stdin.read()
    if not request:
        return
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    with leaving_on_sigterm():
        _serve(request, reporter)


def _serve(request: str, reporter: SupervisorReporter) -> None:
    options, settings = read_request(request)
    try:
        server = start_server(options, settings, reporter)
    except ForgeError as error:
        reporter.say(error_word(error))
        raise SystemExit(error.exit_code) from None
    try:
        with server:
            reporter.say({"ready": server.text(), "document": server.document()})
            reporter.let_go(server.log_path)
            server.wait(max_restarts=options.max_restarts)
    except ForgeError as error:
        reporter.warning(f"{error.what}{f' ({error.why})' if error.why else ''}")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
