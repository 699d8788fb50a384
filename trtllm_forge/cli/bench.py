"""``forge bench``: measure a running server with one request and with many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import DryRunOption, JsonOption, QuietOption, VerboseOption
from trtllm_forge.cli.probe import HttpOption, ServerOption

LOAD = "Load"
PROMPTS = "Prompts"
FIGURES = "Measurement"
RESULT = "Report"


ConcurrencyOption = Annotated[
    str | None,
    typer.Option(
        metavar="N,...",
        help="Requests in flight, one load per number; defaults to 1,4,16.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Send N requests per second instead, however many are still running.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
ArrivalsOption = Annotated[
    Literal["poisson", "constant"],
    typer.Option(help="How --rate spaces the requests.", rich_help_panel=LOAD),
]
RequestsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Requests to measure at each load; defaults to 8 per request in flight, at least 16.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
DurationOption = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Measured seconds per load, instead of a number of requests.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
WarmUpOption = Annotated[
    int | None,
    typer.Option(
        "--warm-up",
        min=0,
        help="Warm-up requests before the measured ones; defaults to one per slot.",
        show_default=False,
        rich_help_panel=LOAD,
    ),
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, help="Seconds to wait for one answer.", rich_help_panel=LOAD)
]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Seed for prompts and arrivals.", rich_help_panel=LOAD)
]
TaskOption = Annotated[
    Literal["completion", "fim", "edit"] | None,
    typer.Option(
        help="Built-in prompts to send; defaults to completion.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Prompts from a .jsonl file, or the lines of a text file.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
PromptTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Send synthetic prompts of N tokens.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
OutputTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Output tokens to ask for; defaults to what the prompts say.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
NaturalEndOption = Annotated[
    bool,
    typer.Option(
        "--natural-end",
        help="Let the model end its answers, instead of always generating the full length.",
        rich_help_panel=PROMPTS,
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="DIR",
        help="Folder with the served model's tokenizer.json, if forge cannot find it.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
ProtocolOption = Annotated[
    Literal["http", "grpc"],
    typer.Option(help="HTTP generate_stream or gRPC streaming.", rich_help_panel=FIGURES),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Served model to send requests to; defaults to the ensemble.",
        show_default=False,
        rich_help_panel=FIGURES,
    ),
]
LayersOption = Annotated[
    bool,
    typer.Option(
        "--layers",
        help="Send the same requests to the core model, the ensemble and the BLS model in turn.",
        rich_help_panel=FIGURES,
    ),
]
GoodputOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIMITS",
        help="Also count the answers within limits in ms: ttft=200,itl=50.",
        show_default=False,
        rich_help_panel=FIGURES,
    ),
]
PrefixReuseOption = Annotated[
    bool,
    typer.Option(
        "--prefix-reuse",
        help="Also measure TTFT after a prefix the server has seen and after a new one.",
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
        rich_help_panel="Server",
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write a self-contained HTML report.",
        show_default=False,
        rich_help_panel=RESULT,
    ),
]
CompareOption = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        metavar="FILE",
        help="Compare with an earlier --json document; exit with 8 if slower.",
        show_default=False,
        rich_help_panel=RESULT,
    ),
]
NoiseOption = Annotated[
    float,
    typer.Option(
        min=0,
        max=10,
        help="Relative difference up to which figures count as equal.",
        rich_help_panel=RESULT,
    ),
]


def bench(
    *,
    concurrency: ConcurrencyOption = None,
    rate: RateOption = None,
    arrivals: ArrivalsOption = "poisson",
    requests: RequestsOption = None,
    duration: DurationOption = None,
    warm_up: WarmUpOption = None,
    timeout: TimeoutOption = 120.0,
    seed: SeedOption = 0,
    task: TaskOption = None,
    prompts: PromptsOption = None,
    prompt_tokens: PromptTokensOption = None,
    output_tokens: OutputTokensOption = None,
    natural_end: NaturalEndOption = False,
    tokenizer: TokenizerOption = None,
    protocol: ProtocolOption = "http",
    model: ModelOption = None,
    layers: LayersOption = False,
    goodput: GoodputOption = None,
    prefix_reuse: PrefixReuseOption = False,
    html: HtmlOption = None,
    compare: CompareOption = None,
    noise: NoiseOption = 0.05,
    server: ServerOption = None,
    http: HttpOption = None,
    grpc: GrpcOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Run the loads and print the measurements."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.bench.comparison import compare_documents, read_bench
        from trtllm_forge.bench.html_report import html_report, require_folder, write_report
        from trtllm_forge.bench.plan import BenchPlan, plan_paces, read_limits, refuse_together
        from trtllm_forge.bench.table import comparison_table, plan_table, table

        refuse_together("forge bench", {"--layers": layers, "--model": model})
        refuse_together(
            "forge bench", {"--prompts": prompts, "--prompt-tokens": prompt_tokens, "--task": task}
        )
        plan = BenchPlan(
            paces=plan_paces(
                concurrency=concurrency,
                rate=rate,
                arrivals=arrivals,
                warm_up=warm_up,
                requests=requests,
                duration_s=duration,
                seed=seed,
            ),
            protocol=protocol,
            model=model,
            is_layered=layers,
            task=task or "completion",
            prompts_path=prompts,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            fixed_length=not natural_end,
            limits_s=read_limits(goodput),
            has_prefix_reuse=prefix_reuse,
            tokenizer_dir=tokenizer,
            timeout_s=timeout,
            seed=seed,
        )
        before = read_bench(compare) if compare else None
        if html is not None:
            require_folder(html)
        if dry_run:
            console.result(plan_table(plan, html), {"schema": 1, "plan": plan.document(html)})
            return

        from trtllm_forge.bench.run import run_bench
        from trtllm_forge.config.settings import read_settings
        from trtllm_forge.serving.records.find import find_running_server

        address = find_running_server(
            read_settings().state_dir,
            console,
            command="forge bench",
            name=server,
            http=http,
            model=model,
        )
        if grpc is not None:
            address = replace(address, urls=replace(address.urls, grpc=grpc))
        document = run_bench(address, plan, console)
        text = table(document)
        comparison = None
        if before is not None:
            comparison = compare_documents(before, document, noise=noise)
            document = {**document, "comparison": comparison.document()}
            text += f"\n\n{comparison_table(comparison)}"
        if html is not None:
            write_report(html, html_report(document))
        console.result(text, document)
        if comparison is not None and comparison.is_slower:
            if json:
                raise typer.Exit(comparison.error().exit_code)
            raise comparison.error()
        if html is not None:
            console.note(f"wrote {html}")
        console.next_step("forge bench --json > bench.json")
