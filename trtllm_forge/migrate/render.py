"""Render the new repository from the settings of the old one, in a separate folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trtllm_forge.build.stages.render import RenderStage
from trtllm_forge.releases.llmapi_arguments import read_arguments
from trtllm_forge.runtimes import EngineModel
from trtllm_forge.runtimes.llmapi import LlmApiRuntime
from trtllm_forge.runtimes.llmapi.model_yaml import (
    MODEL_YAML,
    ModelArguments,
    model_arguments,
    require_known,
)
from trtllm_forge.triton.repository.names import CORE, ENGINE_DIR, TOKENIZER_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.migrate.settings import CarriedSettings
    from trtllm_forge.migrate.source import SourceRepository
    from trtllm_forge.releases.catalogue import Release
    from trtllm_forge.reporter import Reporter

_LOGITS = {"TYPE_FP32": "float32", "TYPE_FP16": "float16"}
_ACTIVATIONS = {**_LOGITS, "TYPE_BF16": "bfloat16"}
_ENGINE_FILE = "engine.json"


def render_llmapi(
    source: SourceRepository,
    carried: CarriedSettings,
    release: Release,
    work_dir: Path,
    reporter: Reporter,
) -> Mapping[str, Any]:
    """Render the one model over the LLM API; return the content of its ``model.yaml``.

    Raises:
        ConfigError: The release does not have an argument.
        RenderError: The rendered repository is invalid.
    """
    repository = carried.config.repository
    if _own_tokenizer(source, repository.tokenizer_dir) is not None:
        # The checkpoint has the same one.
        repository = replace(repository, tokenizer_dir=None)
    config = replace(
        carried.config,
        runtime="llmapi",
        trtllm_version=release.version,
        repository=repository,
    )
    table = read_arguments(release)
    made = model_arguments(config, carried.kv_fraction, table)
    arguments = dict(made.arguments)
    if carried.dtype not in ("float16", "bfloat16"):
        arguments["dtype"] = "auto"
    require_known(arguments, table)
    triton = {**made.triton, **_cancellation(source)}
    model = ModelArguments(arguments=arguments, triton=triton)
    engine_model = replace(
        LlmApiRuntime().engine_model(config, carried.kv_fraction),
        text_files={MODEL_YAML: model.text()},
    )
    stage = RenderStage(
        trtllm_version=release.contract,
        max_batch_size=config.build.max_batch_size,
        repository=repository,
        engine_model=engine_model,
    )
    stage.run(work_dir, {}, reporter)
    return {**arguments, "triton_config": triton}


def render_engine(
    source: SourceRepository,
    carried: CarriedSettings,
    release: Release,
    parameters: Mapping[str, str],
    work_dir: Path,
    reporter: Reporter,
) -> None:
    """Render the models around an engine that is yet to be built.

    Raises:
        CheckpointError: The tokenizer has no ``tokenizer.json``.
        RenderError: The rendered repository is invalid.
    """
    repository = carried.config.repository
    inputs = {}
    tokenizer_dir = _own_tokenizer(source, repository.tokenizer_dir)
    if tokenizer_dir is not None:
        inputs["download"] = tokenizer_dir
        repository = replace(repository, tokenizer_dir=None)
    core = source.core
    stage = RenderStage(
        trtllm_version=release.contract,
        max_batch_size=core.max_batch_size or carried.config.build.max_batch_size,
        repository=repository,
        engine_model=EngineModel(backend=core.backend, parameters=parameters),
    )
    # The render stage takes the element types from a description of the engine.
    facts_dir = work_dir.with_name(f"{work_dir.name}.facts")
    facts_dir.mkdir()
    try:
        text = json.dumps(_element_types(source))
        (facts_dir / _ENGINE_FILE).write_text(text, encoding="utf-8")
        stage.run(work_dir, {**inputs, "compile": facts_dir}, reporter)
    finally:
        shutil.rmtree(facts_dir)
    engine_dir = work_dir / ENGINE_DIR
    shutil.rmtree(engine_dir)
    (engine_dir.parent / ".keep").touch()


def _own_tokenizer(source: SourceRepository, tokenizer_dir: str | None) -> Path | None:
    """Return the tokenizer's folder in the repository, if it is where forge puts it."""
    folder = source.folder / TOKENIZER_DIR
    return folder if tokenizer_dir == TOKENIZER_DIR and folder.is_dir() else None


def _cancellation(source: SourceRepository) -> dict[str, Any]:
    stated = source.parameter(CORE, "cancellation_check_period_ms") or ""
    return {"cancellation_check_period_ms": int(stated)} if stated.isdigit() else {}


def _element_types(source: SourceRepository) -> dict[str, str]:
    types = {
        tensor.name: tensor.data_type for tensor in (*source.core.inputs, *source.core.outputs)
    }
    return {
        "logits_dtype": _LOGITS.get(types.get("context_logits", ""), "float32"),
        "dtype": _ACTIVATIONS.get(types.get("prompt_embedding_table", ""), "float16"),
    }
