"""Writes the pages of docs that repeat the code: commands, forge.yaml and the rules of check.

``--check`` writes nothing and fails when a file is not what would be written.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from trtllm_forge.check.registry import all_rules
from trtllm_forge.cli.app import app
from trtllm_forge.cli.lazy import load_command
from trtllm_forge.config.keys import config_keys, section_help

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DOCS_DIR = Path(__file__).resolve().parent.parent / "docs"
NOTICE = "<!-- Written by scripts/generate_docs.py; `make docs` writes it again. -->"


RULE_FAMILIES = {
    "FL1": "Files and folders",
    "FL2": "Ensembles and the chain",
    "FL3": "Tensors and parameters of the release",
    "FL4": "Engines",
    "FL5": "Memory for keys and values",
    "FL6": "Tokenizers",
    "FL7": "Instances, queues, shared memory",
    "FL8": "Security",
    "FL9": "The model over the LLM API",
}

RULES_INTRODUCTION = """
What the linter looks for in a model repository: one entry per rule, with what holds in a sound
repository, what goes wrong otherwise, and how to fix it. The meaning of a code never changes.
`forge check --explain FL401` prints one entry.

```console
$ forge check model_repos/sample
$ forge check model_repos/sample --select FL4,FL5
$ forge check model_repos/sample --ignore FL104
$ forge check model_repos/sample --fix --dry-run
$ forge check --explain FL401
```

`--select` limits the run to rules whose codes begin with the given text; `--ignore` leaves rules
out. `--fix` changes what has exactly one right answer and shows the change; with `--dry-run` it
only shows it. The exit code is 6 when there is an error.

`check.select` and `check.ignore` in `forge.yaml` apply to every run, builds included. An error
ends a build before anything is published. The release is that of `--trtllm-version`, else of
`forge.manifest.json`, `forge.lock` or the engine, else the nearest by its tensors; the last line
of the output says which.
"""


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` compare them; return the exit code."""
    pages = {
        "commands.md": commands_page(),
        "forge_yaml.md": forge_yaml_page(),
        "rules.md": rules_page(),
    }
    stale = [name for name, text in pages.items() if _read(DOCS_DIR / name) != text]
    if arguments == ["--check"]:
        for name in stale:
            print(f"docs/{name} is not what the code says: make docs", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS_DIR / name).write_text(pages[name], encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


def commands_page() -> str:
    """Return the command reference."""
    group: Any = typer.main.get_command(app)
    lines = ["# Commands", "", NOTICE, "", f"{group.help}", ""]
    commands = list(_commands(group, "forge"))
    lines += _table(
        ("Command", "What it does"),
        ((f"[`{n}`](#{n.replace(' ', '-')})", command.help) for n, command in commands),
    )
    lines += [
        "",
        "Exit codes: 0 done, 1 a bug, 2 wrong flags or `forge.yaml`, 3 something is missing on the",
        "machine, 4 checkpoint, 5 build, 6 rendering, 7 server, 8 a wrong answer, 130 interrupted.",
    ]
    for name, command in commands:
        lines += ["", f"## {name}", "", command.help, "", "```console"]
        lines += [f"$ {example}" for example in command.epilog.splitlines()]
        lines += ["```"]
        for heading, params in _groups(command).items():
            lines += ["", f"{heading[0].upper()}{heading[1:]}:", ""]
            lines += _table(("Option", "Meaning"), ((_spelling(p), p.help or "") for p in params))
    return "\n".join(lines) + "\n"


def forge_yaml_page() -> str:
    """Return the reference of ``forge.yaml``."""
    lines = [
        "# forge.yaml",
        "",
        NOTICE,
        "",
        "`forge init MODEL` writes one with every key; `forge config show` tells what holds.",
        "A value comes from the flag, else the variable, else the file, else it is the default.",
        "`--config FILE` reads another file than `./forge.yaml`.",
    ]
    section = None
    for key in config_keys():
        if key.section != section:
            section = key.section
            title = f"`{section}`: {section_help()[section]}" if section else "Top level"
            lines += ["", f"## {title}", ""]
            lines += _table(("Key", "Meaning", "Values", "Default", "Flag", "Variable"), ())
        default = "" if key.default is None else f"`{str(key.default).lower()}`"
        flag = "`MODEL`" if key.name == "model" else _code(key.flag.split())
        cells = (f"`{key.name}`", key.help, key.values, default, flag, f"`{key.variable}`")
        lines += _rows([cells])
    return "\n".join(lines) + "\n"


def rules_page() -> str:
    """Return the reference of the linter's rules."""
    lines = ["# Rules of `forge check`", "", NOTICE, "", RULES_INTRODUCTION.strip()]
    family = ""
    for rule in all_rules():
        if not rule.code.startswith(family) or not family:
            family = rule.code[:3]
            lines += ["", f"## {family}xx: {RULE_FAMILIES[family]}"]
        said = rule.explanation
        lines += ["", f"### {rule.code} {rule.name} ({rule.severity})", "", said.sentence]
        lines += ["", said.details] if said.details else []
        lines += ["", f"Why: {said.why}", "", f"Fix: {said.fix}"]
        if said.upstream:
            links = ", ".join(f"[{_short(address)}]({address})" for address in said.upstream)
            lines += ["", f"Upstream: {links}"]
    return "\n".join(lines) + "\n"


def _short(address: str) -> str:
    """Return ``server#8592`` for the address of an issue, else its last two parts."""
    parts = address.rstrip("/").split("/")
    if parts[-2] in ("issues", "pull"):
        return f"{parts[-3]}#{parts[-1]}"
    return "/".join(parts[-2:])


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, stub in group.commands.items():
        if hasattr(stub, "commands"):
            yield from _commands(stub, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", load_command(stub)


def _groups(command: Any) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for param in command.params:
        if not getattr(param, "hidden", False):
            is_option = param.param_type_name == "option"
            heading = (param.rich_help_panel or "options") if is_option else "arguments"
            groups.setdefault(heading, []).append(param)
    return groups


def _spelling(param: Any) -> str:
    if param.param_type_name == "argument":
        return _code([(param.metavar or param.name).strip("[].")])
    takes_value = not (param.is_flag or param.count)
    value = f" {param.metavar or param.type.name.upper()}" if takes_value else ""
    return _code(f"{word}{value}" for word in (*param.opts, *param.secondary_opts))


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [*_rows([heading]), "|" + "---|" * len(heading), *_rows(rows)]


def _rows(rows: Iterable[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
