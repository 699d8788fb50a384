"""The keys of ``forge.yaml`` as a flat list, each with its flag, variable, help and bounds."""

from __future__ import annotations

import ast
import inspect
import itertools
import types
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel

from trtllm_forge.config import schema as models
from trtllm_forge.config.schema import ForgeConfig, Precision, Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

Kind = Literal["bool", "int", "float", "str"]

PRECISION_FLAGS = get_args(Precision)

_SHORT_FLAGS = {"tp_size": "--tp", "pp_size": "--pp"}


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One value that can be set.

    Attributes:
        path: The key with its section, ``build.tp_size``.
        section: Its section, empty at the top level.
        name: The key itself.
        kind: Type of the value.
        default: Its default.
        is_optional: Whether it may be left without a value.
        choices: The words it can be, when it is one of a few.
        least: Lower bound.
        most: Upper bound.
        above: Whether ``least`` is excluded.
        wanted: What a text has to be, when not just any.
        help: What it means, with its unit.
    """

    path: str
    section: str
    name: str
    kind: Kind
    default: object
    is_optional: bool
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    above: bool
    wanted: Wanted | None
    help: str

    @property
    def flag(self) -> str:
        """Return the option that sets it; ``precision`` has one per word instead."""
        if self.name == "precision":
            return " ".join(f"--{word.replace('_', '-')}" for word in PRECISION_FLAGS)
        return _SHORT_FLAGS.get(self.name, f"--{self.name.replace('_', '-')}")

    @property
    def variable(self) -> str:
        """Return the environment variable that sets it."""
        return f"FORGE_{self.name.upper()}"

    @property
    def values(self) -> str:
        """Return in words what it can be."""
        if self.choices:
            return ", ".join(self.choices)
        if self.kind == "bool":
            return "true, false"
        if self.wanted:
            return self.wanted.words
        word = {"int": "whole number", "float": "number", "str": "text"}[self.kind]
        least = None if self.least is None else f"{self.least:g}"
        if self.most is not None:
            return f"{word} {'above ' if self.above else ''}{least} to {self.most:g}"
        if least is not None:
            return f"{word} {'above ' if self.above else 'from '}{least}"
        return word


@lru_cache(maxsize=1)
def config_keys() -> tuple[ConfigKey, ...]:
    """Return every key in the order of the schema."""
    return tuple(_keys_of(ForgeConfig, ""))


def section_help() -> dict[str, str]:
    """Return what each section is about."""
    return {
        name: _docstrings()[ForgeConfig.__name__, name]
        for name, info in ForgeConfig.model_fields.items()
        if _is_section(info.annotation)
    }


def _keys_of(model: type[BaseModel], section: str) -> Iterator[ConfigKey]:
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _keys_of(annotation, name)
        else:
            yield _key(section, name, info, help_text=_docstrings()[model.__name__, name])


@lru_cache(maxsize=1)
def _docstrings() -> dict[tuple[str, str], str]:
    """Return the docstring below each field of the schema, by class and field."""
    found = {}
    tree = ast.parse(Path(models.__file__).read_text(encoding="utf-8"))
    for section in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, text in itertools.pairwise(section.body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[section.name, field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def _key(section: str, name: str, info: FieldInfo, *, help_text: str) -> ConfigKey:
    plain, metadata, is_optional = _unwrap(info.annotation, list(info.metadata))
    choices = get_args(plain) if get_origin(plain) is Literal else ()
    kind: Kind = "str" if choices else plain.__name__
    least = next((m.ge for m in metadata if isinstance(m, annotated_types.Ge)), None)
    above = next((m.gt for m in metadata if isinstance(m, annotated_types.Gt)), None)
    most = next((m.le for m in metadata if isinstance(m, annotated_types.Le)), None)
    return ConfigKey(
        path=f"{section}.{name}" if section else name,
        section=section,
        name=name,
        kind=kind,
        default=info.default,
        is_optional=is_optional,
        choices=choices,
        least=_number(least if above is None else above),
        most=_number(most),
        above=above is not None,
        wanted=next((m for m in metadata if isinstance(m, Wanted)), None),
        help=help_text,
    )


def _unwrap(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any], bool]:
    """Return the plain type below ``X | None`` and ``Annotated``, and what was attached to it."""
    is_optional = False
    while True:
        if get_origin(annotation) in (Union, types.UnionType):
            (annotation,) = (a for a in get_args(annotation) if a is not types.NoneType)
            is_optional = True
        elif hasattr(annotation, "__metadata__"):
            for item in annotation.__metadata__:
                metadata += getattr(item, "metadata", [item])
            annotation = annotation.__origin__
        else:
            return annotation, metadata, is_optional


def _number(bound: Any) -> float | None:
    return None if bound is None else float(bound)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
