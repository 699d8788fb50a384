"""A pipeline of GitLab CI, complete in itself and fit to be included by another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.delivery.ci.workflow import PYTHON_VERSION, STATE_DIR, STORE_DIR, VENV_DIR
from trtllm_forge.delivery.ci.yaml_text import yaml_text

if TYPE_CHECKING:
    from trtllm_forge.delivery.ci.workflow import Job, Step, Workflow

DEFAULT_PATH = ".gitlab-ci.yml"
SUMMARY_NAME = "summary.md"

_MERGE_REQUEST = {"if": '$CI_PIPELINE_SOURCE == "merge_request_event"'}
_DEFAULT_BRANCH = {"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}
_BY_HAND = {"if": '$CI_PIPELINE_SOURCE == "web"'}


def gitlab_text(workflow: Workflow) -> str:
    """Return the text of the pipeline file."""
    stages = ["twin"] if workflow.gpu is None else ["twin", "gpu"]
    sections: list[tuple[str, str, object]] = [
        ("", "stages", stages),
        ("", "forge twin", _twin(workflow)),
    ]
    if workflow.gpu is not None:
        comment = "Give your GPU runner the tag gpu, and bash as its shell."
        sections.append((comment, "forge gpu", _gpu(workflow.gpu)))
    return yaml_text(sections, heading=_heading(workflow))


def _heading(workflow: Workflow) -> str:
    lines = [
        f"Written by forge {workflow.version}: {workflow.command}",
        "",
        "Variables of the project (Settings, CI/CD, Variables), which win over those below:",
        "  FORGE_INSTALL  what pip installs as forge, such as a git URL with the extra cpu",
        "  TORCH_INDEX    an index of packages that has CPU builds of torch",
        "  HF_TOKEN       for a gated or private model; mask it",
    ]
    if workflow.gpu is not None:
        lines.append("  FORGE_INSTALL_GPU  what the GPU job installs, without the extra")
    return "\n".join(lines)


def _twin(workflow: Workflow) -> dict[str, object]:
    job = workflow.twin
    return {
        "stage": "twin",
        "image": f"python:{PYTHON_VERSION}",
        "rules": [_MERGE_REQUEST, _DEFAULT_BRANCH, _BY_HAND],
        "interruptible": True,
        "timeout": f"{job.timeout_minutes} minutes",
        "variables": {
            "FORGE_INSTALL": job.install,
            "FORGE_CACHE_DIR": STORE_DIR,
            "FORGE_STATE_DIR": STATE_DIR,
            "REPOSITORY": job.repository,
            "PACKAGE": job.package,
        },
        "cache": {
            "key": {
                "files": list(workflow.key_files),
                "prefix": f"forge-{workflow.version}-{workflow.name}",
            },
            "paths": [STORE_DIR],
            # A failed probe does not cost the next run the build.
            "when": "always",
        },
        "script": [line for step in job.steps for line in _lines(step)],
        "after_script": [_summary(job)],
        "artifacts": _artifacts(job),
    }


def _gpu(job: Job) -> dict[str, object]:
    enter = f". {VENV_DIR}/bin/activate"
    return {
        "stage": "gpu",
        "needs": ["forge twin"],
        "tags": ["gpu"],
        # A merge request may be anybody's code, and this runner is yours.
        "rules": [_DEFAULT_BRANCH, _BY_HAND],
        "timeout": f"{job.timeout_minutes} minutes",
        "variables": {
            "FORGE_INSTALL_GPU": job.install,
            "REPOSITORY": job.repository,
            "PACKAGE": job.package,
        },
        "script": [
            line
            for step in job.steps
            for line in (*_lines(step), *([enter] if step.key == "install" else ()))
        ],
        "after_script": [enter, _summary(job)],
        "artifacts": _artifacts(job),
    }


def _lines(step: Step) -> list[str]:
    """Return a step as script items, which all run in one shell."""
    script = step.script.rstrip("\n")
    if step.key == "probe":
        # In a shell of its own, whose end stops the server.
        script = f"(\n{script}\n)"
    lines = [f"{script}\n" if "\n" in script else script]
    if step.takes_token:
        lines.append("unset HF_TOKEN")
    return lines


def _summary(job: Job) -> str:
    return f"forge ci summary {' '.join(job.documents)} | tee {SUMMARY_NAME}"


def _artifacts(job: Job) -> dict[str, object]:
    return {
        "name": job.package.removesuffix(".tar.zst"),
        "when": "always",
        "expire_in": "30 days",
        "paths": [*job.results, SUMMARY_NAME],
    }
