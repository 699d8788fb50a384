"""Checks whether a model's Python file compiles.

The models of a repository share files, and a build reads them twice: after rendering and in the
check. So each text is compiled once per process.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, kw_only=True)
class SourceMistake:
    """Why a file is not valid Python; ``line`` counts from 1, None if unknown."""

    line: int | None
    message: str


@lru_cache(maxsize=256)
def syntax_mistake(source: bytes) -> SourceMistake | None:
    """Return the first mistake in a file's content, or None."""
    try:
        compile(source, "model.py", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError as error:
        return SourceMistake(line=error.lineno, message=error.msg)
    except ValueError as error:
        return SourceMistake(line=None, message=str(error))
    return None
