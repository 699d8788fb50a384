"""Model repositories for the linter's tests: sound ones, and one small mutation for each rule."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.rendering import llmapi_stage, render, stage
from trtllm_forge.check.view import CheckOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtllm_forge.check.run import Report

    Mutation = Callable[[Path], object]

ENGINE_DIR = "tensorrt_llm/1/engine"
TOKENIZER_DIR = "preprocessing/1/tokenizer"
ENGINE_CONFIG: dict[str, Any] = {
    "version": "1.2.1",
    "pretrained_config": {
        "architecture": "GPTBigCodeForCausalLM",
        "dtype": "float16",
        "logits_dtype": "float32",
        "vocab_size": 16,
        "max_position_embeddings": 64,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
    },
    "build_config": {
        "max_batch_size": 64,
        "max_beam_width": 1,
        "max_num_tokens": 128,
        "max_seq_len": 64,
        "kv_cache_type": "PAGED",
        "speculative_decoding_mode": 1,
        "plugin_config": {
            "gemm_plugin": "float16",
            "lora_plugin": None,
            "remove_input_padding": True,
            "paged_kv_cache": True,
            "use_paged_context_fmha": True,
        },
    },
}
TOKENIZER = {
    "model": {"vocab": {"<end>": 0, "a": 1}},
    "added_tokens": [{"id": 0, "content": "<end>"}],
}
TOKENIZER_CONFIG = {"eos_token": "<end>", "pad_token": "<end>", "chat_template": "{{ messages }}"}
MODEL_YAML = """\
model: /models/tensorrt_llm/1/checkpoint
backend: pytorch
tensor_parallel_size: 1
max_batch_size: 64
kv_cache_config:
  free_gpu_memory_fraction: 0.9
triton_config:
  max_batch_size: 0
  decoupled: true
"""
OPTIONS = CheckOptions(trtllm_version="1.2.1", mount_root="/models")


def engine_repository(folder: Path) -> Path:
    """Return a repository as forge builds it around a TensorRT engine."""
    folder.mkdir(parents=True, exist_ok=True)
    root = render(folder, stage("trtllm", mount_root="/models"))
    shutil.rmtree(root / ENGINE_DIR)
    (root / ENGINE_DIR).mkdir()
    write_json(root / ENGINE_DIR / "config.json", ENGINE_CONFIG)
    described = {"runtime": "trtllm", "gpu_architecture": "sm_90"}
    write_json(root / ENGINE_DIR / "engine.json", described)
    (root / ENGINE_DIR / "rank0.engine").write_bytes(b"engine")
    write_json(root / TOKENIZER_DIR / "tokenizer.json", TOKENIZER)
    write_json(root / TOKENIZER_DIR / "tokenizer_config.json", TOKENIZER_CONFIG)
    return root


def upstream_repository(folder: Path) -> Path:
    """Return the same with Python models that are not forge's."""
    root = engine_repository(folder)
    for path in [*root.glob("*/1/*.py")]:
        if path.name == "model.py":
            path.write_text("class TritonPythonModel: ...\n")
        else:
            path.unlink()
    for path in root.glob("*/config.pbtxt"):
        path.write_text(path.read_text().partition("\n")[2])
    return root


def llmapi_repository(folder: Path) -> Path:
    """Return a repository of the one model over the LLM API."""
    folder.mkdir(parents=True, exist_ok=True)
    root = render(folder, llmapi_stage())
    checkpoint_dir = root / "tensorrt_llm/1/checkpoint"
    checkpoint_dir.mkdir(exist_ok=True)
    write_json(checkpoint_dir / "config.json", {"architectures": ["LlamaForCausalLM"]})
    write_json(checkpoint_dir / "tokenizer.json", TOKENIZER)
    (checkpoint_dir / "model.safetensors").write_bytes(b"weights")
    (root / "tensorrt_llm/1/model.yaml").write_text(MODEL_YAML)
    (root / "tensorrt_llm/1/model.py").write_text("class TritonPythonModel: ...\n")
    return root


