"""The ``render`` stage: make a Triton model repository from templates and artifacts.

Templates mirror the output folder for folder; files to be rendered end in ``.jinja``. Python models
also get the modules of ``templates/shared`` that they import. There is one set of templates:
differences between releases are data (``triton/repository/contract.py``). Templates for the
``llmapi`` layout are in ``templates/llmapi``.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from trtllm_forge import __version__
from trtllm_forge.build.stages.engine_facts import EngineFacts, read_engine_facts
from trtllm_forge.errors import CheckpointError, RenderError
from trtllm_forge.files.digest import sha256_tree
from trtllm_forge.files.resources import templates_dir
from trtllm_forge.triton.repository.contract import read_contract
from trtllm_forge.triton.repository.names import (
    BLS,
    CORE,
    ENGINE_DIR,
    MODELS,
    POSTPROCESSING,
    PREPROCESSING,
    TOKENIZER_DIR,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.config.schema import RepositorySection
    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.runtimes import EngineModel
    from trtllm_forge.triton.repository.contract import ModelContract, ReleaseContract

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)

_SHARED = {
    PREPROCESSING: ("model_folder.py",),
    POSTPROCESSING: ("model_folder.py", "detokenizer.py", "stop_request.py"),
    CORE: ("model_folder.py",),
    BLS: ("model_folder.py", "detokenizer.py", "stop_request.py"),
}
_PYTHON_MODELS = {
    PREPROCESSING: (f"{PREPROCESSING}/1/model.py", f"{PREPROCESSING}/1/word_lists.py"),
    POSTPROCESSING: (f"{POSTPROCESSING}/1/model.py",),
    BLS: (f"{BLS}/1/model.py",),
}


@dataclass(frozen=True, kw_only=True)
class RenderStage:
    """Writes a model repository.

    Attributes:
        trtllm_version: The TensorRT-LLM release whose tensors the models have.
        max_batch_size: Requests per step, the same in every model of the ensemble; a TensorRT
            engine's own limit takes precedence.
        repository: The ``repository`` section of ``forge.yaml``.
        engine_model: How the runtime fills the ``tensorrt_llm`` model.
    """

    trtllm_version: str
    max_batch_size: int
    repository: RepositorySection
    engine_model: EngineModel

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return "render"

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """Return the settings, and the digests of the templates and of the release's contract."""
        engine_model = self.engine_model
        return {
            "trtllm_version": self.trtllm_version,
            "max_batch_size": self.max_batch_size,
            "repository": asdict(self.repository),
            "layout": engine_model.layout,
            "backend": engine_model.backend,
            "engine_parameters": dict(engine_model.parameters),
            "python_files": list(engine_model.python_files),
            "text_files": dict(engine_model.text_files),
            "checkpoint_dir": engine_model.checkpoint_dir,
            "templates_sha256": sha256_tree(templates_dir()),
            "contract_sha256": self._contract(EngineFacts()).sha256,
        }

    @property
    def tool_versions(self) -> Mapping[str, str]:
        """Return forge's own version: no other tool touches the text."""
        return {"trtllm-forge": __version__}

    @property
    def outputs(self) -> Sequence[str]:
        """Return the models' configurations."""
        return tuple(f"{name}/config.pbtxt" for name in self._models)

    @property
    def _models(self) -> Sequence[str]:
        return (CORE,) if self.engine_model.layout == "llmapi" else MODELS

    def commands(self, work_dir: Path, inputs: Mapping[str, Path]) -> Sequence[Command]:
        """Return nothing: rendering starts no process."""
        return ()

    def run(self, work_dir: Path, inputs: Mapping[str, Path], reporter: Reporter) -> None:
        """Render, copy and link the repository, then read it back."""
        facts = EngineFacts()
        if self.engine_model.backend == "tensorrtllm" and "compile" in inputs:
            facts = read_engine_facts(inputs["compile"])
        self._render_configs(work_dir, facts, reporter)
        self._copy_python(work_dir)
        for name, text in self.engine_model.text_files.items():
            path = work_dir / CORE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if self.engine_model.checkpoint_dir and "download" in inputs:
            target_dir = work_dir / self.engine_model.checkpoint_dir
            # The files may belong to the user: leave their permissions alone.
            link_tree(inputs["download"], target_dir, make_read_only=False)
        if self.engine_model.layout == "engine" and self.repository.tokenizer_dir is None:
            self._copy_tokenizer(work_dir, inputs)
        if "compile" in inputs:
            link_tree(inputs["compile"], work_dir / ENGINE_DIR)
        for version_dir in work_dir.glob("*/1"):
            if not any(version_dir.iterdir()):
                # Git and archives drop empty folders; Triton needs every version folder.
                (version_dir / ".keep").touch()
        # Imported here because it takes a while, and a fresh build does not need it.
        from trtllm_forge.triton.repository.repository import verify_repository

        verify_repository(work_dir)

    def _contract(self, facts: EngineFacts) -> ReleaseContract:
        layout = self.engine_model.layout
        return read_contract(self.trtllm_version, layout, types=facts.element_types)

    def _render_configs(self, work_dir: Path, facts: EngineFacts, reporter: Reporter) -> None:
        from jinja2 import TemplateError

        environment = _jinja_environment(templates_dir())
        contract = self._contract(facts)
        batching = {
            "max_batch_size": facts.max_batch_size or self.max_batch_size,
            "max_queue_size": self.repository.max_queue_size,
            "max_queue_delay_microseconds": self.repository.max_queue_delay_microseconds,
        }
        folder = "llmapi/" if contract.layout == "llmapi" else ""
        for name in self._models:
            model = contract.models[name]
            source = f"{folder}{name}/config.pbtxt.jinja"
            values = self._model_parameters(name, facts)
            known = self._known_parameters(name, model, values)
            for key in sorted(set(values) - set(known)):
                reporter.note(f"TensorRT-LLM {contract.release} has no {key}: omitted from {name}")
            try:
                text = environment.get_template(source).render(
                    forge_version=__version__,
                    release=contract.release,
                    batching=batching,
                    model={
                        "inputs": model.inputs,
                        "outputs": model.outputs,
                        "steps": model.steps,
                        "has_queue": model.dynamic_batching == "queue",
                        "backend": self.engine_model.backend,
                        "decoupled": self.repository.decoupled,
                        "instances": self._instances(name),
                        "parameters": known,
                    },
                )
            except TemplateError as error:
                what = f"the template {source} cannot be rendered"
                raise RenderError(what, why=str(error)) from error
            (work_dir / name / "1").mkdir(parents=True)
            (work_dir / name / "config.pbtxt").write_text(text, encoding="utf-8")

    def _instances(self, model: str) -> int:
        counts = {
            PREPROCESSING: self.repository.preprocessing_instances,
            POSTPROCESSING: self.repository.postprocessing_instances,
            BLS: self.repository.bls_instances,
        }
        return counts.get(model, 1)

    def _known_parameters(
        self, name: str, model: ModelContract, values: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Return the parameters that the model reads, in the release's order, empty if unset.

        Forge's own models read further parameters, which come after the release's. The LLM API's
        model reads its ``model.yaml`` instead.
        """
        if self.engine_model.layout == "llmapi":
            return values
        known = {key: values.get(key, "") for key in model.parameters}
        is_upstreams = name == CORE and self.engine_model.backend == "tensorrtllm"
        return known if is_upstreams else {**known, **values}

    def _model_parameters(self, model: str, facts: EngineFacts) -> Mapping[str, str]:
        repository = self.repository
        tokenizer = {"tokenizer_dir": repository.tokenizer_dir or TOKENIZER_DIR}
        skip_special_tokens = {"skip_special_tokens": _word(repository.skip_special_tokens)}
        if model == PREPROCESSING:
            add_special_tokens = _word(repository.add_special_tokens)
            return {
                **tokenizer,
                "add_special_tokens": add_special_tokens,
                "gpt_model_path": ENGINE_DIR,
            }
        if model == POSTPROCESSING:
            return {**tokenizer, **skip_special_tokens}
        if model == CORE:
            return {**self.engine_model.parameters, **facts.parameters}
        if model == BLS:
            return {
                "accumulate_tokens": _word(repository.accumulate_tokens),
                "tensorrt_llm_model_name": CORE,
                "exclude_input_in_output": _word(repository.exclude_input_in_output),
                **tokenizer,
                **skip_special_tokens,
            }
        return {}

    def _copy_python(self, work_dir: Path) -> None:
        source_dir = templates_dir()
        for file in self.engine_model.python_files:
            name = PurePosixPath(file).name
            shutil.copyfile(source_dir / file, work_dir / CORE / "1" / name)
        if self.engine_model.layout == "llmapi":
            return
        for files in _PYTHON_MODELS.values():
            for file in files:
                shutil.copyfile(source_dir / file, work_dir / file)
        for model, shared in _SHARED.items():
            if model == CORE and not self.engine_model.python_files:
                continue
            for file in shared:
                shutil.copyfile(source_dir / "shared" / file, work_dir / model / "1" / file)

    def _copy_tokenizer(self, work_dir: Path, inputs: Mapping[str, Path]) -> None:
        # The export writes tokenizer.json for checkpoints without one.
        sources = [inputs[name] for name in ("compile", "download") if name in inputs]
        source_dir = next((d for d in sources if (d / "tokenizer.json").exists()), None)
        if source_dir is None:
            what = "the checkpoint has no tokenizer.json, which the repository's models read"
            why = "the compile stage of runtime openvino converts one; render does not"
            raise CheckpointError(what, why=why, hint="forge build MODEL --runtime openvino")
        target_dir = work_dir / TOKENIZER_DIR
        target_dir.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if (source_dir / name).exists():
                shutil.copyfile(source_dir / name, target_dir / name)


def link_tree(source_dir: Path, target_dir: Path, *, make_read_only: bool = True) -> None:
    """Fill ``target_dir`` with the files of ``source_dir`` without copying the bytes.

    Files are hard links, made read-only by default because an edit would change both names. They
    are copied if the file system cannot link them.
    """
    for source in sorted(source_dir.rglob("*")):
        if not source.is_file():
            continue
        target = target_dir / source.relative_to(source_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        resolved = source.resolve()
        try:
            if make_read_only:
                resolved.chmod(0o444)
            os.link(resolved, target)
        except OSError:
            shutil.copyfile(resolved, target)


@lru_cache(maxsize=1)
def _jinja_environment(folder: Path) -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters["pbtxt_string"] = pbtxt_string
    environment.filters["pbtxt_bool"] = _word
    return environment


def pbtxt_string(value: str) -> str:
    """Return a string quoted for protobuf's text format, so that it cannot escape its field.

    Raises:
        RenderError: It contains a NUL byte, which is never valid in a configuration.
    """
    if "\0" in value:
        what = f"{value!r} contains a NUL byte"
        raise RenderError(what)
    from google.protobuf import text_encoding

    return f'"{text_encoding.CEscape(value.encode(), as_utf8=True)}"'


def _word(value: object) -> str:
    return "true" if value else "false"
