"""``forge logs``: the end of a server's log, and why the server ended."""

from __future__ import annotations

from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import (
    REPORTING,
    JsonOption,
    QuietOption,
    ServerArgument,
    VerboseOption,
)

LinesOption = Annotated[
    int,
    typer.Option(
        "--lines", "-n", min=0, help="Number of last lines to print.", rich_help_panel=REPORTING
    ),
]
FollowOption = Annotated[
    bool,
    typer.Option(
        "--follow", "-f", help="Keep printing until the server ends.", rich_help_panel=REPORTING
    ),
]


def logs(
    name: ServerArgument = None,
    *,
    lines: LinesOption = 40,
    follow: FollowOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Print the end of a server's log."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.errors import ConfigError, ServerError, reason_of
        from trtllm_forge.serving.records import log_tail
        from trtllm_forge.serving.records.find import find_server
        from trtllm_forge.serving.records.status import last_words, log_document

        if follow and json:
            what = "--follow and --json conflict: --json prints one document"
            raise ConfigError(what, hint="forge logs --json")
        state_dir = read_settings().state_dir
        record = find_server(state_dir, name, command="forge logs", with_ended=True)
        try:
            last, offset = log_tail.last_lines(record.log_path, lines)
        except OSError as error:
            what = f"the log of {record.name} cannot be read"
            raise ServerError(what, why=f"{record.log_path}: {reason_of(error)}") from error
        if not follow:
            console.result("\n".join(last), log_document(record, last))
        else:
            console.stream("".join(f"{line}\n" for line in last))
            for text in log_tail.follow(record, state_dir, offset):
                console.stream(text)
        for words in last_words(state_dir, record):
            console.note(words)
