"""The option types of ``forge bench``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

LOAD = "How much, how fast"
PROMPTS = "What is asked"
FIGURES = "What is measured"
RESULT = "What becomes of it"


class ProtocolName(str, Enum):
    """The ways a request can travel."""

    HTTP = "http"
    GRPC = "grpc"


class TaskName(str, Enum):
    """The built-in sets of prompts."""

    COMPLETION = "completion"
    FIM = "fim"
    EDIT = "edit"


class ArrivalName(str, Enum):
    """How the requests of an open loop are spread."""

    POISSON = "poisson"
    CONSTANT = "constant"


ConcurrencyOption = Annotated[
    str | None,
    typer.Option(
        metavar="N,...",
        help="Requests in flight, one load per number; 1,4,16 when absent.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Send so many requests per second instead, however many still run.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
ArrivalsOption = Annotated[
    ArrivalName,
    typer.Option(help="Gaps between the requests of --rate.", rich_help_panel=LOAD),
]
RequestsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Requests that count, per load; 8 per slot and 16 at least when absent.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
DurationOption = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Seconds that count, per load, instead of a number.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
WarmUpOption = Annotated[
    int | None,
    typer.Option(
        "--warm-up",
        min=0,
        help="Requests before those that count; one per slot when absent.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, help="Seconds that one answer may take.", rich_help_panel=LOAD)
]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Seed of prompts and arrivals.", rich_help_panel=LOAD)
]
TaskOption = Annotated[
    TaskName | None,
    typer.Option(
        help="Built-in prompts; completion when absent.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Prompts of a .jsonl file, or the lines of a text file.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
PromptTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Synthetic prompts of so many tokens.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
OutputTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens to ask for; when absent, what the prompts say.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
NaturalEndOption = Annotated[
    bool,
    typer.Option(
        "--natural-end",
        help="Let the model end its answers, instead of all at the tokens asked for.",
        rich_help_panel=PROMPTS,
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="DIR",
        help="Folder with the served model's tokenizer.json, where forge does not know it.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
ProtocolOption = Annotated[
    ProtocolName,
    typer.Option(help="HTTP generate_stream, or gRPC streaming.", rich_help_panel=FIGURES),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Served model to ask; the ensemble when absent.",
        show_default=False,
        rich_help_panel=FIGURES,
    ),
]
LayersOption = Annotated[
    bool,
    typer.Option(
        "--layers",
        help="Ask the core model, the ensemble and the BLS model the same, in turns.",
        rich_help_panel=FIGURES,
    ),
]
GoodputOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIMITS",
        help="Also count the answers that keep limits in ms: ttft=200,itl=50.",
        show_default=False,
        rich_help_panel=FIGURES,
    ),
]
PrefixReuseOption = Annotated[
    bool,
    typer.Option(
        "--prefix-reuse",
        help="Also measure TTFT behind a prefix the server has seen, and one it has not.",
        rich_help_panel=FIGURES,
    ),
]
GrpcOption = Annotated[
    str | None,
    typer.Option(
        "--grpc",
        metavar="ADDRESS",
        help="Host and port of a server's gRPC service.",
        show_default=False,
        rich_help_panel="Which server",
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write a report that stands alone.",
        show_default=False,
        rich_help_panel=RESULT,
    ),
]
CompareOption = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        metavar="FILE",
        help="Compare with an earlier --json document; exit 8 when slower.",
        show_default=False,
        rich_help_panel=RESULT,
    ),
]
NoiseOption = Annotated[
    float,
    typer.Option(
        min=0,
        max=10,
        help="Share by which figures may differ and still count as equal.",
        rich_help_panel=RESULT,
    ),
]
