"""Read the engine repository to migrate: forge's, upstream's, or one made by hand.

A parameter whose value is empty or still a placeholder (``${name}``) counts as unset, as it does
for the models themselves. A placeholder anywhere else is a mistake that Triton would not load.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import ConfigError, RenderError, unreadable
from trtllm_forge.triton.repository.names import CORE, ENGINE_DIR
from trtllm_forge.triton.repository.release import engine_release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.delivery.manifest import Manifest

_UNSET = re.compile(r'(string_value\s*:\s*)(["\'])\s*\$\{[^}"\']*\}\s*\2')
_PLACEHOLDER = re.compile(r"\$\{\w+\}")


@dataclass(frozen=True, kw_only=True)
class SourceTensor:
    """A tensor as the repository declares it."""

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """A Triton model as described by its ``config.pbtxt``.

    Attributes:
        name: Its folder.
        path: The ``config.pbtxt``.
        backend: Triton's backend, or its platform.
        max_batch_size: Requests that Triton batches.
        decoupled: Whether it may send many responses per request.
        instances: Instances in all its groups; 0 if not stated.
        max_queue_size: Limit of the queue; 0 if not stated.
        max_queue_delay_microseconds: Longest wait in the queue; 0 if not stated.
        parameters: The parameters that are set.
        inputs: In the order of the file, each name once.
        outputs: In the order of the file, each name once.
    """

    name: str
    path: Path
    backend: str
    max_batch_size: int
    decoupled: bool
    instances: int
    max_queue_size: int
    max_queue_delay_microseconds: int
    parameters: Mapping[str, str]
    inputs: tuple[SourceTensor, ...]
    outputs: tuple[SourceTensor, ...]


@dataclass(frozen=True, kw_only=True)
class SourceEngine:
    """The engine as described by its ``config.json`` and ``engine.json``; None for unknown."""

    version: str = ""
    architecture: str = ""
    dtype: str = ""
    quantization: str = ""
    kv_cache_quantization: str = ""
    tp_size: int = 1
    pp_size: int = 1
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    max_seq_len: int | None = None


@dataclass(frozen=True, kw_only=True)
class SourceRepository:
    """The repository to migrate.

    Attributes:
        folder: Its folder.
        models: Its models by name.
        engine: Its engine's description, empty if there is none to read.
        manifest: Forge's manifest, if forge built it.
    """

    folder: Path
    models: Mapping[str, SourceModel]
    engine: SourceEngine = field(default_factory=SourceEngine)
    manifest: Manifest | None = None

    @property
    def core(self) -> SourceModel:
        """Return the model around the engine."""
        return self.models[CORE]

    @property
    def model_name(self) -> str:
        """Return the MODEL for ``forge build`` that it was built from, empty if unknown."""
        checkpoint = self.manifest.checkpoint if self.manifest else None
        return checkpoint.repo_id if checkpoint and checkpoint.origin != "local" else ""

    def parameter(self, model: str, name: str) -> str | None:
        """Return the value of a model's parameter, or None."""
        return self.models[model].parameters.get(name) if model in self.models else None


def read_source(folder: Path) -> SourceRepository:
    """Return an engine repository as typed values.

    Raises:
        ConfigError: The folder is not a repository around an engine.
        RenderError: A ``config.pbtxt`` does not parse, or is not filled in.
        CheckpointError: Its manifest is damaged.
    """
    from trtllm_forge.delivery.manifest import read_manifest

    paths = sorted(folder.glob("*/config.pbtxt"))
    if not paths:
        what = f"{folder} is not a model repository: no folder in it has a config.pbtxt"
        raise ConfigError(what)
    models = {path.parent.name: read_model(path) for path in paths}
    if CORE not in models:
        what = f"{folder} has no {CORE} model, which serves the engine"
        raise ConfigError(what, why=f"it has {', '.join(models)}")
    if (folder / CORE / "1" / "model.yaml").exists() and len(models) == 1:
        what = f"{folder} already serves through the LLM API"
        raise ConfigError(what, why="migrate takes repositories around an engine")
    return SourceRepository(
        folder=folder,
        models=models,
        engine=_read_engine(folder, models[CORE]),
        manifest=read_manifest(folder),
    )


