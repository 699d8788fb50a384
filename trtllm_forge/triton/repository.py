"""Reads a model repository back, as Triton would, and says what is wrong with it."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import PrerequisiteError, RenderError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEMPLATE_MARKER = re.compile(r"\{\{|\}\}|\{%|\$\{")


def read_model_configs(repository_dir: Path) -> Mapping[str, Any]:
    """Return each model's parsed ``ModelConfig`` by folder name.

    Raises:
        RenderError: A ``config.pbtxt`` does not parse, has a field Triton does not know, or
            still holds a template marker.
    """
    return {
        path.parent.name: parse_model_config(path)
        for path in sorted(repository_dir.glob("*/config.pbtxt"))
    }


def parse_model_config(path: Path) -> Any:
    """Return the ``ModelConfig`` message in a ``config.pbtxt``.

    Raises:
        RenderError: It does not parse, or still holds a template marker.
    """
    from google.protobuf import text_format

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8"
        raise RenderError(what, why=str(error)) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if _TEMPLATE_MARKER.search(line):
            what = f"{path}:{number} still holds a template marker"
            raise RenderError(what, why=line.strip())
    try:
        return text_format.Parse(text, _model_config_messages().ModelConfig())
    except text_format.ParseError as error:
        what = f"{path} is no Triton ModelConfig"
        raise RenderError(what, why=str(error)) from error


def verify_repository(repository_dir: Path) -> None:
    """Raise unless every file of a rendered repository is what Triton expects.

    Every ``config.pbtxt`` parses, every Python file compiles, every model has its version
    folder, and every model that an ensemble names is there with the tensors that it maps.

    Raises:
        RenderError: The first thing that is not so.
    """
    configs = read_model_configs(repository_dir)
    for name, config in configs.items():
        if config.name != name:
            what = f"{repository_dir / name}/config.pbtxt names the model {config.name!r}"
            raise RenderError(what, why=f"its folder is named {name!r}")
        if not (repository_dir / name / "1").is_dir():
            what = f"model {name} has no version folder 1"
            raise RenderError(what)
    for path in sorted(repository_dir.glob("*/*/*.py")):
        try:
            ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        except SyntaxError as error:
            what = f"{path}:{error.lineno} is not valid Python"
            raise RenderError(what, why=str(error)) from error
    for name, config in configs.items():
        for step in config.ensemble_scheduling.step:
            _verify_step(name, step, configs)


def _verify_step(ensemble: str, step: Any, configs: Mapping[str, Any]) -> None:
    if step.model_name not in configs:
        what = f"ensemble {ensemble} names model {step.model_name}, which is not there"
        raise RenderError(what, why=f"the repository has {', '.join(configs)}")
    config = configs[step.model_name]
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    required = {tensor.name for tensor in config.input if not tensor.optional}
    for kind, mapped, known in (
        ("input", step.input_map, inputs),
        ("output", step.output_map, outputs),
    ):
        unknown = sorted(set(mapped) - known)
        if unknown:
            what = f"ensemble {ensemble} maps {kind} {unknown[0]} of {step.model_name}"
            raise RenderError(what, why=f"{step.model_name} has no {kind} of that name")
    missing = sorted(required - set(step.input_map))
    if missing:
        what = f"ensemble {ensemble} leaves input {missing[0]} of {step.model_name} unmapped"
        raise RenderError(what, why=f"{step.model_name} requires it")


@functools.cache
def _model_config_messages() -> Any:
    """Return Triton's protobuf module without the gRPC client around it, which loads slowly."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        what = "the package tritonclient is missing"
        raise PrerequisiteError(what, hint="pip install --force-reinstall trtllm-forge")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("trtllm_forge._model_config_pb2", path)
    if spec is None or spec.loader is None:
        what = f"{path} cannot be loaded"
        raise PrerequisiteError(what, hint="pip install --force-reinstall 'tritonclient[grpc]'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
