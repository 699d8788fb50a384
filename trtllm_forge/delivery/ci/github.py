"""A workflow of GitHub Actions.

Actions are pinned to the oldest major version that runs on Node 24, which asks least of a
self-hosted runner.

Source: iii-hq/workers#600 and celo-org/developer-tooling#781 (Node 20 ends in September 2026).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.delivery.ci.workflow import (
    PYTHON_VERSION,
    SARIF_NAME,
    STATE_DIR,
    STORE_DIR,
    VENV_DIR,
)
from trtllm_forge.delivery.ci.yaml_text import yaml_text

if TYPE_CHECKING:
    from trtllm_forge.delivery.ci.workflow import Job, Step, Workflow

DEFAULT_PATH = ".github/workflows/forge.yml"

_CHECKOUT = "actions/checkout@v5"
_SETUP_PYTHON = "actions/setup-python@v6"
_CACHE_RESTORE = "actions/cache/restore@v5"
_CACHE_SAVE = "actions/cache/save@v5"
_UPLOAD = "actions/upload-artifact@v6"
_UPLOAD_SARIF = "github/codeql-action/upload-sarif@v4"

_AS_FAR_AS_IT_GOT = "${{ !cancelled() && steps.install.outcome == 'success' }}"
_FIND_IN_VENV = f'echo "$PWD/{VENV_DIR}/bin" >> "$GITHUB_PATH"\n'

_StepDocument = dict[str, object]


def github_text(workflow: Workflow, *, code_scanning: bool) -> str:
    """Return the text of the workflow file.

    Args:
        workflow: What it does.
        code_scanning: Whether findings also go to the repository's code scanning.
    """
    jobs: dict[str, object] = {"twin": _twin(workflow, code_scanning=code_scanning)}
    if workflow.gpu is not None:
        jobs["gpu"] = _gpu(workflow.gpu)
    sections = [
        ("", "name", f"forge {workflow.name}"),
        (
            "",
            "on",
            {
                "push": {"branches": ["main", "master"]},
                "pull_request": {},
                "workflow_dispatch": {},
            },
        ),
        ("No job writes to this repository.", "permissions", {"contents": "read"}),
        (
            "A newer push to a pull request takes the place of a run that goes on.",
            "concurrency",
            {
                "group": "${{ github.workflow }}-${{ github.ref }}",
                "cancel-in-progress": "${{ github.event_name == 'pull_request' }}",
            },
        ),
        ("With pipefail, so that a command before a pipe fails its step.", "defaults", _BASH),
        ("", "jobs", jobs),
    ]
    return yaml_text(sections, heading=_heading(workflow))


_BASH = {"run": {"shell": "bash"}}


def _heading(workflow: Workflow) -> str:
    lines = [
        f"Written by forge {workflow.version}: {workflow.command}",
        "",
        "Variables of the repository (Settings, Secrets and variables, Actions):",
        "  FORGE_INSTALL  what pip installs as forge, such as a git URL with the extra cpu",
        "  TORCH_INDEX    an index of packages that has CPU builds of torch",
    ]
    if workflow.gpu is not None:
        lines.append("  FORGE_INSTALL_GPU  the same for the GPU job, without the extra")
    return "\n".join([*lines, "Secret, for a gated or private model: HF_TOKEN"])


def _twin(workflow: Workflow, *, code_scanning: bool) -> dict[str, object]:
    job = workflow.twin
    restore, save = _store_steps(workflow)
    steps = [_checkout(), _setup_python()]
    for step in job.steps:
        steps += [restore, _run(step), save] if step.key == "build" else [_run(step)]
    steps += _reports(f"forge-{workflow.name}", job)
    if code_scanning:
        steps.append(_code_scanning())
    scanning = {"permissions": {"contents": "read", "security-events": "write"}}
    return {
        "name": "Build and probe the twin",
        "runs-on": "ubuntu-24.04",
        "timeout-minutes": job.timeout_minutes,
        **(scanning if code_scanning else {}),
        "env": {
            "FORGE_INSTALL": _variable("FORGE_INSTALL", job.install),
            "TORCH_INDEX": "${{ vars.TORCH_INDEX }}",
            "FORGE_CACHE_DIR": STORE_DIR,
            "FORGE_STATE_DIR": STATE_DIR,
            "REPOSITORY": job.repository,
            "PACKAGE": job.package,
        },
        "steps": steps,
    }


def _gpu(job: Job) -> dict[str, object]:
    return {
        "name": "Build for the GPU",
        "needs": "twin",
        # A pull request is anybody's code, and this runner is yours.
        "if": "github.event_name != 'pull_request'",
        "runs-on": ["self-hosted", "linux", "gpu"],
        "timeout-minutes": job.timeout_minutes,
        # The store stays on the runner, in its own home: engines are large.
        "env": {
            "FORGE_INSTALL_GPU": _variable("FORGE_INSTALL_GPU", job.install),
            "REPOSITORY": job.repository,
            "PACKAGE": job.package,
        },
        "steps": [
            _checkout(),
            *(
                _run(step, tail=_FIND_IN_VENV if step.key == "install" else "")
                for step in job.steps
            ),
            *_reports(job.package.removesuffix(".tar.zst"), job),
        ],
    }


def _checkout() -> _StepDocument:
    return {
        "name": "Check out",
        "uses": _CHECKOUT,
        # No later step needs the token of this run.
        "with": {"persist-credentials": False},
    }


def _setup_python() -> _StepDocument:
    return {
        "name": "Set up Python",
        "uses": _SETUP_PYTHON,
        "with": {"python-version": PYTHON_VERSION},
    }


def _store_steps(workflow: Workflow) -> tuple[_StepDocument, _StepDocument]:
    """Return what brings the store before the build, and what keeps it right after.

    It is kept there and not at the end: a failed probe does not cost the next run the build.
    """
    prefix = f"forge-{workflow.version}-{workflow.name}-"
    files = ", ".join(f"'{_quoted(name)}'" for name in workflow.key_files)
    restore: _StepDocument = {
        "name": "Restore the store",
        "id": "store",
        "uses": _CACHE_RESTORE,
        "with": {
            "path": STORE_DIR,
            "key": f"{prefix}${{{{ hashFiles({files}) }}}}",
            # What has not changed since an older configuration is not made again.
            "restore-keys": prefix,
        },
    }
    save: _StepDocument = {
        "name": "Keep the store",
        "if": "steps.store.outputs.cache-hit != 'true'",
        "uses": _CACHE_SAVE,
        "with": {"path": STORE_DIR, "key": "${{ steps.store.outputs.cache-primary-key }}"},
    }
    return restore, save


def _code_scanning() -> _StepDocument:
    return {
        "name": "Show the findings in code scanning",
        "if": f"${{{{ !cancelled() && hashFiles('{SARIF_NAME}') != '' }}}}",
        "uses": _UPLOAD_SARIF,
        "with": {"sarif_file": SARIF_NAME, "category": "forge"},
    }


def _run(step: Step, *, tail: str = "") -> _StepDocument:
    document: _StepDocument = {"name": step.name, "id": step.key}
    if step.takes_token:
        document["env"] = {"HF_TOKEN": "${{ secrets.HF_TOKEN }}"}
    document["run"] = _quoted_script(step.script + tail)
    return document


def _reports(artifact: str, job: Job) -> list[_StepDocument]:
    """Return the steps that run however far the job got."""
    return [
        {
            "name": "Write the summary",
            "if": _AS_FAR_AS_IT_GOT,
            "run": f'forge ci summary {" ".join(job.documents)} >> "$GITHUB_STEP_SUMMARY"',
        },
        {
            "name": "Upload",
            "if": _AS_FAR_AS_IT_GOT,
            "uses": _UPLOAD,
            "with": {"name": artifact, "path": "".join(f"{path}\n" for path in job.results)},
        },
    ]


def _variable(name: str, default: str) -> str:
    return f"${{{{ vars.{name} || '{_quoted(default)}' }}}}"


def _quoted(text: str) -> str:
    """Return text for the inside of an expression's quotes."""
    return text.replace("'", "''")


def _quoted_script(script: str) -> str:
    """Return a script in which nothing is taken for an expression, whatever a folder is called."""
    return script.replace("${{", "${{ '${{' }}")
