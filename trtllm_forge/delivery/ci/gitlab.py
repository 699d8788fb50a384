"""A GitLab CI pipeline, from ``data/ci/gitlab.yml.jinja``.

It works on its own and can also be included by another pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.delivery.ci.workflow import workflow_text

if TYPE_CHECKING:
    from trtllm_forge.delivery.ci.workflow import Step, Workflow

DEFAULT_PATH = ".gitlab-ci.yml"
SUMMARY_NAME = "summary.md"


def gitlab_text(workflow: Workflow) -> str:
    """Return the text of the pipeline file."""
    filters = {"script_item": _script_item}
    return workflow_text("gitlab.yml.jinja", workflow, filters, summary_name=SUMMARY_NAME)


def _script_item(step: Step) -> str:
    """Return a step as an item of a script; all items run in one shell."""
    script = step.script.rstrip("\n")
    if step.key == "probe":
        # In a subshell, which stops the server when it exits.
        script = f"(\n{script}\n)"
    return f"{script}\n" if "\n" in script else script
