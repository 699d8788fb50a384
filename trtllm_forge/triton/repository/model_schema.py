"""Checks the fields and value types of a configuration against Triton's ``ModelConfig``."""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.text.spelling import nearest
from trtllm_forge.triton.repository.pbtxt import Scalar, parse_pbtxt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.triton.repository.pbtxt import Field, Message

_WORDS = ("true", "false", "t", "f", "True", "False", "1", "0")
_WHOLE = re.compile(r"[+-]?(0[xX][0-9A-Fa-f]+|\d+)")
_REAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?f?|-?(inf|infinity|nan)", re.IGNORECASE)


@lru_cache(maxsize=64)
def schema_mistakes(text: str) -> tuple[tuple[int, str], ...]:
    """Return line and reason of each field that protobuf would reject."""
    config, _ = parse_pbtxt(text)
    return tuple(_message(config, model_config_messages().ModelConfig.DESCRIPTOR))


@lru_cache(maxsize=1)
def model_config_messages() -> Any:
    """Return Triton's protobuf module without the gRPC client around it, which loads slowly.

    Raises:
        PrerequisiteError: Its package is missing or damaged.
    """
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


@lru_cache(maxsize=256)
def _fields(descriptor: Any) -> dict[str, Any]:
    return {field.name: field for field in descriptor.fields}


def _message(message: Message, descriptor: Any) -> Iterator[tuple[int, str]]:
    known = _fields(descriptor)
    seen: dict[str, str] = {}
    for field in message.fields:
        described = known.get(field.name)
        if described is None:
            yield field.line, _unknown(field.name, descriptor.name, known)
            continue
        if not _is_repeated(described):
            choice = described.containing_oneof
            slot = choice.name if choice is not None else field.name
            if slot in seen:
                other = "" if seen[slot] == field.name else f" beside {seen[slot]}"
                yield field.line, f"{field.name} appears a second time{other}"
            seen[slot] = field.name
        yield from _value(field, described)


def _is_repeated(described: Any) -> bool:
    repeated = getattr(described, "is_repeated", None)
    return bool(described.label == described.LABEL_REPEATED if repeated is None else repeated)


def _value(field: Field, described: Any) -> Iterator[tuple[int, str]]:
    if described.message_type is not None:
        if isinstance(field.value, Scalar):
            yield field.line, f"{field.name} takes fields in braces, not {_shown(field.value)}"
        else:
            yield from _message(field.value, described.message_type)
        return
    if not isinstance(field.value, Scalar):
        yield field.line, f"{field.name} takes a plain value, not fields in braces"
        return
    scalar = field.value
    if scalar.is_placeholder and not scalar.quoted:
        return
    wanted = _wanted(described, scalar)
    if wanted:
        yield scalar.line, f"{field.name} is {_shown(scalar)}, and {wanted} is needed"


def _wanted(described: Any, scalar: Scalar) -> str:
    """Return what a value has to be instead, or an empty text if it is right."""
    kind = described.cpp_type
    if kind == described.CPPTYPE_STRING:
        return "" if scalar.quoted else "a text in quotes"
    if kind == described.CPPTYPE_ENUM:
        names = [value.name for value in described.enum_type.values]
        if not scalar.quoted and (scalar.value in names or scalar.number is not None):
            return ""
        return nearest(scalar.value.upper(), names) or f"one of {', '.join(names)}"
    if kind == described.CPPTYPE_BOOL:
        return "" if not scalar.quoted and scalar.value in _WORDS else "true or false"
    if kind in (described.CPPTYPE_FLOAT, described.CPPTYPE_DOUBLE):
        return "" if not scalar.quoted and _REAL.fullmatch(scalar.value) else "a number"
    if scalar.quoted or not _WHOLE.fullmatch(scalar.value):
        return "a whole number"
    unsigned = kind in (described.CPPTYPE_UINT32, described.CPPTYPE_UINT64)
    bits = 32 if kind in (described.CPPTYPE_INT32, described.CPPTYPE_UINT32) else 64
    low, high = (0, 1 << bits) if unsigned else (-(1 << (bits - 1)), 1 << (bits - 1))
    return "" if low <= int(scalar.value, 0) < high else f"a number from {low} to {high - 1}"


def _unknown(name: str, holder: str, known: dict[str, Any]) -> str:
    near = nearest(name, known)
    suggestion = f"; the nearest is {near}" if near else ""
    return f"{holder} has no field {name}{suggestion}"


def _shown(scalar: Scalar) -> str:
    return f'"{scalar.value}"' if scalar.quoted else scalar.value
