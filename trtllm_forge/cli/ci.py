"""``forge ci``: workflows that build, check, serve, probe and package, with a summary."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtllm_forge.cli.console import Console, open_console
from trtllm_forge.cli.options import (
    BUILDING,
    ConfigPathOption,
    DryRunOption,
    JsonOption,
    ModelArgument,
    OverwriteOption,
    QuietOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from trtllm_forge.delivery.ci.workflow import Workflow

WorkflowOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="File to write; defaults to where the CI system looks for it.",
        show_default=False,
        rich_help_panel=BUILDING,
    ),
]
GpuJobOption = Annotated[
    bool,
    typer.Option(
        "--gpu",
        help="Add a job that builds for a GPU, on a self-hosted runner.",
        rich_help_panel=BUILDING,
    ),
]
CodeScanningOption = Annotated[
    bool,
    typer.Option(
        "--code-scanning",
        help="Also upload the findings to GitHub code scanning.",
        rich_help_panel=BUILDING,
    ),
]
DocumentsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="JSON documents of build, check, probe or bench.",
        show_default=False,
    ),
]


def github(
    *,
    model: ModelArgument = None,
    output: WorkflowOutputOption = None,
    config: ConfigPathOption = None,
    gpu: GpuJobOption = False,
    code_scanning: CodeScanningOption = False,
    force: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Write the GitHub Actions workflow."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.delivery.ci.github import DEFAULT_PATH, github_text
        from trtllm_forge.delivery.ci.workflow import plan_workflow

        extra = ("--code-scanning",) if code_scanning else ()
        workflow = plan_workflow(
            system="github", model=model, config_path=config, with_gpu=gpu, extra=extra
        )
        text = github_text(workflow, code_scanning=code_scanning)
        path = output or Path(DEFAULT_PATH)
        _deliver(console, workflow, text, path, force=force, dry_run=dry_run)


def gitlab(
    *,
    model: ModelArgument = None,
    output: WorkflowOutputOption = None,
    config: ConfigPathOption = None,
    gpu: GpuJobOption = False,
    force: OverwriteOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Write the GitLab CI pipeline."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.delivery.ci.gitlab import DEFAULT_PATH, gitlab_text
        from trtllm_forge.delivery.ci.workflow import plan_workflow

        workflow = plan_workflow(system="gitlab", model=model, config_path=config, with_gpu=gpu)
        text, path = gitlab_text(workflow), output or Path(DEFAULT_PATH)
        _deliver(console, workflow, text, path, force=force, dry_run=dry_run)


def summary(
    documents: DocumentsArgument,
    *,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Print the documents as one Markdown page."""
    with open_console(json=json, verbose=verbose, quiet=quiet) as console:
        from trtllm_forge.delivery.ci.summary import summarize

        text = summarize(documents)
        console.result(text.rstrip("\n"), {"schema": 1, "markdown": text})


def _deliver(
    console: Console, workflow: Workflow, text: str, path: Path, *, force: bool, dry_run: bool
) -> None:
    from trtllm_forge.files.output import write_workflow

    document = {"schema": 1, "path": str(path), "text": text}
    if dry_run:
        console.result(text.rstrip("\n"), document)
        return
    again = f"{workflow.command} --output {shlex.quote(str(path))} --force"
    write_workflow(path, text, replace=force, again=again)
    console.result(f"wrote {path}", document)
    sources = [name for name in workflow.key_files if Path(name).exists()]
    console.next_step(shlex.join(["git", "add", *sources, str(path)]))
