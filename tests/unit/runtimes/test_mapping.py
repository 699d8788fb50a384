from __future__ import annotations

from typing import Any

import pytest

from tests.engine_runtime import engine_checkpoint, engine_config, engine_runtime, typed_flags
from tests.small_stage import printed
from trtllm_forge.config.load import load_flags
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.releases.flags import find_flags
from trtllm_forge.runtimes.trtllm.mapping import require_mapping


def check(line: str, *, family: str = "gpt", version: str = "1.2.1", **checkpoint: Any) -> None:
    release = read_catalogue().find(version)
    table = find_flags("convert_checkpoint", release, family=family)
    config = load_flags(typed_flags(line)).config
    require_mapping(config, engine_checkpoint(**checkpoint), release, table)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "converter-without-pipelines": (
        {"line": "--tp 2 --pp 2", "family": "gemma"},
        "error: gemma/convert_checkpoint.py of TensorRT-LLM 1.2.1 supports pp_size up to 1, 2 was "
        "requested\n"
        "  try:  forge build org/model --tp 4 --pp 1",
    ),
    "as-many-tensor-ranks-as-there-can-be": (
        {"line": "--tp 8 --pp 8", "family": "gemma", "num_heads": 8},
        "error: gemma/convert_checkpoint.py of TensorRT-LLM 1.2.1 supports pp_size up to 1, 8 was "
        "requested\n"
        "  try:  forge build org/model --tp 8 --pp 1",
    ),
    "heads": (
        {"line": "--tp 8 --int8", "num_heads": 36, "num_kv_heads": 4},
        "error: 36 attention heads cannot be split over tp_size 8\n"
        "  try:  forge build org/model --int8 --tp 4",
    ),
    "kv-heads": (
        {"line": "--tp 4", "num_heads": 12, "num_kv_heads": 6},
        "error: 6 KV heads can be neither split over tp_size 4 nor repeated for it\n"
        "  try:  forge build org/model --tp 3",
    ),
    "more-ranks-than-layers": (
        {"line": "--pp 8", "num_layers": 5},
        "error: 5 layers cannot be split over pp_size 8\n  try:  forge build org/model --pp 5",
    ),
    "uneven-layers-of-an-old-release": (
        {"line": "--pp 4 --trtllm-version 0.18.2", "num_layers": 30, "version": "0.18.2"},
        "error: 30 layers cannot be split over pp_size 4\n"
        "  why:  TensorRT-LLM 0.18.2 needs equal stages; any split works since 0.20\n"
        "  try:  forge build org/model --trtllm-version 0.18.2 --pp 3",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_size_the_model_cannot_be_split_into_is_refused_with_the_nearest_that_works(
    name: str,
) -> None:
    arguments, text = REFUSALS[name]
    values = dict(arguments)
    line = f"forge build org/model {values.pop('line')}"
    with pytest.raises(ConfigError) as caught:
        check(line, **values)
    assert printed(caught.value) == (text, 2)
    check(caught.value.hint, **values)


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_one_kv_head_is_repeated_for_every_rank(tp_size: int) -> None:
    check(f"forge build org/model --tp {tp_size}", num_kv_heads=1)


@pytest.mark.parametrize("tp_size", [2, 4, 8])
def test_three_kv_heads_are_not_repeated(tp_size: int) -> None:
    with pytest.raises(
        ConfigError, match=f"3 KV heads can be neither split over tp_size {tp_size} nor"
    ):
        check(f"forge build org/model --tp {tp_size}", num_heads=24, num_kv_heads=3)


def test_layers_that_do_not_divide_are_taken_since_0_20() -> None:
    check("forge build org/model --pp 4", num_layers=30, version="0.20.0")
    with pytest.raises(ConfigError, match="30 layers cannot be split over pp_size 4"):
        check("forge build org/model --pp 4", num_layers=30, version="0.19.0")


def test_model_of_unknown_heads_is_left_to_the_tool() -> None:
    check("forge build org/model --tp 8 --pp 8", num_heads=0, num_kv_heads=0, num_layers=0)
    with pytest.raises(ConfigError, match="4 attention heads cannot be split over tp_size 8"):
        check("forge build org/model --tp 8 --pp 8", num_heads=4, num_kv_heads=0, num_layers=0)


def test_runtime_asks_before_anything_runs() -> None:
    config = engine_config("--tp 5")
    with pytest.raises(ConfigError, match="32 attention heads cannot be split over tp_size 5"):
        engine_runtime().require_support(config, engine_checkpoint())
