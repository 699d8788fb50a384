"""The ``forge`` command: its commands, in the order a user meets them."""

from __future__ import annotations

from typing import Annotated

import typer

from trtllm_forge import __version__
from trtllm_forge.cli.console import open_console
from trtllm_forge.cli.lazy import new_app, register

app = new_app(
    name="forge",
    help="Turn a Hugging Face checkpoint into a checked, deployable Triton model repository.",
)
cache_app = new_app()
config_app = new_app()
ci_app = new_app()

register(
    app,
    "init",
    "init:init",
    "Write a commented forge.yaml for a model.",
    examples=("forge init starcoder", "forge init sample --int4 --dry-run"),
)
register(
    app,
    "build",
    "build:build",
    "Build a model repository from a checkpoint, engine included.",
    examples=(
        "forge build sample --int4 --dry-run",
        "forge build sample --max-batch-size 16 --dry-run --json",
    ),
)
register(
    app,
    "plan",
    "plan:plan",
    "Print what build would run and why; the same as build --dry-run.",
    examples=(
        "forge plan sample --runtime trtllm --int4 --gpu h100-80g",
        "forge plan sample --runtime trtllm --fp8 --gpu l40s --tp 2 --json",
    ),
)
register(
    app,
    "render",
    "render:render",
    "Write only the model repository; needs no engine and no GPU.",
    examples=(
        "forge render sample --runtime openvino --output rendered",
        "forge render sample --runtime trtllm --trtllm-version 1.2.1 --output rendered-trtllm",
    ),
)
register(
    app,
    "verify",
    "verify:verify",
    "Compare every file of a model repository with its manifest.",
    examples=("forge verify sample", "forge verify model_repos/sample --json"),
)
register(
    app,
    "check",
    "check:check",
    "Find problems in a model repository before serving it.",
    examples=(
        "forge check model_repos/sample",
        "forge check model_repos/sample --trtllm-version 1.2.1 --json",
    ),
)
register(
    app,
    "serve",
    "serve:serve",
    "Start Triton on a model repository and wait until it is ready.",
    examples=(
        "forge serve sample",
        "forge serve sample --detach --name coder --restart on-failure",
    ),
)
register(
    app,
    "ps",
    "ps:ps",
    "List the running servers.",
    examples=("forge ps", "forge ps --all --json"),
)
register(
    app,
    "status",
    "status:status",
    "Show whether a server is ready, and if not, why.",
    examples=("forge status coder", "forge status --json"),
)
register(
    app,
    "logs",
    "logs:logs",
    "Print the end of a server's log, and why the server ended.",
    examples=("forge logs coder -n 20", "forge logs coder -f"),
)
register(
    app,
    "stop",
    "stop:stop",
    "Let a server finish its running requests, then stop it.",
    examples=("forge stop coder", "forge stop --all --timeout 5"),
)
register(
    app,
    "load",
    "load:load",
    "Load another repository into a running server.",
    examples=("forge load chat --server coder", "forge load chat=served/llama --server coder"),
)
register(
    app,
    "unload",
    "unload:unload",
    "Unload a repository from a running server.",
    examples=("forge unload chat", "forge unload chat --server coder --timeout 60"),
)
register(
    app,
    "reload",
    "reload:reload",
    "Switch a running server to a repository's new build without downtime.",
    examples=("forge reload sample", "forge reload coder --server coder --json"),
)
register(
    app,
    "probe",
    "probe:probe",
    "Check that a running server gives correct answers.",
    examples=("forge probe", "forge probe --json"),
)
register(
    app,
    "bench",
    "bench:bench",
    "Measure a running server under load: TTFT, ITL, TPOT, throughput and goodput.",
    examples=(
        "forge bench --concurrency 1,4,16 --html bench.html --dry-run",
        "forge bench --rate 8 --duration 30 --goodput ttft=200,itl=50 --dry-run",
    ),
)
register(
    app,
    "complete",
    "complete:complete",
    "Complete code with the served model, or fill in the middle.",
    examples=(
        'forge complete "def add(a, b):" --stream',
        'forge complete "def add(a, b):" --suffix "return c"',
    ),
)
register(
    app,
    "package",
    "package:package",
    "Pack a model repository into one file, reproducible byte for byte.",
    examples=(
        "forge package model_repos/sample",
        "forge package model_repos/sample --output coder.tar.zst --level 12",
    ),
)
register(
    app,
    "unpack",
    "unpack:unpack",
    "Verify a package and unpack its model repository.",
    examples=(
        "forge unpack sample.tar.zst --output served/sample",
        "forge unpack sample.tar.zst --dry-run --json",
    ),
)
register(
    app,
    "doctor",
    "doctor:doctor",
    "Show what this machine can build and serve, and what it lacks.",
    examples=("forge doctor", "forge doctor --trtllm-version 1.2.1 --json"),
)
register(
    app,
    "versions",
    "versions:versions",
    "Show which Triton image carries which TensorRT-LLM, and what each release supports.",
    examples=("forge versions --image 26.07", "forge versions --architecture starcoder"),
)
register(
    app,
    "sbom",
    "sbom:sbom",
    "Print a model repository's software bill of materials, as CycloneDX.",
    examples=(
        "forge sbom model_repos/sample",
        "forge sbom model_repos/sample --output forge.sbom.json",
    ),
)
app.add_typer(cache_app, name="cache", help="Inspect and prune the store of artifacts.")
register(
    cache_app,
    "ls",
    "cache:ls",
    "List what the store holds and which repositories use it.",
    examples=("forge cache ls", "forge cache ls --stage compile --json"),
)
register(
    cache_app,
    "du",
    "cache:du",
    "Show how much disk space the store takes.",
    examples=("forge cache du", "forge cache du --json"),
)
register(
    cache_app,
    "prune",
    "prune:prune",
    "Remove artifacts that no repository uses and no build needs.",
    examples=(
        "forge cache prune --older-than 30d --dry-run",
        "forge cache prune --keep-last 2 --stage compile --yes",
    ),
)
register(
    app,
    "migrate",
    "migrate:migrate",
    "Move a repository to the LLM API or to another release.",
    examples=(
        "forge migrate model_repos/llama --to llmapi --model llama-3.1-8b",
        "forge migrate model_repos/llama --to 1.2.1 --dry-run",
    ),
)
app.add_typer(config_app, name="config", help="Inspect the configuration.")
register(
    config_app,
    "show",
    "config:show",
    "Print every configuration value and where it came from.",
    examples=("forge config show", "forge config show starcoder --int4 --json"),
)
app.add_typer(ci_app, name="ci", help="Write CI workflows and summaries of their results.")
register(
    ci_app,
    "github",
    "ci:github",
    "Write a GitHub Actions workflow that builds, serves, probes and packages the twin.",
    examples=(
        "forge ci github sample --dry-run",
        "forge ci github sample --gpu --output forge.yml",
    ),
)
register(
    ci_app,
    "gitlab",
    "ci:gitlab",
    "Write a GitLab CI pipeline that builds, serves, probes and packages the twin.",
    examples=("forge ci gitlab sample --dry-run", "forge ci gitlab sample --gpu --force"),
)
register(
    ci_app,
    "summary",
    "ci:summary",
    "Print the JSON documents of build, check, probe and bench as Markdown.",
    examples=(
        "forge ci summary build.json check.json probe.json",
        "forge ci summary probe.json --json",
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        with open_console() as console:
            console.result(f"forge {__version__}", {})
        raise typer.Exit


@app.callback()
def forge(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Handle the options that come before a command."""


def main() -> None:
    """Run the command line."""
    app(prog_name="forge")
