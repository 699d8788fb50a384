"""Reads the documentation: its commands with what they print, its links, and its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.presets import all_presets
from trtllm_forge.releases.catalogue import read_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent

SERVING = ("serve", "ps", "status", "logs", "stop", "load", "unload", "reload")

_CONSOLE = re.compile(
    r"^#+ ([^\n]+)$|^```console\n(.*?)^```$|^```.*?^```$", re.DOTALL | re.MULTILINE
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class ShownCommand:
    """A command of a ``console`` block, and what the block shows it to print."""

    page: str
    heading: str
    line: str
    output: str

    @property
    def exit_code(self) -> int:
        """The code it ends with: an error's is the number of its section in troubleshooting."""
        is_error = "\nerror: " in f"\n{self.output}"
        return int(self.heading.split(":")[0]) if is_error else 0

    @property
    def needs_triton(self) -> bool:
        """Whether it builds, starts a server or talks to a running one."""
        verb = self.line.split()[1]
        talks = verb in ("probe", "complete") and self.exit_code == 0
        return verb in SERVING or talks or self.line == "forge build sample --int4"

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def pages() -> dict[str, str]:
    """Return the text of each page, by its path from the root."""
    names = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
    paths = [*(ROOT / name for name in names), *sorted((ROOT / "docs").glob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}


def shown_commands(*, program: str = "forge") -> list[ShownCommand]:
    """Return the commands of this program that the pages show, in their order."""
    return [
        command
        for page, text in pages().items()
        for command in _of_page(page, text)
        if command.line.split()[0] == program
    ]


def normalized(text: str, home: str) -> str:
    """Return output with what differs from run to run, and from reader to reader, evened out."""
    lines = [
        # Whether a stage is fresh depends on what was built before.
        re.sub(r"^(download|compile|render|check) .*", r"\1", line)
        for line in text.replace(home, "~").splitlines()
        # Which runtime is taken, which ports, and how far a start is when looked at, depends on
        # the machine.
        if not line.startswith(("runtime ", "port ", "loading "))
    ]
    text = re.sub(r"~\S*/(logs|keys)/", r"~/\1/", "\n".join(lines))
    return re.sub(r"[\d.]*\d", "N", text)


def links(text: str) -> list[str]:
    """Return the targets of a page's links that stay in this repository."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [target for target in _LINK.findall(prose) if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }


def marked_table(name: str) -> str:
    """Return the table that a page holds between its marks of this name."""
    text = next(text for text in pages().values() if f"<!-- {name} -->" in text)
    return text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


def presets_table() -> str:
    """Return the table of presets; those that differ in nothing else share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for preset in all_presets():
        facts = (
            preset.family,
            "yes" if preset.fim else "no",
            preset.licence,
            "yes" if preset.gated else "no",
        )
        rows.setdefault(facts, []).append(f"`{preset.name}`")
    lines = ["| Presets | Fills in the middle | Licence | Gated |", "|---|---|---|---|"]
    lines += [f"| {', '.join(names)} | {' | '.join(facts[1:])} |" for facts, names in rows.items()]
    return "\n".join(lines) + "\n"


def releases_table() -> str:
    """Return the table of releases, from the contracts and from what ``pyproject.toml`` pins."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")

    def pinned(package: str) -> str:
        return _found(rf'"{package}==([\d.]+)', project)

    oldest = _found(r'requires-python = ">=([\d.]+)"', project)
    first_without_cpu = _found(r"python_version < '3\.(\d+)'", project)
    newest = f"3.{int(first_without_cpu) - 1}"
    rows = "\n".join(_release_rows())
    return f"""\
| TensorRT-LLM | Newest Triton image | TensorRT | CUDA | Driver | Engines (`trtllm`) \
| LLM API (`llmapi`) |
|---|---|---|---|---|---|---|
{rows}

| What | Release |
|---|---|
| Triton | 2.51, in nvidia-pytriton {pinned("nvidia-pytriton")}; or the `tritonserver` on PATH or \
in /opt/tritonserver |
| engine of the twin (runtime `openvino`) | OpenVINO GenAI {pinned("openvino-genai")}, on the CPU |
| Python | {oldest} or later; {oldest} to {newest} for the extra `cpu` |
| GPU | none for the twin and for plans |
"""


def _release_rows() -> Iterator[str]:
    """Yield a row for the newest patch of each release that an image carries, newest first."""
    catalogue = read_catalogue()
    lines = dict.fromkeys(release.tables for release in catalogue.releases.values())
    for line in reversed(lines):
        release = catalogue.find(line)
        if release.image is None:
            continue
        versions = release.image.versions
        cells = [release.version, release.image.triton_release]
        cells += [versions[name] for name in ("tensorrt", "cuda", "driver")]
        cells += ["yes" if flow in release.flows else "no" for flow in ("engine", "llmapi")]
        yield f"| {' | '.join(cells)} |"


def _of_page(page: str, text: str) -> Iterator[ShownCommand]:
    heading = ""
    for match in _CONSOLE.finditer(text):
        heading = match[1] or heading
        if match[2]:
            yield from _of_block(page, heading, match[2])


def _of_block(page: str, heading: str, block: str) -> Iterator[ShownCommand]:
    line, output = "", ""
    for text in [*block.splitlines(keepends=True), "$ "]:
        if text.startswith("$ "):
            if line:
                yield ShownCommand(page=page, heading=heading, line=line, output=output)
            line, output = text[2:].rstrip("\n"), ""
        else:
            output += text


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, pattern
    return match.group(1)
