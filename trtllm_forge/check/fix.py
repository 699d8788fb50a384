"""Mends what has exactly one right answer, by the smallest change of the text."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import NewFile, TextEdit
from trtllm_forge.errors import unwritable
from trtllm_forge.files.staging import staging

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.check.run import Report


@dataclass(frozen=True, kw_only=True)
class PlannedEdits:
    """New texts of files by path, new empty files, and the diff of it all."""

    texts: Mapping[str, str]
    new_files: tuple[str, ...]
    diff: str
    findings: int


def plan_edits(report: Report) -> PlannedEdits:
    """Return what mends the findings of a report; of edits that overlap the first holds."""
    edits: dict[str, list[TextEdit]] = {}
    new_files: list[str] = []
    count = 0
    for finding in report.findings:
        texts = [edit for edit in finding.edits if isinstance(edit, TextEdit)]
        if any(_overlaps(edit, edits.get(edit.path, [])) for edit in texts):
            continue
        for edit in texts:
            edits.setdefault(edit.path, []).append(edit)
        new_files += [edit.path for edit in finding.edits if isinstance(edit, NewFile)]
        count += bool(finding.edits)
    texts_by_path: dict[str, str] = {}
    pieces: list[str] = []
    for path in sorted(edits):
        before = (report.root / path).read_bytes().decode("utf-8", errors="surrogateescape")
        texts_by_path[path] = after = _edited(before, edits[path])
        pieces += _diff(path, before, after)
    for path in dict.fromkeys(new_files):
        pieces += [f"--- /dev/null\n+++ {path}\n"]
    return PlannedEdits(
        texts=texts_by_path,
        new_files=tuple(dict.fromkeys(new_files)),
        diff="".join(pieces),
        findings=count,
    )


def apply_edits(planned: PlannedEdits, root: Path) -> None:
    """Write the new texts, each file in one step, its permissions kept.

    Raises:
        ConfigError: A file cannot be written.
    """
    try:
        for path in planned.new_files:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        for path, text in planned.texts.items():
            _replace(root / path, text.encode("utf-8", errors="surrogateescape"))
    except OSError as error:
        raise unwritable(Path(error.filename), error) from error


def _replace(path: Path, content: bytes) -> None:
    target = path.resolve()
    with staging(target, "part") as scratch:
        scratch.write_bytes(content)
        scratch.chmod(target.stat().st_mode)
        scratch.replace(target)


def _overlaps(edit: TextEdit, others: Sequence[TextEdit]) -> bool:
    return any(
        (edit.start < other.end and other.start < edit.end)
        or (edit.start, edit.end) == (other.start, other.end)
        for other in others
    )


def _edited(text: str, edits: Sequence[TextEdit]) -> str:
    for edit in sorted(edits, key=lambda e: e.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _diff(path: str, before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(_lines(before), _lines(after), fromfile=path, tofile=path, n=1)
    return [line if line.endswith("\n") else f"{line}\n" for line in lines]


def _lines(text: str) -> list[str]:
    """Return the lines with what cannot be seen written out, so that a diff shows it."""
    shown = text.replace("\ufeff", "\\ufeff").replace("\r", "\\r")
    return [
        line if line.endswith("\n") else f"{line}\n" for line in shown.splitlines(keepends=True)
    ]
