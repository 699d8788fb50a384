"""``forge probe``: check that a server's answers are correct."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import JsonOption, QuietOption, VerboseOption

if TYPE_CHECKING:
    from trtllm_forge.evaluation.probe import ProbeResult

TARGET = "Server"

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="NAME",
        help="Name of a running server; defaults to the only one.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
HttpOption = Annotated[
    str | None,
    typer.Option(
        "--http",
        metavar="URL",
        help="URL of a server's HTTP service.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Front model to use, or its repository; defaults to the only one.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]


def probe(
    *,
    server: ServerOption = None,
    http: HttpOption = None,
    model: ModelOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Run all probes and print what each found."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.errors import ProbeError
        from trtllm_forge.evaluation.probe import probe_server
        from trtllm_forge.serving.records.find import find_running_server

        address = find_running_server(
            read_settings().state_dir,
            console,
            command="forge probe",
            name=server,
            http=http,
            model=model,
        )
        results = probe_server(address.urls, address.repository_dir, console, front=address.front)
        failed = [result for result in results if not result.ok]
        console.result(_text(results), _document(results))
        if failed and json:
            raise typer.Exit(ProbeError.exit_code)
        if failed:
            what = f"{len(failed)} of {len(results)} probes failed at {address.urls.http}"
            raise ProbeError(what, why="; ".join(f"{r.name}: {r.detail}" for r in failed))
        console.next_step('forge complete "def add(a, b):"')


def _text(results: tuple[ProbeResult, ...]) -> str:
    return "\n".join(
        f"{'ok' if r.ok else 'FAILED':<8}{r.name:<11}{r.seconds:>6.2f} s  {r.detail}"
        for r in results
    )


def _document(results: tuple[ProbeResult, ...]) -> dict[str, object]:
    return {
        "schema": 1,
        "probes": [
            {"name": r.name, "ok": r.ok, "seconds": round(r.seconds, 3), "detail": r.detail}
            for r in results
        ],
    }
