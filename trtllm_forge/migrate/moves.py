"""Compare each setting of the old repository with the rendered one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtllm_forge.migrate.report import SettingMove
from trtllm_forge.migrate.tensors import migration_facts
from trtllm_forge.triton.repository.names import (
    BLS,
    CORE,
    ENSEMBLE,
    MODELS,
    POSTPROCESSING,
    PREPROCESSING,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtllm_forge.migrate.settings import CarriedSettings
    from trtllm_forge.migrate.source import SourceModel, SourceRepository

# Settings of config.pbtxt itself, which are not parameters.
_STRUCTURE = {
    PREPROCESSING: ("max_batch_size", "instances"),
    CORE: ("max_batch_size", "decoupled", "max_queue_size"),
    POSTPROCESSING: ("max_batch_size", "instances"),
    ENSEMBLE: ("max_batch_size",),
    BLS: ("max_batch_size", "decoupled", "instances"),
}
_UNKNOWN = "forge knows no setting of the LLM API for it"


def llmapi_moves(
    source: SourceRepository, carried: CarriedSettings, arguments: Mapping[str, Any]
) -> Iterator[SettingMove]:
    """Yield every setting of the repository and its counterpart in ``model.yaml``, if any."""
    facts = migration_facts()
    for model in source.models.values():
        table = facts["llmapi_parameters"].get(model.name, {})
        for name, value in model.parameters.items():
            fact = table.get(name, {"reason": _UNKNOWN})
            to = fact.get("to", "")
            if not to or _find(arguments, to) is None:
                reason = fact.get("reason", "the checkpoint has the same one")
                yield _dropped(model.name, name, value, reason)
            elif (model.name, name) in carried.changes:
                now, reason = carried.changes[model.name, name]
                yield _changed(model.name, name, value, f"model.yaml {to} = {now}", reason)
            else:
                yield _carried(model.name, name, value, f"model.yaml {to}")
        for (owner, name), (now, reason) in carried.changes.items():
            if owner == model.name and name in table and name not in model.parameters:
                to = f"model.yaml {table[name]['to']} = {now}"
                yield _changed(model.name, name, "unset", to, reason)
        yield from _llmapi_structure(model, arguments)
    yield from _engine_moves(source, arguments)


def engine_moves(
    source: SourceRepository,
    new: Mapping[str, SourceModel],
    release: str,
    changes: Mapping[tuple[str, str], tuple[str, str]],
) -> Iterator[SettingMove]:
    """Yield every setting of the repository and its counterpart in ``config.pbtxt``, if any."""
    renamed = migration_facts()["renamed"]
    for model in source.models.values():
        if model.name not in new:
            yield _dropped(model.name, "model", model.backend, _other_model(model))
            continue
        now = new[model.name].parameters
        for name, value in model.parameters.items():
            to = next((n for n in (name, renamed.get(name)) if n in now), None)
            if to is None:
                yield _dropped(model.name, name, value, _unread(model.name, release))
            elif now[to] == value:
                yield _carried(model.name, name, value, "" if to == name else to)
            else:
                _, reason = changes.get(
                    (model.name, name), ("", "it is relative to the repository")
                )
                yield _changed(model.name, name, value, f"{to} = {now[to]}", reason)
        for (owner, name), (value, reason) in changes.items():
            if owner == model.name and name not in model.parameters and name in now:
                yield _changed(model.name, name, "unset", f"{name} = {value}", reason)
        yield from _structure(model, new[model.name], changes)


def _llmapi_structure(model: SourceModel, arguments: Mapping[str, Any]) -> Iterator[SettingMove]:
    facts = migration_facts()["llmapi_settings"]
    if model.name not in MODELS:
        yield _dropped(model.name, "model", model.backend, _other_model(model))
        return
    if model.name == CORE:
        size = str(model.max_batch_size)
        now = str(arguments["max_batch_size"])
        if size == now:
            yield _carried(CORE, "max_batch_size", size, "model.yaml max_batch_size")
        else:
            is_less = int(now) < model.max_batch_size
            reason = "it is the engine's limit" if is_less else "it was off"
            yield _changed(
                CORE, "max_batch_size", size, f"model.yaml max_batch_size = {now}", reason
            )
        word = "true" if model.decoupled else "false"
        yield _carried(CORE, "decoupled", word, "model.yaml triton_config.decoupled")
    if model.instances > 1:
        yield _dropped(model.name, "instances", str(model.instances), facts["instances"])
    if model.max_queue_size:
        yield _dropped(model.name, "max_queue_size", str(model.max_queue_size), facts["queue"])


def _structure(
    old: SourceModel, new: SourceModel, changes: Mapping[tuple[str, str], tuple[str, str]]
) -> Iterator[SettingMove]:
    for name in _STRUCTURE[old.name]:
        before, after = getattr(old, name), getattr(new, name)
        value, now = _word(before), _word(after)
        if value == now:
            yield _carried(old.name, name, value, "")
        else:
            _, reason = changes.get((old.name, name), ("", "all models have the same value"))
            yield _changed(old.name, name, value, f"{name} = {now}", reason)


def _engine_moves(source: SourceRepository, arguments: Mapping[str, Any]) -> Iterator[SettingMove]:
    engine = source.engine
    for name, value, to in (
        ("tp_size", engine.tp_size, "tensor_parallel_size"),
        ("pp_size", engine.pp_size, "pipeline_parallel_size"),
        ("max_num_tokens", engine.max_num_tokens, "max_num_tokens"),
        ("max_seq_len", engine.max_seq_len, "max_seq_len"),
        ("dtype", engine.dtype, "dtype"),
    ):
        if not (value and engine.version):
            continue
        now = arguments.get(to)
        if now in (None, value):
            yield _carried("engine", name, str(value), f"model.yaml {to}")
        else:
            reason = "forge writes no other value"
            yield _changed("engine", name, str(value), f"model.yaml {to} = {now}", reason)
    if engine.quantization:
        reason = "the PyTorch backend does not quantise: serve a checkpoint quantised by ModelOpt"
        yield _dropped("engine", "quantization", engine.quantization, reason)
    kv_cache = engine.kv_cache_quantization
    if kv_cache and _find(arguments, "kv_cache_config.dtype"):
        yield _carried("engine", "kv_cache", kv_cache, "model.yaml kv_cache_config.dtype")
    elif kv_cache:
        reason = "the PyTorch backend's KV cache has the type of the activations, or fp8"
        yield _dropped("engine", "kv_cache", kv_cache, reason)


def _other_model(model: SourceModel) -> str:
    return f"it is not one of the five models around an engine; {model.path.parent} is unchanged"


def _unread(model: str, release: str) -> str:
    if model == CORE:
        return f"the backend of TensorRT-LLM {release} does not read it"
    return f"forge's {model} does not read it"


def _find(arguments: Mapping[str, Any], place: str) -> Any:
    value: Any = arguments
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _carried(model: str, name: str, value: str, to: str) -> SettingMove:
    return SettingMove(model=model, name=name, value=value, fate="carried", to=to)


def _changed(model: str, name: str, value: str, to: str, reason: str) -> SettingMove:
    return SettingMove(model=model, name=name, value=value, fate="changed", to=to, reason=reason)


def _dropped(model: str, name: str, value: str, reason: str) -> SettingMove:
    return SettingMove(model=model, name=name, value=value, fate="dropped", reason=reason)
