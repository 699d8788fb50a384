"""What clients must change: every tensor, with its new name or why it is gone."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.files.resources import read_yaml
from trtllm_forge.migrate.report import TensorMove
from trtllm_forge.triton.repository.names import CORE, FRONTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtllm_forge.migrate.source import SourceModel, SourceTensor

Kind = Literal["input", "output"]

_TOKENS = "the llmapi model takes and returns text, no tokens"


def moves_between_releases(
    old: Mapping[str, SourceModel], new: Mapping[str, SourceModel]
) -> Iterator[TensorMove]:
    """Yield the change of each tensor of the models that clients call."""
    for name in FRONTS:
        if name not in old or name not in new:
            continue
        for kind, before, after in (
            ("input", old[name].inputs, new[name].inputs),
            ("output", old[name].outputs, new[name].outputs),
        ):
            yield from _between(name, kind, before, after)  # type: ignore[arg-type]


def moves_to_llmapi(old: Mapping[str, SourceModel], new: SourceModel) -> Iterator[TensorMove]:
    """Yield the change of each tensor when clients call the one model over the LLM API."""
    facts = migration_facts()
    reached: set[tuple[str, str]] = set()
    fronts = [old[name] for name in FRONTS if name in old]
    for model in fronts:
        for kind, before, after in (
            ("input", model.inputs, new.inputs),
            ("output", model.outputs, new.outputs),
        ):
            table = facts[f"llmapi_{kind}s"]
            known = {tensor.name: tensor for tensor in after}
            for tensor in before:
                move = _to_llmapi(model.name, kind, tensor, table, known)  # type: ignore[arg-type]
                if move.to:
                    reached.add((kind, move.to))
                yield move
    for kind, after in (("input", new.inputs), ("output", new.outputs)):
        for tensor in after:
            if (kind, tensor.name) not in reached:
                yield TensorMove(model=CORE, kind=kind, name=tensor.name, fate="new")  # type: ignore[arg-type]


def _between(
    model: str, kind: Kind, before: Sequence[SourceTensor], after: Sequence[SourceTensor]
) -> Iterator[TensorMove]:
    later = migration_facts()["renamed"]
    earlier = {new: old for old, new in later.items()}
    known = {tensor.name: tensor for tensor in after}
    reached = set()
    for tensor in before:
        names = (tensor.name, later.get(tensor.name), earlier.get(tensor.name))
        to = next((name for name in names if name in known), None)
        if to is None:
            note = "the new release's model has no such tensor"
            yield TensorMove(model=model, kind=kind, name=tensor.name, fate="gone", note=note)
            continue
        reached.add(to)
        yield _kept(model, kind, tensor, known[to])
    for name in known:
        if name not in reached:
            yield TensorMove(model=model, kind=kind, name=name, fate="new")


def _to_llmapi(
    model: str,
    kind: Kind,
    tensor: SourceTensor,
    table: Mapping[str, Any],
    known: Mapping[str, SourceTensor],
) -> TensorMove:
    if model == CORE:
        return TensorMove(model=model, kind=kind, name=tensor.name, fate="gone", note=_TOKENS)
    later = migration_facts()["renamed"]
    fact = table.get(later.get(tensor.name, tensor.name), {})
    to = fact.get("to", "")
    if to not in known:
        note = fact.get("reason", "the llmapi model has no counterpart")
        return TensorMove(model=model, kind=kind, name=tensor.name, fate="gone", note=note)
    return _kept(model, kind, tensor, known[to], note=fact.get("note", ""))


def _kept(
    model: str, kind: Kind, tensor: SourceTensor, now: SourceTensor, *, note: str = ""
) -> TensorMove:
    notes = [note] if note else []
    if tensor.data_type != now.data_type:
        notes.append(f"{now.data_type}, was {tensor.data_type}")
    if tensor.dims != now.dims:
        notes.append(f"dims {list(now.dims)}, were {list(tensor.dims)}")
    fate: Literal["kept", "renamed", "changed"] = "changed" if notes else "kept"
    return TensorMove(
        model=model,
        kind=kind,
        name=tensor.name,
        fate="renamed" if tensor.name != now.name else fate,
        to=now.name,
        note=", ".join(notes),
    )


@lru_cache(maxsize=1)
def migration_facts() -> dict[str, Any]:
    """Return ``data/migrate.yaml``."""
    document: dict[str, Any] = read_yaml("migrate.yaml")
    return document
