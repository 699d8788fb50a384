from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoint_builder import checkpoint_files, write_files
from tests.small_stage import printed
from trtllm_forge.errors import BuildError
from trtllm_forge.runtimes.trtllm.engine import (
    Engine,
    ExpectedEngine,
    read_engine,
    write_engine_document,
)

if TYPE_CHECKING:
    from pathlib import Path


def engine_config(**changes: Any) -> dict[str, Any]:
    values = {
        "version": "1.2.1",
        "tp_size": 2,
        "pp_size": 1,
        "quant_algo": "W4A16",
        "max_batch_size": 64,
        "max_seq_len": 64,
        "max_num_tokens": 8192,
        "max_beam_width": 1,
        **changes,
    }
    return {
        "version": values["version"],
        "pretrained_config": {
            "architecture": "GPTForCausalLM",
            "dtype": "float16",
            "logits_dtype": "float32",
            "max_position_embeddings": 64,
            "mapping": {"tp_size": values["tp_size"], "pp_size": values["pp_size"]},
            "quantization": {"quant_algo": values["quant_algo"], "kv_cache_quant_algo": None},
        },
        "build_config": {
            "max_batch_size": values["max_batch_size"],
            "max_seq_len": values["max_seq_len"],
            "max_num_tokens": values["max_num_tokens"],
            "max_beam_width": values["max_beam_width"],
            "max_draft_len": 0,
            "plugin_config": {"use_paged_context_fmha": True},
        },
    }


def engine_dir(folder: Path, *, ranks: int = 2, **changes: Any) -> Path:
    files = {f"rank{rank}.engine": b"engine" for rank in range(ranks)}
    config = json.dumps(engine_config(**changes)).encode()
    return write_files(folder / "engine", {"config.json": config, **files})


def expected(**changes: Any) -> ExpectedEngine:
    values: dict[str, Any] = {
        "version": "1.2.1",
        "tp_size": 2,
        "pp_size": 1,
        "max_batch_size": 64,
        "max_seq_len": 64,
        "max_num_tokens": None,
        "max_beam_width": 1,
        "precision": "int4",
        "quant_algo": "W4A16",
        **changes,
    }
    return ExpectedEngine(**values)


def test_engine_is_read_back_whole(tmp_path: Path) -> None:
    engine = read_engine(engine_dir(tmp_path))
    assert engine == Engine(
        version="1.2.1",
        tp_size=2,
        pp_size=1,
        dtype="float16",
        logits_dtype="float32",
        quant_algo="W4A16",
        kv_cache_quant_algo=None,
        max_batch_size=64,
        max_seq_len=64,
        max_num_tokens=8192,
        max_beam_width=1,
        max_draft_len=0,
        has_paged_context=True,
        rank_files=("rank0.engine", "rank1.engine"),
    )
    assert engine.world_size == 2
    engine.require(expected())


def test_length_that_was_left_to_the_tool_is_the_models(tmp_path: Path) -> None:
    assert read_engine(engine_dir(tmp_path, max_seq_len=None)).max_seq_len == 64


@pytest.mark.parametrize(
    "version", ["1.2.1", "1.2.1+cu13"], ids=["release", "build-of-the-release"]
)
def test_build_of_the_release_is_the_release(tmp_path: Path, version: str) -> None:
    engine = read_engine(engine_dir(tmp_path, version=version))
    engine.require(expected())
    with pytest.raises(BuildError, match=re.escape(f"the engine has version {version}")):
        engine.require(expected(version="1.2.2"))


DIFFERENCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "version": ({"version": "1.2.0"}, "version 1.2.0", "version 1.2.1"),
    "tp_size": ({"tp_size": 1, "pp_size": 2}, "tp_size 1, pp_size 2", "tp_size 2, pp_size 1"),
    "max_batch_size": ({"max_batch_size": 8}, "max_batch_size 8", "max_batch_size 64"),
    "max_beam_width": ({"max_beam_width": 2}, "max_beam_width 2", "max_beam_width 1"),
    "max_seq_len": ({"max_seq_len": 32}, "max_seq_len 32", "max_seq_len 64"),
    "quant_algo": ({"quant_algo": None}, "quant_algo None", "quant_algo W4A16"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_engine_that_is_another_than_asked_for_is_refused(tmp_path: Path, name: str) -> None:
    changes, found, wanted = DIFFERENCES[name]
    engine = read_engine(engine_dir(tmp_path, **changes))
    with pytest.raises(BuildError) as caught:
        engine.require(expected())
    text = f"error: the engine has {found}\n  why:  expected {wanted}"
    assert printed(caught.value) == (text, 5)


def test_limit_that_was_left_to_the_tool_is_not_compared(tmp_path: Path) -> None:
    engine = read_engine(engine_dir(tmp_path, max_seq_len=32))
    engine.require(expected(max_seq_len=None))
    with pytest.raises(BuildError, match="the engine has max_seq_len 32"):
        engine.require(expected(max_seq_len=64))


@pytest.mark.parametrize("precision", ["int8_sq", "int4_gptq"])
def test_scales_that_the_tool_names_are_not_compared(tmp_path: Path, precision: str) -> None:
    engine = read_engine(engine_dir(tmp_path, quant_algo="W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"))
    engine.require(expected(precision=precision))
    with pytest.raises(BuildError, match="the engine has quant_algo W8A8_SQ_PER_CHANNEL"):
        engine.require(expected(precision="int4"))


@pytest.mark.parametrize("is_empty", [False, True], ids=["absent", "empty"])
def test_missing_rank_is_named(tmp_path: Path, is_empty: bool) -> None:
    folder = engine_dir(tmp_path, ranks=1)
    if is_empty:
        write_files(folder, {"rank1.engine": b""})
    with pytest.raises(BuildError) as caught:
        read_engine(folder).require(expected())
    assert printed(caught.value) == (
        "error: the engine has 1 of 2 rank files\n"
        "  why:  trtllm-build ended without an error, but rank1.engine is missing or empty",
        5,
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            b"{",
            "JSONDecodeError: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)",
        ),
        (b"{}", "KeyError: 'pretrained_config'"),
        (b"[]", "TypeError: list indices must be integers or slices, not str"),
    ],
    ids=["torn", "empty", "list"],
)
def test_configuration_of_another_shape_is_refused(
    tmp_path: Path, content: bytes, why: str
) -> None:
    folder = write_files(tmp_path, {"config.json": content})
    with pytest.raises(BuildError) as caught:
        read_engine(folder)
    path = folder / "config.json"
    text = f"error: {path} is not an engine's configuration\n  why:  {why}"
    assert printed(caught.value) == (text, 5)


def test_description_says_what_the_repository_needs_to_know(tmp_path: Path) -> None:
    source = {"repo_id": "org/coder", "revision": "abc", "family": "starcoder"}
    checkpoint_dir = write_files(
        tmp_path / "hf", checkpoint_files(checkpoint__json=json.dumps(source).encode())
    )
    folder = engine_dir(tmp_path)
    write_engine_document(folder, read_engine(folder), checkpoint_dir, gpu_architecture="sm_90")
    assert json.loads((folder / "engine.json").read_text(encoding="utf-8")) == {
        "schema": 1,
        "runtime": "trtllm",
        "trtllm_version": "1.2.1",
        "gpu_architecture": "sm_90",
        "architecture": "GPTBigCodeForCausalLM",
        "dtype": "float16",
        "logits_dtype": "float32",
        "quant_algo": "W4A16",
        "kv_cache_quant_algo": None,
        "tp_size": 2,
        "pp_size": 1,
        "max_batch_size": 64,
        "max_beam_width": 1,
        "max_num_tokens": 8192,
        "max_draft_len": 0,
        "max_seq_len": 64,
        "max_input_len": 63,
        "vocab_size": 16,
        "num_layers": 2,
        "num_kv_heads": 1,
        "head_dim": 4,
        "eos_token_ids": [0],
        "source": {"repo_id": "org/coder", "revision": "abc"},
    }
