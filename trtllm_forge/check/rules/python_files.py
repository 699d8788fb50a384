"""FL118, FL119, FL126, FL127: the Python files of the models."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trtllm_forge.check.files import small_file
from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.triton.repository.python_source import syntax_mistake

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from trtllm_forge.check.model import Model
    from trtllm_forge.check.view import RepositoryView

_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+([\w.]+))", re.MULTILINE
)
_COMPANIONS = (
    "lib",
    "helpers",
    "multimodal_utils",
    "fbank",
    "answers",
    "detokenizer",
    "dispatcher",
    "engine",
    "engine_loop",
    "engine_metrics",
    "engine_process",
    "engine_worker",
    "generation",
    "llm_answer",
    "llm_loop",
    "llm_request",
    "llm_settings",
    "model_folder",
    "outbox",
    "request_reader",
    "stop_request",
    "wire",
    "word_lists",
)
"""Modules that upstream's models and forge's own have beside their model.py."""


@rule("FL118", "python-missing", "error")
def python_missing(view: RepositoryView) -> Iterable[Problem]:
    """A Python model has a model.py.

    Why: The python backend loads this file and no other.
    Fix: Copy the model's Python files back.
    """
    for model in _python_models(view):
        scalar = model.config.scalar("default_model_filename")
        filename = _filename(model)
        for version in model.versions:
            if filename in model.files[version]:
                continue
            yield Problem(
                model=model.folder,
                path=f"{model.folder}/{version}" if scalar is None else model.path,
                line=None if scalar is None else scalar.line,
                message=f"version {version} has no {filename}",
            )


@rule("FL119", "python-syntax", "error")
def python_syntax(view: RepositoryView) -> Iterable[Problem]:
    """A Python model's files are valid Python.

    Why: The stub process dies, and Triton says only that it died.
    Fix: Fix the line that the message names.
    """
    for model, path, name in _sources(view):
        source = small_file(path)
        mistake = None if source is None else syntax_mistake(source)
        if mistake is not None:
            yield Problem(
                model=model.folder,
                path=name,
                line=mistake.line,
                message=f"not valid Python: {mistake.message}",
            )


@rule("FL126", "python-class", "error")
def python_class(view: RepositoryView) -> Iterable[Problem]:
    """A model.py has the class TritonPythonModel.

    Why: The stub process looks for this class.
    Fix: Copy the model's Python files back. A model.py that imports the class from elsewhere is
        fine too.
    """
    for model, path, name in _sources(view):
        source = small_file(path) if path.name == _filename(model) else None
        if source is not None and b"TritonPythonModel" not in source:
            yield Problem(
                model=model.folder,
                path=name,
                message=f"{path.name} has no class TritonPythonModel",
            )


@rule("FL127", "python-import", "error")
def python_import(view: RepositoryView) -> Iterable[Problem]:
    """The modules that a model imports from its folder exist.

    Why: The stub process dies with ModuleNotFoundError, usually because a folder was copied in
        part.
    Fix: Copy the whole version folder again, with its subfolders.
    """
    for model, path, name in _sources(view):
        source = small_file(path) or b""
        for match in _IMPORT.finditer(source):
            module = (match.group(1) or match.group(2)).decode()
            if _is_lost(module, path.parent):
                yield Problem(
                    model=model.folder,
                    path=name,
                    line=source.count(b"\n", 0, match.start()) + 1,
                    message=f"{module} is imported, and is not beside {path.name}",
                )


def _is_lost(module: str, folder: Path) -> bool:
    is_relative = module.startswith(".") and not module.startswith("..")
    parts = module.lstrip(".").split(".")
    if not parts[0] or not (is_relative or parts[0] in _COMPANIONS):
        return False
    for part in parts:
        if (folder / f"{part}.py").is_file():
            return False
        folder /= part
        if not folder.is_dir():
            return True
    return False


def _sources(view: RepositoryView) -> Iterator[tuple[Model, Path, str]]:
    """Give the Python files that lie in the version folders, and their paths."""
    for model in _python_models(view):
        for version in model.versions:
            for name in model.files[version]:
                if name.endswith(".py"):
                    path = view.root / model.folder / version / name
                    yield model, path, f"{model.folder}/{version}/{name}"


def _filename(model: Model) -> str:
    return model.config.text("default_model_filename") or "model.py"


def _python_models(view: RepositoryView) -> list[Model]:
    return [model for model in view.models if model.backend == "python"]
