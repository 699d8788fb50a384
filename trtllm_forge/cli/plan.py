"""``forge plan``: what ``forge build`` would do, as a command of its own."""

from __future__ import annotations

import functools
from typing import Any

from trtllm_forge.cli.build import build


# Wrapping takes over the signature of ``build``, so both always have the same options.
@functools.wraps(build)
def plan(**values: Any) -> None:
    """Print the plan of ``build`` and change nothing."""
    build(**{**values, "dry_run": True})
