"""FL101 to FL109: the text of a ``config.pbtxt``, and whether Triton can read it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem, TextEdit
from trtllm_forge.check.parameter_kinds import PYTHON_SWITCH
from trtllm_forge.check.registry import rule
from trtllm_forge.triton.repository.model_schema import schema_mistakes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtllm_forge.check.model import Model
    from trtllm_forge.check.view import RepositoryView
    from trtllm_forge.triton.repository.pbtxt import Scalar

_NAME = re.compile(r"\$\{([^}]*)\}?")
_BOM_LENGTH = 1
MANDATORY = {
    "tensorrt_llm": ("gpt_model_type", "gpt_model_path"),
    "preprocessing": ("tokenizer_dir",),
    "postprocessing": ("tokenizer_dir",),
}
"""Parameters without which a model does not load, by its part in the chain."""


@rule("FL101", "config-parses", "error")
def config_parses(view: RepositoryView) -> Iterable[Problem]:
    """config.pbtxt is valid protobuf text format.

    Why: Triton stops at the first syntax mistake and does not name the model.
    Fix: Look at the named line: usually a brace or a quote is missing.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/250,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/501
    """
    for model in view.models:
        for mistake in model.mistakes[:1]:
            yield Problem(
                model=model.folder, path=model.path, line=mistake.line, message=mistake.message
            )


@rule("FL102", "placeholder-left", "error")
def placeholder_left(view: RepositoryView) -> Iterable[Problem]:
    """No ${...} is left where a number or word belongs.

    Why: Protobuf says `Expected integer, got: $` and Triton loads nothing.
    Fix: Fill it with `fill_template.py -i FILE NAME:VALUE`, or write the value. `--fix` writes
        upstream's own default for the queue's limits.
    Upstream: https://github.com/triton-inference-server/server/issues/8592,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/210,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/372
    """
    for model in view.models:
        for scalar in model.scalars:
            if scalar.quoted or not scalar.is_placeholder:
                continue
            name = _placeholder(scalar)
            yield Problem(
                model=model.folder,
                path=model.path,
                line=scalar.line,
                message=f"{scalar.value} is not filled in",
                hint=f"fill_template.py -i {model.path} {name}:VALUE",
                edits=_with_default(model, scalar, name),
            )


@rule("FL103", "mandatory-placeholder", "error")
def mandatory_placeholder(view: RepositoryView) -> Iterable[Problem]:
    """Every mandatory parameter has a value.

    Why: These parameters have no default, so the model refuses to load without them.
    Fix: Fill it in.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/168,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/718
    """
    for model in view.models:
        for scalar in _quoted_placeholders(model):
            mandatory = MANDATORY.get(model.role, ())
            keys = [k for k in mandatory if model.parameters.get(k) is not None]
            held = [k for k in keys if model.parameters[k].value_scalar == scalar]
            if held:
                message = f"{held[0]} is {scalar.value}, but {model.folder} needs it"
            elif model.config.scalar("backend") == scalar:
                message = f"backend is {scalar.value}"
            else:
                continue
            yield Problem(
                model=model.folder,
                path=model.path,
                line=scalar.line,
                message=message,
                hint=f"fill_template.py -i {model.path} {_placeholder(scalar)}:VALUE",
            )


@rule("FL104", "placeholder-unset", "info")
def placeholder_unset(view: RepositoryView) -> Iterable[Problem]:
    """An optional parameter is left out rather than left as ${...}.

    Why: The models treat an unfilled ${...} as a parameter that was not given, so this is only
        a note.
    Fix: Leave it, or let `--fix` write an empty value, which means the same.
    """
    for model in view.models:
        mandatory = MANDATORY.get(model.role, ())
        for parameter in model.all_parameters:
            scalar = parameter.value_scalar
            if scalar is None or not scalar.quoted or not scalar.is_placeholder:
                continue
            if parameter.key in (*mandatory, PYTHON_SWITCH):
                continue
            yield Problem(
                model=model.folder,
                path=model.path,
                line=scalar.line,
                message=f"{parameter.key} is {scalar.value}, which counts as unset",
                edits=(TextEdit(path=model.path, start=scalar.start, end=scalar.end, text='""'),),
            )


@rule("FL105", "config-schema", "error")
def config_schema(view: RepositoryView) -> Iterable[Problem]:
    """config.pbtxt has only fields of Triton's ModelConfig, with values of the right kind.

    Why: An unknown field or a value of another kind stops Triton from loading the model.
    Fix: Use the field or the kind of value that the message names.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/250
    """
    for model in view.models:
        if model.mistakes:
            continue
        for line, message in schema_mistakes(model.readable_text):
            yield Problem(model=model.folder, path=model.path, line=line, message=message)


@rule("FL106", "not-utf8", "error")
def not_utf8(view: RepositoryView) -> Iterable[Problem]:
    """config.pbtxt is UTF-8.

    Why: Protobuf refuses strings that are not UTF-8.
    Fix: Convert the file with `iconv`.
    """
    for model in view.models:
        if model.encoding_error:
            encoding = "utf-16" if "UTF-16" in model.encoding_error else "latin1"
            yield Problem(
                model=model.folder,
                path=model.path,
                message=f"not UTF-8: {model.encoding_error}",
                # Triton itself reads comments as they are; other readers of the file do not.
                severity=None
                if model.mistakes or any("\ufffd" in s.value for s in model.scalars)
                else "warning",
                hint=f"iconv -f {encoding} -t utf-8 {model.path}",
            )


@rule("FL107", "byte-order-mark", "error")
def byte_order_mark(view: RepositoryView) -> Iterable[Problem]:
    """config.pbtxt has no byte order mark.

    Why: Protobuf reads the mark as the start of a name.
    Fix: `forge check DIR --fix`. Editors on Windows add the mark.
    """
    for model in view.models:
        if model.has_bom:
            edit = TextEdit(path=model.path, start=0, end=_BOM_LENGTH, text="")
            yield Problem(
                model=model.folder,
                path=model.path,
                line=1,
                message="the file begins with a byte order mark",
                hint=f"sed -i '1s/^\\xEF\\xBB\\xBF//' {model.path}",
                edits=(edit,),
            )


@rule("FL108", "line-ends", "info")
def line_ends(view: RepositoryView) -> Iterable[Problem]:
    """Lines end with a line feed, as on Linux.

    Why: Triton accepts other line ends; scripts that fill or compare the file often do not.
    Fix: `forge check DIR --fix`.
    """
    for model in view.models:
        ends = [match.start() for match in re.finditer("\r\n", model.text)]
        if ends:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=1,
                message=f"{len(ends)} lines end in CR LF",
                hint=f"sed -i 's/\\r$//' {model.path}",
                edits=tuple(TextEdit(path=model.path, start=e, end=e + 1, text="") for e in ends),
            )


@rule("FL109", "stray-space", "warning")
def stray_space(view: RepositoryView) -> Iterable[Problem]:
    """A parameter's value has no spaces around it.

    Why: The backend compares words exactly, so " true" does not mean true.
    Fix: `forge check DIR --fix`.
    """
    for model in view.models:
        for parameter in model.all_parameters:
            scalar, value = parameter.value_scalar, parameter.value
            if scalar is None or value == value.strip() or not value.strip():
                continue
            text = value.strip().replace("\\", "\\\\").replace('"', '\\"')
            edit = TextEdit(path=model.path, start=scalar.start, end=scalar.end, text=f'"{text}"')
            yield Problem(
                model=model.folder,
                path=model.path,
                line=scalar.line,
                message=f'{parameter.key} is "{value}", with spaces around it',
                hint=f'"{value.strip()}"',
                edits=(edit,),
            )


def _quoted_placeholders(model: Model) -> list[Scalar]:
    return [s for s in model.scalars if s.quoted and s.is_placeholder]


def _placeholder(scalar: Scalar) -> str:
    match = _NAME.search(scalar.value)
    return match.group(1) if match else "NAME"


def _with_default(model: Model, scalar: Scalar, name: str) -> tuple[TextEdit, ...]:
    """Return what upstream's own tool fills in where nothing else is said."""
    defaults = {"max_queue_size": "0", "max_queue_delay_microseconds": "0"}
    if name not in defaults or scalar.value != f"${{{name}}}":
        return ()
    edit = TextEdit(path=model.path, start=scalar.start, end=scalar.end, text=defaults[name])
    return (edit,)
