"""``forge complete``: one completion from a running server."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import JsonOption, QuietOption, VerboseOption
from trtllm_forge.cli.probe import HttpOption, ModelOption, ServerOption

TEXT = "Generation"

PromptArgument = Annotated[
    str, typer.Argument(metavar="PROMPT", help="Text to continue, or the text before the gap.")
]
SuffixOption = Annotated[
    str | None,
    typer.Option(help="Text after the gap.", show_default=False, rich_help_panel=TEXT),
]
MaxTokensOption = Annotated[
    int, typer.Option(min=1, help="Maximum tokens to generate.", rich_help_panel=TEXT)
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(min=0, help="Sampling temperature.", show_default=False, rich_help_panel=TEXT),
]
TopKOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Sample from the k most likely tokens.",
        show_default=False,
        rich_help_panel=TEXT,
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Sample from the most likely tokens whose probabilities add up to p.",
        show_default=False,
        rich_help_panel=TEXT,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(min=0, help="Sampling seed.", show_default=False, rich_help_panel=TEXT),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        help="String that ends the generation; may be repeated.",
        show_default=False,
        rich_help_panel=TEXT,
    ),
]
StreamOption = Annotated[
    bool, typer.Option("--stream", help="Print the text as it arrives.", rich_help_panel=TEXT)
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
    """Print the text that the model generates."""
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
