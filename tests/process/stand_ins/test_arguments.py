"""What forge composes for every architecture is taken by parsers made from upstream's sources.

The parsers' tables are the stand-in toolchain's own, so a mistake in forge's packaged tables, or
in how it reads them, shows here.
"""

from __future__ import annotations

import itertools
import json
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.checkpoint_builder import checkpoint_files, write_files
from tests.stand_ins.toolchain import TABLES_DIR, read_table
from tests.stand_ins.toolchain.invocation import parser_of
from trtllm_forge.checkpoint.architectures import known_architectures
from trtllm_forge.checkpoint.contents import read_checkpoint_config
from trtllm_forge.config.schema import BuildSection, ForgeConfig
from trtllm_forge.errors import ConfigError
from trtllm_forge.machine.executors.local import LocalExecutor
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.runtimes.trtllm import TrtLlmRuntime
from trtllm_forge.runtimes.trtllm.tools import Tools

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

RELEASES = ("0.16.0", "1.2.1")
PRECISIONS = (
    *("fp16", "bf16", "int8", "int4"),
    *("int4_awq", "w4a8_awq", "int8_sq", "fp8", "nvfp4"),
)
KV_CACHES = (None, "int8", "fp8")
MAPPINGS = ((1, 1), (2, 1), (1, 2), (4, 2), (8, 1))
FAMILIES = {
    architecture: family
    for family, names in json.loads(
        (TABLES_DIR / "architectures.json").read_text(encoding="utf-8")
    ).items()
    for architecture in names
}


class RefusedArgumentsError(Exception):
    """A parser's own words about a command line."""


def refuse(message: str) -> NoReturn:
    raise RefusedArgumentsError(message)


@cache
def parser_for(release: str, tool: str, family: str) -> tuple[str, argparse.ArgumentParser]:
    """Return where a tool lies, below TensorRT-LLM's folder, and its parser."""
    table = read_table(release)
    row = table["converters"][family] if tool == "convert_checkpoint.py" else table[tool]
    parser = parser_of(tool, row["arguments"])
    parser.error = refuse  # type: ignore[method-assign]
    return row.get("path", ""), parser


def parse(release: str, argv: Sequence[str], architecture: str) -> argparse.Namespace:
    """Parse one command as the tool it starts would."""
    if argv[0] == "trtllm-build":
        return parser_for(release, "trtllm-build", "")[1].parse_args(argv[1:])
    tool = "quantize" if argv[1].endswith("/quantize.py") else "convert_checkpoint.py"
    family = "" if tool == "quantize" else FAMILIES[architecture]
    path, parser = parser_for(release, tool, family)
    assert argv[1] == f"/app/{path}"
    return parser.parse_args(argv[2:])


def checkpoint_dir(root: Path, architecture: str) -> Path:
    config = {
        "architectures": [architecture],
        "model_type": "any",
        **dict.fromkeys(("hidden_size", "n_embd", "d_model", "max_position_embeddings"), 64),
        **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_hidden_layers"), 8),
        **dict.fromkeys(("n_layer", "n_layers", "num_key_value_heads"), 8),
        "intermediate_size": 128,
        "vocab_size": 16,
        "eos_token_id": 0,
    }
    return write_files(root, checkpoint_files(config__json=json.dumps(config).encode()))


def builds() -> Iterator[BuildSection]:
    for precision, kv_cache, sizes in itertools.product(PRECISIONS, KV_CACHES, MAPPINGS):
        fields: dict[str, Any] = {"precision": precision, "kv_cache": kv_cache}
        yield BuildSection(**fields, tp_size=sizes[0], pp_size=sizes[1])


def runtime_for(release: str, architecture: str, root: Path, gpu: str) -> TrtLlmRuntime:
    tools = Tools(
        release=read_catalogue().find(release),
        executor=LocalExecutor(toolchain=None, release=release),
        python="python3",
        builder="trtllm-build",
        examples_dir="/app/examples",
        mounts=(),
        gpu_count=8,
        gpu_memory_bytes=80 * 1024**3,
        gpu_architecture=gpu,
        free_memory_bytes=1024**4,
        cpu_count=8,
    )
    return TrtLlmRuntime(
        architecture=known_architectures()[architecture],
        tools=tools,
        # More than a GPU holds, so that the switches for that are there too.
        weights_bytes=70 * 1024**3,
        cache_dir=root / "cache",
        has_examples=True,
        own_architecture="",
    )


def engine_architectures(release: str) -> list[str]:
    known = read_catalogue().find(release)
    return [
        name
        for name, one in known_architectures().items()
        if one.has_flow("engine", known) and name in FAMILIES
    ]


@pytest.mark.parametrize(
    ("release", "architecture"),
    [(release, name) for release in RELEASES for name in engine_architectures(release)],
)
def test_every_composed_command_is_taken_and_means_what_was_asked(
    tmp_path: Path, release: str, architecture: str
) -> None:
    folder = checkpoint_dir(tmp_path / "hf", architecture)
    checkpoint = read_checkpoint_config(folder)
    inputs = {"download": folder, "convert": tmp_path / "checkpoint"}
    taken = 0
    for build in builds():
        gpu = "sm_100" if build.precision == "nvfp4" else "sm_90"
        runtime = runtime_for(release, architecture, tmp_path, gpu)
        config = ForgeConfig(model=str(folder), build=build)
        try:
            runtime.require_support(config, checkpoint)
        except ConfigError:
            continue
        convert, compile_engine = runtime.stages(config, checkpoint)
        (made,) = convert.commands(tmp_path / ".made", inputs)
        (built,) = compile_engine.commands(tmp_path / ".built", inputs)
        converted = parse(release, made.argv, architecture)
        tp_size = getattr(converted, "tp_size", None) or converted.world_size
        assert (tp_size, getattr(converted, "pp_size", 1)) == (build.tp_size, build.pp_size)
        compiled = parse(release, built.argv, architecture)
        assert compiled.checkpoint_dir == str(inputs["convert"])
        taken += 1
    assert taken, f"{release} builds no precision of {architecture}"


def test_seventeen_named_architectures_are_among_them() -> None:
    named = {
        *("GPTBigCodeForCausalLM", "Starcoder2ForCausalLM", "LlamaForCausalLM"),
        *("MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
        *("GemmaForCausalLM", "Gemma2ForCausalLM", "Phi3ForCausalLM", "FalconForCausalLM"),
        *("MptForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "GPTJForCausalLM"),
        *("BloomForCausalLM", "DeepseekV2ForCausalLM"),
    }
    assert named <= set(engine_architectures("1.2.1"))
    # Qwen3 came with 1.0, and so did the spelling of MPT that transformers has.
    later = {"Qwen3ForCausalLM", "MptForCausalLM"}
    assert named - set(engine_architectures("0.16.0")) == later
    assert "MPTForCausalLM" in engine_architectures("0.16.0")
