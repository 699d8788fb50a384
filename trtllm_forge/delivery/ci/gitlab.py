"""A pipeline of GitLab CI, ``data/ci/gitlab.yml.jinja``.

It is complete in itself and fit to be included by another.
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
    """Return a step as an item of a script, whose items all run in one shell."""
    script = step.script.rstrip("\n")
    if step.key == "probe":
        # In a shell of its own, whose end stops the server.
        script = f"(\n{script}\n)"
    return f"{script}\n" if "\n" in script else script
