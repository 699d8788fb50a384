"""A GitHub Actions workflow, from ``data/ci/github.yml.jinja``.

Actions are pinned to the oldest major version that runs on Node 24, which requires the least from
a self-hosted runner.

Source: iii-hq/workers#600 and celo-org/developer-tooling#781 (Node 20 ends in September 2026).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.delivery.ci.workflow import workflow_text

if TYPE_CHECKING:
    from trtllm_forge.delivery.ci.workflow import Workflow

DEFAULT_PATH = ".github/workflows/forge.yml"


def github_text(workflow: Workflow, *, code_scanning: bool) -> str:
    """Return the text of the workflow file.

    Args:
        workflow: Its jobs and steps.
        code_scanning: Whether to upload findings to the repository's code scanning.
    """
    return workflow_text(
        "github.yml.jinja",
        workflow,
        {"expression": _expression, "without_expressions": _without_expressions},
        code_scanning=code_scanning,
    )


def _expression(text: str) -> str:
    """Return text as a string literal of an expression."""
    quoted = text.replace("'", "''")
    return f"'{quoted}'"


def _without_expressions(script: str) -> str:
    """Return a script with ``${{`` escaped, which may occur in a folder's name."""
    return script.replace("${{", "${{ '${{' }}")
