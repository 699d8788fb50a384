"""``forge bench``: what the running server takes for a request, and for many."""

from __future__ import annotations

from dataclasses import replace

import typer

from trtllm_forge.cli import bench_options as options
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.options import DryRunOption, JsonOption, QuietOption, VerboseOption
from trtllm_forge.cli.probe import HttpOption, ServerOption


def bench(
    *,
    concurrency: options.ConcurrencyOption = None,
    rate: options.RateOption = None,
    arrivals: options.ArrivalsOption = options.ArrivalName.POISSON,
    requests: options.RequestsOption = None,
    duration: options.DurationOption = None,
    warm_up: options.WarmUpOption = None,
    timeout: options.TimeoutOption = 120.0,
    seed: options.SeedOption = 0,
    task: options.TaskOption = None,
    prompts: options.PromptsOption = None,
    prompt_tokens: options.PromptTokensOption = None,
    output_tokens: options.OutputTokensOption = None,
    natural_end: options.NaturalEndOption = False,
    tokenizer: options.TokenizerOption = None,
    protocol: options.ProtocolOption = options.ProtocolName.HTTP,
    model: options.ModelOption = None,
    layers: options.LayersOption = False,
    goodput: options.GoodputOption = None,
    prefix_reuse: options.PrefixReuseOption = False,
    html: options.HtmlOption = None,
    compare: options.CompareOption = None,
    noise: options.NoiseOption = 0.05,
    server: ServerOption = None,
    http: HttpOption = None,
    grpc: options.GrpcOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Run the loads and print what they took."""
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
                arrivals=arrivals.value,
                warm_up=warm_up,
                requests=requests,
                duration_s=duration,
                seed=seed,
            ),
            protocol=protocol.value,
            model=model,
            is_layered=layers,
            task=task.value if task else "completion",
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
