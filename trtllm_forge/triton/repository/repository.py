"""Reads a model repository as Triton would, and reports what is wrong with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import RenderError
from trtllm_forge.triton.repository.model_schema import model_config_messages, schema_mistakes
from trtllm_forge.triton.repository.pbtxt import parse_pbtxt
from trtllm_forge.triton.repository.python_source import syntax_mistake

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from trtllm_forge.triton.repository.pbtxt import Message

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

    text = _read_config(path)
    try:
        return text_format.Parse(text, model_config_messages().ModelConfig())
    except text_format.ParseError as error:
        what = f"{path} is not a Triton ModelConfig"
        raise RenderError(what, why=str(error)) from error


def verify_repository(repository_dir: Path) -> None:
    """Raise unless every file of a rendered repository is what Triton expects.

    Every ``config.pbtxt`` parses, every Python file compiles, every model has its version
    folder, and every model that an ensemble names is there with the tensors that it maps.

    Raises:
        RenderError: The first of these that does not hold.
    """
    configs = {
        path.parent.name: _sound_config(path)
        for path in sorted(repository_dir.glob("*/config.pbtxt"))
    }
    for name, config in configs.items():
        if config.text("name") != name:
            what = f"{repository_dir / name}/config.pbtxt names the model {config.text('name')!r}"
            raise RenderError(what, why=f"its folder is named {name!r}")
        if not (repository_dir / name / "1").is_dir():
            what = f"model {name} has no version folder 1"
            raise RenderError(what)
    for path in sorted(repository_dir.glob("*/*/*.py")):
        mistake = syntax_mistake(path.read_bytes())
        if mistake is not None:
            what = f"{path}:{mistake.line} is not valid Python"
            raise RenderError(what, why=mistake.message)
    for name, config in configs.items():
        for scheduling in config.messages("ensemble_scheduling"):
            for step in scheduling.messages("step"):
                _verify_step(name, step, configs)


def _sound_config(path: Path) -> Message:
    """Return a configuration that protobuf accepts too.

    Protobuf's own reader takes ten times as long, so it only runs when something looks wrong:
    its verdict and message then count.
    """
    text = _read_config(path)
    config, mistakes = parse_pbtxt(text)
    if mistakes or schema_mistakes(text):
        parse_model_config(path)
    return config


def _read_config(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8"
        raise RenderError(what, why=str(error)) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if _TEMPLATE_MARKER.search(line):
            what = f"{path}:{number} still holds a template marker"
            raise RenderError(what, why=line.strip())
    return text


def _verify_step(ensemble: str, step: Message, configs: Mapping[str, Message]) -> None:
    model = step.text("model_name")
    if model not in configs:
        what = f"ensemble {ensemble} names model {model}, which is not there"
        raise RenderError(what, why=f"the repository has {', '.join(configs)}")
    tensors = configs[model].messages("input")
    required = [t.text("name") for t in tensors if t.text("optional").lower() != "true"]
    mapped = {kind: _names(step.messages(f"{kind}_map"), "key") for kind in ("input", "output")}
    for kind, names in mapped.items():
        unknown = sorted(names - _names(configs[model].messages(kind), "name"))
        if unknown:
            what = f"ensemble {ensemble} maps {kind} {unknown[0]} of {model}"
            raise RenderError(what, why=f"{model} has no {kind} of that name")
    missing = sorted(set(required) - mapped["input"])
    if missing:
        what = f"ensemble {ensemble} leaves input {missing[0]} of {model} unmapped"
        raise RenderError(what, why=f"{model} requires it")


def _names(messages: Iterable[Message], field: str) -> set[str]:
    return {message.text(field) for message in messages}