BASES: dict[str, Callable[[Path], Path]] = {
    "forge": engine_repository,
    "upstream": upstream_repository,
    "llmapi": llmapi_repository,
}


@dataclass(frozen=True)
class Case:
    """A mutation that breaks a rule.

    Attributes:
        code: The rule.
        mutate: What breaks it.
        base: What is broken.
        path: Where the finding is.
        options: What is known of the server, in both the sound and the broken repository.
        broken_options: What is known where the options themselves are what breaks the rule.
    """

    code: str
    mutate: Mutation
    base: str = "forge"
    path: str | None = None
    options: CheckOptions = field(default=OPTIONS)
    broken_options: CheckOptions | None = None


def write_json(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def replace(path: str, old: str, new: str) -> Mutation:
    """Replace the first ``old`` in a file."""

    def mutate(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text, f"{old!r} is not in {path}"
        (root / path).write_text(text.replace(old, new, 1))

    return mutate


def append(path: str, text: str) -> Mutation:
    """Add text at the end of a file."""
    return lambda root: write(path, (root / path).read_text() + text)(root)


def write(path: str, content: str | bytes) -> Mutation:
    """Write a file."""

    def mutate(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return mutate


def remove(path: str) -> Mutation:
    """Remove a file or folder."""

    def mutate(root: Path) -> None:
        target = root / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    return mutate


def parameter(model: str, key: str, value: str) -> Mutation:
    """Give a parameter another value, or add it."""
    line = f'parameters: {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'

    def mutate(root: Path) -> None:
        path = root / model / "config.pbtxt"
        pattern = rf'parameters: \{{ key: "{key}" .*\n'
        text, count = re.subn(pattern, lambda _: line, path.read_text())
        path.write_text(text if count else text + line)

    return mutate


def drop_parameter(model: str, key: str) -> Mutation:
    """Remove a parameter."""

    def mutate(root: Path) -> None:
        path = root / model / "config.pbtxt"
        text = path.read_text()
        less = re.sub(rf'parameters: \{{ key: "{key}" .*\n', "", text)
        assert less != text
        path.write_text(less)

    return mutate


def engine(**changes: Any) -> Mutation:
    """Change the engine's ``config.json``; ``__`` leads into an object, None removes."""

    def mutate(root: Path) -> None:
        path = root / ENGINE_DIR / "config.json"
        document = json.loads(path.read_text())
        for names, value in changes.items():
            *parents, name = names.split("__")
            holder = document
            for parent in parents:
                holder = holder[parent]
            if value is None:
                del holder[name]
            else:
                holder[name] = value
        write_json(path, document)

    return mutate


def drop_tensor(model: str, name: str) -> Mutation:
    """Remove a tensor from a configuration."""

    def mutate(root: Path) -> None:
        path = root / model / "config.pbtxt"
        text = path.read_text()
        less = re.sub(rf'  \{{\n    name: "{name}"\n(    .*\n)*  \}},?\n', "", text, count=1)
        assert less != text
        path.write_text(re.sub(r"\},\n\]", "}\n]", less))

    return mutate


def tensor(model: str, name: str, old: str, new: str) -> Mutation:
    """Change a line of a tensor."""

    def mutate(root: Path) -> None:
        path = root / model / "config.pbtxt"
        head, mark, tail = path.read_text().partition(f'    name: "{name}"\n')
        assert mark, name
        body, end, rest = tail.partition("  }")
        assert old in body, body
        path.write_text(head + mark + body.replace(old, new) + end + rest)

    return mutate


def all_of(*mutations: Mutation) -> Mutation:
    """Apply several mutations."""

    def mutate(root: Path) -> None:
        for one in mutations:
            one(root)

    return mutate


def nothing(root: Path) -> None:
    """Change nothing: the options are what breaks the rule."""


def codes(report: Report) -> list[str]:
    """Return the codes of the findings, each once."""
    return sorted({finding.code for finding in report.findings})