def read_model(path: Path) -> SourceModel:
    """Return the model of a ``config.pbtxt``.

    Raises:
        RenderError: It does not parse, or has a placeholder instead of a value.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error, RenderError) from error
    text = _UNSET.sub(r"\1\2\2", text)
    for number, line in enumerate(text.splitlines(), start=1):
        if _PLACEHOLDER.search(line.partition("#")[0]):
            what = f"{path}:{number} still has a placeholder"
            raise RenderError(what, why=line.strip(), hint="fill it with fill_template.py first")
    try:
        message = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        what = f"{path} is not a Triton ModelConfig"
        raise RenderError(what, why=str(error)) from error
    queue = message.dynamic_batching
    parameters = {key: value.string_value.strip() for key, value in message.parameters.items()}
    return SourceModel(
        name=path.parent.name,
        path=path,
        backend=message.backend or message.platform,
        max_batch_size=message.max_batch_size,
        decoupled=message.model_transaction_policy.decoupled,
        instances=sum(group.count or 1 for group in message.instance_group),
        max_queue_size=queue.default_queue_policy.max_queue_size,
        max_queue_delay_microseconds=queue.max_queue_delay_microseconds,
        parameters={key: value for key, value in sorted(parameters.items()) if value},
        inputs=_tensors(message.input, model_config_pb2.DataType),
        outputs=_tensors(message.output, model_config_pb2.DataType),
    )


def _tensors(messages: Any, types: Any) -> tuple[SourceTensor, ...]:
    # Upstream's ensemble lists an output twice.
    found = {
        message.name: SourceTensor(
            name=message.name,
            data_type=types.Name(message.data_type),
            dims=tuple(message.dims),
        )
        for message in messages
    }
    return tuple(found.values())


def _read_engine(folder: Path, core: SourceModel) -> SourceEngine:
    """Return the engine's description if it is found; the server's path may not exist here."""
    stated = core.parameters.get("gpt_model_path", "")
    candidates = [folder / ENGINE_DIR, folder / CORE / "1"]
    if stated:
        # The path is below the mount point; its tail is the same in this repository.
        parts = Path(stated).parts
        tail = parts[parts.index(CORE) :] if CORE in parts else ()
        candidates = [*([folder.joinpath(*tail)] if tail else []), Path(stated), *candidates]
    for engine_dir in candidates:
        own, theirs = (_read_json(engine_dir / n) for n in ("engine.json", "config.json"))
        if own or "build_config" in theirs:
            return _engine(own, theirs)
    return SourceEngine()


def _engine(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> SourceEngine:
    pretrained = _object(theirs, "pretrained_config")
    build = _object(theirs, "build_config")
    mapping, quantization = _object(pretrained, "mapping"), _object(pretrained, "quantization")
    return SourceEngine(
        version=engine_release(theirs, own),
        architecture=str(own.get("architecture") or _architecture(pretrained)),
        dtype=str(own.get("dtype") or pretrained.get("dtype") or ""),
        quantization=str(own.get("quant_algo") or quantization.get("quant_algo") or ""),
        kv_cache_quantization=str(
            own.get("kv_cache_quant_algo") or quantization.get("kv_cache_quant_algo") or ""
        ),
        tp_size=_int(own.get("tp_size")) or _int(mapping.get("tp_size")) or 1,
        pp_size=_int(own.get("pp_size")) or _int(mapping.get("pp_size")) or 1,
        max_batch_size=_int(own.get("max_batch_size")) or _int(build.get("max_batch_size")),
        max_num_tokens=_int(own.get("max_num_tokens")) or _int(build.get("max_num_tokens")),
        max_seq_len=_int(own.get("max_seq_len")) or _int(build.get("max_seq_len")),
    )


def _architecture(pretrained: Mapping[str, Any]) -> str:
    """Return the checkpoint's architecture by the converter's name for it, or nothing.

    The gpt family's converter uses one name for several architectures and distinguishes them by
    variant.
    """
    from trtllm_forge.checkpoint.architectures import known_architectures

    name, variant = str(pretrained.get("architecture", "")), pretrained.get("gpt_variant")
    known = known_architectures()
    if name == "GPTForCausalLM":
        fitting = [a.name for a in known.values() if variant and a.gpt_variant == variant]
        return fitting[0] if fitting else ""
    return name if name in known else ""


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Nothing is known of an unreadable engine; it is built again in any case.
        return {}
    return document if isinstance(document, dict) else {}


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
