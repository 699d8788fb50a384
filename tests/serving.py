"""Options of a server, as tests ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtllm_forge.config.schema import ServeSection
from trtllm_forge.serving.plan.options import ServeOptions
from trtllm_forge.serving.plan.repositories import NamedRepository

if TYPE_CHECKING:
    from pathlib import Path


def options_for(repository_dir: Path, **section: Any) -> ServeOptions:
    """Return options that serve one repository, with values of the section ``serve``."""
    return ServeOptions(
        repositories=(NamedRepository(name=repository_dir.name, folder=repository_dir),),
        section=ServeSection(**section),
    )
