"""Commands that are imported when they run, with plain help and forge's own usage errors.

``forge --help`` needs only the names and help sentences of the commands, not their imports.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from trtllm_forge.cli.console import open_console
from trtllm_forge.errors import ConfigError
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_OTHER = "options"

# The base class of all usage errors. Typer, as of 0.29, exports only BadParameter of them; this
# line can go when it exports UsageError.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class PlainCommand(TyperCommand):
    """A command whose help lists its options by group, as plain text."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the command line of this command."""
        with _usage_in_house_style(ctx, args):
            return super().parse_args(ctx, args)

    def format_arguments(self, ctx: Any, formatter: Any) -> None:
        """Write nothing: since 8.5 Click calls this and then ``format_options``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group of options under its own heading."""
        groups: dict[str, list[tuple[str, str]]] = {"arguments": []}
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                groups["arguments"].append((param.make_metavar(ctx), param.help or ""))
            elif (record := param.get_help_record(ctx)) is not None:
                panel = getattr(param, "rich_help_panel", None) or _OTHER
                groups.setdefault(panel, []).append(record)
        groups[_OTHER] = groups.pop(_OTHER, [])
        for heading, records in groups.items():
            if records:
                with formatter.section(heading[0].upper() + heading[1:]):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        """Write the examples, one per line, as they are typed."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    # Never wrapped: they are meant to be copied.
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")


class LazyGroup(TyperGroup):
    """A group that imports a command's module when that command is called."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse what comes before the command; with no arguments, print the help."""
        if not args:
            return super().parse_args(ctx, args)
        with _usage_in_house_style(ctx, args):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the called command after importing it."""
        if args and args[0] not in self.commands and not ctx.resilient_parsing:
            with open_console(json="--json" in args):
                raise _unknown_command(ctx.command_path, args[0], list(self.commands))
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(command), rest


def new_app(**settings: Any) -> typer.Typer:
    """Return an app of lazy commands with plain help."""
    return typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        suggest_commands=False,
        context_settings={"max_content_width": 100},
        **settings,
    )


def register(
    app: typer.Typer, name: str, target: str, sentence: str, *, examples: tuple[str, str]
) -> None:
    """Add a command that lives at ``target``, ``module:function`` below ``trtllm_forge.cli``."""

    def stub() -> None:
        """Stand in for the command until it is called."""

    stub.target = target  # type: ignore[attr-defined]
    app.command(name, cls=PlainCommand, help=sentence, epilog="\n".join(examples))(stub)


def load_command(stub: Any) -> Any:
    """Return the command behind a stub; return groups and loaded commands unchanged."""
    target = getattr(getattr(stub, "callback", None), "target", None)
    if target is None:
        return stub
    module, _, name = target.partition(":")
    function: Callable[..., None] = getattr(
        importlib.import_module(f"trtllm_forge.cli.{module}"), name
    )
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    app.command(stub.name, cls=PlainCommand, help=stub.help, epilog=stub.epilog)(function)
    command = typer.main.get_command(app)
    _restore_argument_help(command, function)
    return command


def _restore_argument_help(command: Any, function: Callable[..., None]) -> None:
    # Click 8.5 gives arguments a help text of their own and so clears the one Typer 0.25 has set.
    # Can go with Typer 0.26, whose own copy of Click does not.
    annotations = inspect.get_annotations(function, eval_str=True)
    for param in command.params:
        for info in getattr(annotations.get(param.name), "__metadata__", ()):
            param.help = param.help or info.help


@contextlib.contextmanager
def _usage_in_house_style(ctx: Any, args: Sequence[str]) -> Iterator[None]:
    as_json = "--json" in args
    try:
        yield
    except _UsageError as error:
        with open_console(json=as_json):
            raise _usage_mistake(ctx.command_path, error) from None


def _usage_mistake(command: str, error: Any) -> ConfigError:
    near = list(getattr(error, "possibilities", None) or ())
    # Tell Click's errors apart by their attributes: Typer does not export their classes.
    if hasattr(error, "param_type") and error.param is not None:
        is_option = error.param.param_type_name == "option"
        words = [*error.param.opts[: int(is_option)], error.param.metavar or error.param.name]
        what, why = f"{command} needs {' '.join(words)}", ""
    elif hasattr(error, "possibilities"):
        what = f"{command} has no option {error.option_name}"
        why = f"the nearest is {near[0]}" if near else ""
    else:
        text = error.format_message().rstrip(".")
        what, why = text[:1].lower() + text[1:], ""
    return ConfigError(what, why=why, hint=f"{command} --help")


def _unknown_command(group: str, name: str, known: list[str]) -> ConfigError:
    near = nearest(name, known)
    what = f"{group} has no command {name}"
    if near is None:
        return ConfigError(what, hint=f"{group} --help")
    return ConfigError(what, why=f"the nearest is {near}", hint=f"{group} {near}")
