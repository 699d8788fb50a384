"""What remains to be done after a migration: notes, and commands to paste."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.migrate.engine_flags import engine_flags
from trtllm_forge.migrate.served import shell
from trtllm_forge.triton.repository.names import (
    BLS,
    CHECKPOINT_DIR,
    CORE,
    ENGINE_DIR,
    ENSEMBLE,
    MODELS,
    PREPROCESSING,
    TOKENIZER_DIR,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtllm_forge.migrate.served import ServedModel
    from trtllm_forge.migrate.settings import CarriedSettings
    from trtllm_forge.migrate.source import SourceRepository
    from trtllm_forge.releases.catalogue import Release


def llmapi_notes(source: SourceRepository) -> Iterator[str]:
    """Yield what every client of the LLM API's model must know."""
    fronts = [name for name in (ENSEMBLE, BLS) if name in source.models]
    if fronts:
        fronts_text = " or ".join(fronts)
        yield f"clients call {CORE} instead of {fronts_text}: one model takes and returns text"
    yield "shapes have no batch axis: [1] instead of [1, 1], and one prompt per request"
    yield "a streamed response holds the whole text so far, not only the new part"
    yield from _other_models(source)


def release_notes(source: SourceRepository, release: Release) -> Iterator[str]:
    """Yield what to know about a repository for another release."""
    yield (
        f"the engine must be built again: TensorRT-LLM {release.version} cannot load one of "
        "another release"
    )
    yield (
        "pre- and postprocessing are forge's, with the same tensors; your own changes to them are "
        "not carried over"
    )
    tokenizer_dir = source.parameter(PREPROCESSING, "tokenizer_dir")
    if tokenizer_dir and tokenizer_dir != TOKENIZER_DIR:
        yield f"{tokenizer_dir} needs a tokenizer.json, which forge's models read"
    elif tokenizer_dir and not (source.folder / TOKENIZER_DIR).is_dir():
        yield f"the repository has no tokenizer: put one into {TOKENIZER_DIR}"
    yield from _other_models(source)


def llmapi_steps(served: ServedModel, output_dir: Path) -> Iterator[str]:
    """Yield the commands that put the checkpoint in place and serve it."""
    target = shell(output_dir / CHECKPOINT_DIR)
    if served.folder is not None:
        yield f"ln -s {shell(served.folder.absolute())} {target}"
    elif served.model:
        revision = f" --revision {served.revision}" if served.revision else ""
        yield f"hf download {shell(served.model)}{revision} --local-dir {target}"
    else:
        yield f"hf download REPO_ID --local-dir {target}"
    yield f"forge serve {shell(output_dir)}"


def engine_steps(
    source: SourceRepository,
    carried: CarriedSettings,
    served: ServedModel,
    release: Release,
    output_dir: Path,
) -> Iterator[str]:
    """Yield the commands that build the engine and copy it into the repository."""
    built_dir = output_dir.with_name(f"{output_dir.name}-built")
    words = ["forge build", shell(served.model) if served.model else "MODEL"]
    words += ["--runtime trtllm", f"--trtllm-version {release.version}"]
    words += engine_flags(source, carried)
    yield " ".join([*words, f"--output {shell(built_dir)}"])
    target = output_dir / ENGINE_DIR
    yield f"cp -r {shell(built_dir / ENGINE_DIR)} {shell(target)}"
    stated = source.parameter(CORE, "gpt_model_path") or ""
    if not stated.endswith(ENGINE_DIR):
        yield f"mount {shell(target)} at {shell(stated)}, the value of gpt_model_path"
    yield f"forge serve {shell(output_dir)}"


def _other_models(source: SourceRepository) -> Iterator[str]:
    others = [name for name in source.models if name not in MODELS]
    if others:
        yield f"not carried over: {', '.join(others)}, which may refer to models that are gone"
