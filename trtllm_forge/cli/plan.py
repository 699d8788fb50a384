"""``forge plan``: what ``forge build`` would do, under a name of its own."""

from __future__ import annotations

import functools
from typing import Any

from trtllm_forge.cli.build import build


# The wrapped signature is that of ``build``, so both take the same options, and always will.
@functools.wraps(build)
def plan(**values: Any) -> None:
    """Print the plan of ``build`` and change nothing."""
    build(**{**values, "dry_run": True})
