"""Reads ``forge.yaml`` into values with line numbers, and collects its mistakes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from trtllm_forge.config.keys import config_keys, section_help
from trtllm_forge.config.mistakes import Mistake, config_error
from trtllm_forge.errors import ConfigError, unreadable
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.config.key import ConfigKey

_NULL_TAG = "tag:yaml.org,2002:null"


@dataclass(kw_only=True)
class ConfigDocument:
    """The values of a file by key path, their line numbers, and the mistakes.

    Attributes:
        path: The file, as the user named it.
        values: Values by path, such as ``build.tp_size``.
        lines: Line number of each value, from 1.
        mistakes: What is wrong with it.
    """

    path: Path
    values: dict[str, object] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def where(self, line: int) -> str:
        """Return a place in the file as ``path:line``."""
        return f"{self.path}:{line}"


def read_document(path: Path) -> ConfigDocument:
    """Return the content of a configuration file.

    Raises:
        ConfigError: The file cannot be read or is not YAML.
    """
    document = ConfigDocument(path=path)
    text = _read_text(path)
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None:
            _read_root(document, loader, root)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from error
    except yaml.YAMLError as error:
        what = f"{path} is not YAML: {str(error).splitlines()[0]}"
        raise ConfigError(what) from error
    except RecursionError as error:
        what = f"{path} is nested too deeply"
        raise ConfigError(what) from error
    finally:
        if loader is not None:
            loader.dispose()
    return document


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        what = f"there is no configuration file {path}"
        raise ConfigError(what, why="given with --config", hint="forge init") from error
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        raise ConfigError(what) from error


def _syntax_error(path: Path, error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    where = f"{path}:{mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    problem = error.problem or error.context or "it cannot be parsed"
    return ConfigError(f"{path} is not YAML: {problem}", why=where)


def _read_root(document: ConfigDocument, loader: yaml.SafeLoader, root: yaml.Node) -> None:
    if not isinstance(root, yaml.MappingNode):
        where = document.where(root.start_mark.line + 1)
        what = f"{document.path} has no keys"
        raise config_error([Mistake(what=what, where=where, fix="forge init --force")])
    for key, line, node in _entries(document, root, ""):
        if key in section_help():
            _read_section(document, loader, key, node)
        else:
            _read_value(document, loader, "", key, line, node)


def _read_section(
    document: ConfigDocument, loader: yaml.SafeLoader, section: str, node: yaml.Node
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, line, value in _entries(document, node, section):
            _read_value(document, loader, section, key, line, value)
    # A section whose keys are all commented out has no value at all.
    elif node.tag != _NULL_TAG:
        first = next(key.name for key in config_keys() if key.section == section)
        document.mistakes.append(
            Mistake(
                what=f"{section} is a section: it needs keys, not a value",
                where=document.where(node.start_mark.line + 1),
                fix=f"write the keys below it, indented: {first}: ...",
            )
        )


def _entries(
    document: ConfigDocument, node: yaml.MappingNode, section: str
) -> list[tuple[str, int, yaml.Node]]:
    first_lines: dict[str, int] = {}
    entries = []
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        line = key_node.start_mark.line + 1
        if key in first_lines:
            path = f"{section}.{key}" if section else key
            document.mistakes.append(
                Mistake(
                    what=f"{path} is given twice, first on line {first_lines[key]}",
                    where=document.where(line),
                    fix=f"remove line {first_lines[key]} or line {line} of {document.path}",
                )
            )
        else:
            first_lines[key] = line
            entries.append((key, line, value_node))
    return entries


def _read_value(
    document: ConfigDocument,
    loader: yaml.SafeLoader,
    section: str,
    name: str,
    line: int,
    node: yaml.Node,
) -> None:
    path = f"{section}.{name}" if section else name
    key = next((key for key in config_keys() if key.path == path), None)
    if key is not None:
        document.values[path] = _value(key, loader, node)
        document.lines[path] = line
    else:
        document.mistakes.append(_unknown_key(document, section, path, name, line))


def _value(key: ConfigKey, loader: yaml.SafeLoader, node: yaml.Node) -> object:
    # Keep text as it is written: here 1.20 is a release, not a number, and 0123456 is a commit.
    is_text = key.kind == "str" and isinstance(node, yaml.ScalarNode)
    if is_text and node.tag != _NULL_TAG:
        return str(node.value)
    value: object = loader.construct_object(node, deep=True)
    return value


def _unknown_key(
    document: ConfigDocument, section: str, path: str, name: str, line: int
) -> Mistake:
    here = [key.name for key in config_keys() if key.section == section]
    if not section:
        here += section_help()
    elsewhere = {key.name: key for key in config_keys()}
    where = document.where(line)
    if name in elsewhere:
        wanted = elsewhere[name].section or "the top level"
        fix = f"move {name} below {wanted}"
        return Mistake(what=f"{path} is not a key", where=where, fix=fix)
    close = nearest(name, here) or nearest(name, elsewhere)
    if close is None:
        return Mistake(what=f"{path} is not a key", where=where)
    known = elsewhere[close].path if close in elsewhere else close
    what = f"{path} is not a key, the nearest is {known}"
    return Mistake(what=what, where=where, fix=f"write {close} instead of {name} in {where}")
