"""Fill-in-the-middle prompts: pure functions over a template.

A model trained with FIM sees the text before and after a gap, marked by special tokens, and
writes the gap. PSM puts the prefix first, SPM the suffix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FimOrder = Literal["psm", "spm"]


@dataclass(frozen=True, kw_only=True)
class FimTemplate:
    """How one model family marks the parts of a FIM prompt.

    Attributes:
        prefix: Text before the prefix part.
        suffix: Text before the suffix part.
        middle: Text at the end, after which the model writes the middle.
        order: ``psm`` (prefix, suffix, middle) or ``spm`` (suffix, prefix, middle).
        stop: Strings that end the middle and are not part of it.
    """

    prefix: str
    suffix: str
    middle: str
    order: FimOrder = "psm"
    stop: tuple[str, ...] = ()


def assemble_fim_prompt(template: FimTemplate, *, prefix: str, suffix: str) -> str:
    """Return the prompt that asks for the text between ``prefix`` and ``suffix``."""
    if template.order == "spm":
        return f"{template.suffix}{suffix}{template.prefix}{prefix}{template.middle}"
    return f"{template.prefix}{prefix}{template.suffix}{suffix}{template.middle}"
