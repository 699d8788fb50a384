"""``forge complete``: one completion from the running server."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import JsonOption, QuietOption, VerboseOption
from trtllm_forge.cli.probe import HttpOption, ModelOption, ServerOption

TEXT = "What is written"

PromptArgument = Annotated[
    str, typer.Argument(metavar="PROMPT", help="Text to go on from, or what is before the gap.")
]
SuffixOption = Annotated[
    str | None,
    typer.Option(help="What is behind the gap.", show_default=False, rich_help_panel=TEXT),
]
MaxTokensOption = Annotated[
    int, typer.Option(min=1, help="Tokens to write at most.", rich_help_panel=TEXT)
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(min=0, help="Sampling temperature.", show_default=False, rich_help_panel=TEXT),
]
TopKOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Sample among the k likeliest.", show_default=False, rich_help_panel=TEXT
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Sample among the likeliest that sum to p.",
        show_default=False,
        rich_help_panel=TEXT,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of the sampling.", show_default=False, rich_help_panel=TEXT),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        help="String that ends the text; may be repeated.",
        show_default=False,
        rich_help_panel=TEXT,
    ),
]
StreamOption = Annotated[
    bool, typer.Option("--stream", help="Print the text as it comes.", rich_help_panel=TEXT)
]


def complete(
    prompt: PromptArgument,
    *,
    suffix: SuffixOption = None,
    max_tokens: MaxTokensOption = 64,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = None,
    stop: StopOption = None,
    stream: StreamOption = False,
    server: ServerOption = None,
    http: HttpOption = None,
    model: ModelOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Print the text the model writes."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.gateway.completion import Sampling
        from trtllm_forge.gateway.completion import complete as ask
        from trtllm_forge.serving.records.find import find_running_server

        address = find_running_server(
            read_settings().state_dir,
            console,
            command="forge complete PROMPT",
            name=server,
            http=http,
            model=model,
        )
        completion = ask(
            address.urls,
            prompt,
            repository_dir=address.repository_dir,
            suffix=suffix,
            max_tokens=max_tokens,
            sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
            stop=tuple(stop or ()),
            on_text=console.stream if stream else None,
            front=address.front,
        )
        if stream and not json:
            console.stream("\n")
        else:
            console.result(completion.text, {"schema": 1, **asdict(completion)})
