"""The report of a migration on each setting and each tensor, as data, text and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

SCHEMA = 1

SettingFate = Literal["carried", "changed", "dropped"]
TensorFate = Literal["kept", "renamed", "changed", "gone", "new"]


@dataclass(frozen=True, kw_only=True)
class SettingMove:
    """A setting of the old repository and its place in the new one.

    Attributes:
        model: The Triton model that has it.
        name: Its parameter, or the name of a setting in ``config.pbtxt``.
        value: Its old value.
        fate: Carried over, carried over with another value, or without a counterpart.
        to: Where it is now; empty if nowhere.
        reason: Why it changed or has no counterpart.
    """

    model: str
    name: str
    value: str
    fate: SettingFate
    to: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TensorMove:
    """A tensor that clients of a model use, and its place in the new repository.

    Attributes:
        model: The model that clients call; for new tensors the one they call now.
        kind: ``input`` or ``output``.
        name: Its old name; a new tensor's name.
        fate: The same, with another name, with another type or shape, gone, or new.
        to: Its name now; empty if it is gone.
        note: What else differs, or why it is gone.
    """

    model: str
    kind: Literal["input", "output"]
    name: str
    fate: TensorFate
    to: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class MigrationReport:
    """The report of a migration.

    Attributes:
        source_dir: The old repository, which is unchanged.
        output_dir: The new one.
        source_release: The old TensorRT-LLM release; ``source_release_origin`` says how it was
            found.
        target: ``llmapi`` or ``engine``.
        target_release: The new TensorRT-LLM release.
        model: The model it serves: a Hub id, a preset or a folder; empty if unknown.
        architecture: As the checkpoint's ``config.json`` spells it; empty if unknown.
        settings: Every setting.
        tensors: Every tensor of every model that clients may call.
        notes: What else to know, one sentence each.
        next_steps: Commands that complete the repository and serve it.
    """

    source_dir: Path
    output_dir: Path
    source_release: str
    source_release_origin: str
    target: Literal["llmapi", "engine"]
    target_release: str
    model: str
    architecture: str
    settings: tuple[SettingMove, ...]
    tensors: tuple[TensorMove, ...]
    notes: tuple[str, ...]
    next_steps: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "schema": SCHEMA,
            "repository": str(self.output_dir),
            "source": {
                "repository": str(self.source_dir),
                "trtllm_version": self.source_release,
                "origin": self.source_release_origin,
            },
            "target": {"layout": self.target, "trtllm_version": self.target_release},
            "model": self.model or None,
            "architecture": self.architecture or None,
            "settings": [asdict(move) for move in self.settings],
            "tensors": [asdict(move) for move in self.tensors],
            "notes": list(self.notes),
            "next_steps": list(self.next_steps),
        }

    def text(self) -> str:
        """Return the report as text."""
        flow = "the LLM API of TensorRT-LLM" if self.target == "llmapi" else "TensorRT-LLM"
        lines = [
            f"{self.source_dir}: TensorRT-LLM {self.source_release}, {self.source_release_origin}",
            f"{self.output_dir}: {flow} {self.target_release}",
        ]
        for title, fate in (
            ("carried over", "carried"),
            ("carried over with another value", "changed"),
            ("without a counterpart", "dropped"),
        ):
            lines += _section(title, (m for m in self.settings if m.fate == fate), _setting)
        for model in dict.fromkeys(move.model for move in self.tensors if move.fate != "new"):
            moves = [m for m in self.tensors if m.model == model and m.fate != "new"]
            kept = sum(move.fate == "kept" for move in moves)
            title = f"tensors of {model}: {kept} of {len(moves)} as before"
            lines += _section(title, _tensors(moves), str) or ["", title]
        lines += _section("new tensors", _new_tensors(self.tensors), str)
        lines += _section("to know", self.notes, str)
        lines += _section("to do", self.next_steps, str)
        return "\n".join(lines)


def _section(title: str, items: Iterable[Any], line: Any) -> list[str]:
    lines = [f"  {line(item)}" for item in items]
    return ["", title, *lines] if lines else []


def _setting(move: SettingMove) -> str:
    place = f" -> {move.to}" if move.to else ""
    reason = f": {move.reason}" if move.reason else ""
    return f"{move.model}.{move.name} = {move.value}{place}{reason}"


def _tensors(moves: Sequence[TensorMove]) -> Iterator[str]:
    """Yield a line for each tensor with another name, and one for each reason to be gone."""
    for move in moves:
        if move.fate in ("renamed", "changed"):
            arrow = f" -> {move.to}" if move.to != move.name else ""
            note = f": {move.note}" if move.note else ""
            yield f"{move.kind} {move.name}{arrow}{note}"
    gone = [move for move in moves if move.fate == "gone"]
    for note in dict.fromkeys(move.note for move in gone):
        names = [move.name for move in gone if move.note == note]
        yield f"gone, {note}: {', '.join(dict.fromkeys(names))}"


def _new_tensors(moves: Sequence[TensorMove]) -> Iterator[str]:
    new = [move for move in moves if move.fate == "new"]
    for model, kind in dict.fromkeys((move.model, move.kind) for move in new):
        names = [move.name for move in new if (move.model, move.kind) == (model, kind)]
        yield f"{kind}s of {model}: {', '.join(names)}"
