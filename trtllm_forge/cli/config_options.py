"""Turns the keys of ``forge.yaml`` into options, so that only the schema describes them.

A command takes ``flags: ConfigFlags`` and is decorated with ``takes_config_options``; on the
command line it then has one option per key, grouped by section. Options that were not given are
absent from the mapping. Values arrive as text: ``config.load`` reads them and collects all
mistakes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trtllm_forge.config.key import ConfigKey

ConfigFlags = Mapping[str, object]


def takes_config_options(
    *, only: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces the parameter ``flags`` with one option per key.

    Args:
        only: Sections whose keys the command takes; none means all.
        without: Sections whose keys it does not take.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [p for name, p in signature.parameters.items() if name != "flags"]
        options = _option_parameters(only, without)
        names = [option.name for option in options]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            flags = {name: values.pop(name) for name in names}
            function(**values, flags={n: v for n, v in flags.items() if v is not None})

        parameters = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in sorted([*own, *options], key=lambda p: p.name != "model")
        ]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _option_parameters(only: Collection[str], without: Collection[str]) -> list[inspect.Parameter]:
    from trtllm_forge.config.keys import PRECISION_FLAGS, config_keys

    parameters = []
    for key in config_keys():
        if key.name == "model" or key.section in without or (only and key.section not in only):
            continue
        if key.name == "precision":
            parameters += [_precision(word, key) for word in PRECISION_FLAGS]
        else:
            parameters.append(_parameter(key))
    return parameters


def _parameter(key: ConfigKey) -> inspect.Parameter:
    default = "" if key.default is None else f"default {str(key.default).lower()}"
    if key.kind == "bool":
        declaration = f"{key.flag}/--no-{key.flag[2:]}"
        option = typer.Option(
            declaration,
            help=f"{key.help} [{default}]",
            show_default=False,
            rich_help_panel=key.panel,
        )
        return _keyword(key.name, Annotated[bool | None, option])
    facts = "; ".join(fact for fact in (key.values, default) if fact not in ("", "text"))
    option = typer.Option(
        key.flag,
        metavar="WORD" if key.choices else {"int": "N", "float": "X", "str": "TEXT"}[key.kind],
        help=f"{key.help} [{facts}]" if facts else key.help,
        show_default=False,
        rich_help_panel=key.panel,
    )
    return _keyword(key.name, Annotated[str | None, option])


def _precision(word: str, key: ConfigKey) -> inspect.Parameter:
    default = " [default]" if word == key.default else ""
    option = typer.Option(
        f"--{word.replace('_', '-')}",
        help=f"Weights in {word}.{default}",
        show_default=False,
        rich_help_panel=key.panel,
    )
    return _keyword(word, Annotated[bool | None, option])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )
