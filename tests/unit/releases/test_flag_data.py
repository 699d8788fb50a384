"""The packaged facts of TensorRT-LLM's tools hold together: tables, releases, architectures."""

from __future__ import annotations

import argparse
import json
import re
from functools import lru_cache
from typing import Any

import pytest

from trtllm_forge.files.resources import data_path, read_yaml

TOOLS = ("convert_checkpoint", "quantize", "trtllm_build")
RELEASES = ["0.16", "0.17", "0.18", "0.19", "0.20", "0.21", "1.0", "1.1", "1.2"]
FLAG_KEYS = {
    *("name", "aliases", "type", "action", "default", "choices", "required", "nargs", "const"),
    *("group", "deprecated", "note"),
}
TYPES = {"str", "int", "float", "flag", "Path", "CheckpointType", "KVCacheType"}
SOURCE = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}:[\w./-]+")
PROMISED = {
    *("GPTBigCodeForCausalLM", "Starcoder2ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"),
    *("MixtralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM"),
    *("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM", "FalconForCausalLM"),
    *("MPTForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "GPTJForCausalLM"),
    *("BloomForCausalLM", "OPTForCausalLM", "DeepseekV2ForCausalLM"),
}
WEIGHT_ONLY = {"int8", "int4"}
BY_QUANTIZE = {"int4_awq", "w4a8_awq", "int8_sq", "fp8", "nvfp4"}
PRECISIONS = {"fp16", "bf16", "int4_gptq", *WEIGHT_ONLY, *BY_QUANTIZE}


@lru_cache(maxsize=3)
def read_facts(tool: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(data_path(f"flags/{tool}.json").read_text(encoding="utf-8"))
    return facts


def all_tables() -> dict[str, dict[str, Any]]:
    """Return every table of flags by tool, snapshot and family."""
    tables = {}
    for tool in TOOLS:
        for name, snapshot in read_facts(tool)["snapshots"].items():
            for family, table in snapshot.get("families", {"": snapshot}).items():
                tables[f"{tool} {name} {family}".strip()] = table
    return tables


def spellings(flag: dict[str, Any]) -> list[str]:
    return [flag["name"], *flag.get("aliases", [])]


def parser_of(table: dict[str, Any]) -> argparse.ArgumentParser:
    """Return the parser that a table describes, as upstream's own would be made."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    kinds = {"int": int, "float": float}
    for flag in table["flags"]:
        if flag["type"] == "flag":
            parser.add_argument(*spellings(flag), action="store_true")
            continue
        kept = {key: flag[key] for key in ("choices", "nargs", "const") if key in flag}
        parser.add_argument(
            *spellings(flag),
            type=kinds.get(flag["type"], str),
            default=flag["default"],
            required=flag.get("required", False),
            **kept,
        )
    return parser


TABLES = all_tables()
ARCHITECTURES: dict[str, dict[str, Any]] = read_yaml("architectures.yaml")["architectures"]
ENGINE = {name: row for name, row in ARCHITECTURES.items() if row["engine_flow"]}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_release_of_the_engine_flow_has_a_snapshot_and_says_how_near_it_is(tool: str) -> None:
    facts = read_facts(tool)
    assert facts["schema"] == 1
    assert list(facts["releases"]) == RELEASES
    for row in facts["releases"].values():
        assert set(row) == {"snapshot", "evidence", "note"}
        assert row["note"]
        assert row["evidence"] == ("exact" if is_exact(facts, row["snapshot"]) else "nearest")
    assert {row["snapshot"] for row in facts["releases"].values()} == set(facts["snapshots"])


def is_exact(facts: dict[str, Any], snapshot: str) -> bool:
    exact: bool = facts["snapshots"][snapshot]["exact"]
    return exact


@pytest.mark.parametrize("name", TABLES)
def test_a_table_names_its_source_and_spells_no_option_twice(name: str) -> None:
    table = TABLES[name]
    assert SOURCE.match(table["source"]), table["source"]
    names = [spelling for flag in table["flags"] for spelling in spellings(flag)]
    assert len(names) == len(set(names))
    for flag in table["flags"]:
        assert set(flag) <= FLAG_KEYS
        assert flag["type"] in TYPES
        assert all(re.fullmatch(r"--?[a-z][\w-]*", word) for word in spellings(flag))
        if flag["type"] == "flag":
            assert not {"choices", "nargs", "required"} & set(flag)
        elif "choices" in flag and flag["default"] not in (None, "<unset>"):
            assert flag["default"] in flag["choices"]


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("convert")])
def test_a_converter_that_was_read_elsewhere_says_so(name: str) -> None:
    table, snapshot = TABLES[name], name.split()[1]
    assert table["evidence"] in {"0.16": {"read"}, "0.17": {"read", "from 0.16"}}.get(
        snapshot, {"read", "moved from 0.16"}
    )
    if table["evidence"] == "read":
        assert table["source"].endswith(f":{table['path']}")


def test_converters_moved_below_models_in_0_20() -> None:
    facts = read_facts("convert_checkpoint")
    folders = {
        release: {
            table["path"].rsplit("/", 2)[0]
            for table in facts["snapshots"][row["snapshot"]]["families"].values()
        }
        for release, row in facts["releases"].items()
    }
    moved = {"examples/models/core", "examples/models/contrib"}
    assert folders == {
        **{release: {"examples"} for release in RELEASES[:4]},
        **{release: moved for release in RELEASES[4:]},
    }


@pytest.mark.parametrize("name", TABLES)
def test_a_parser_of_the_table_takes_its_required_options_and_refuses_others(name: str) -> None:
    table = TABLES[name]
    parser = parser_of(table)
    needed = [word for need in table.get("needs", []) for word in need]
    for flag in table["flags"]:
        if flag.get("required") and flag["name"] not in needed:
            needed += [flag["name"], "x"]
    _, unknown = parser.parse_known_args([*needed, "--no-such-option"])
    assert unknown == ["--no-such-option"]


def test_the_int4_command_of_starcoder_parses_in_every_snapshot() -> None:
    argv = ["--model_dir", "in", "--gpt_variant", "starcoder", "--dtype", "float16"]
    argv += ["--use_weight_only", "--weight_only_precision", "int4", "--tp_size", "2"]
    argv += ["--pp_size", "1", "--workers", "2", "--load_model_on_cpu", "--output_dir", "out"]
    for snapshot in read_facts("convert_checkpoint")["snapshots"].values():
        parsed = parser_of(snapshot["families"]["gpt"]).parse_args(argv)
        assert parsed.weight_only_precision == "int4"
        assert parsed.gpt_variant == "starcoder"


def test_gemma_is_converted_by_its_own_spellings() -> None:
    facts = read_facts("convert_checkpoint")
    for snapshot in ("0.16", "1.2"):
        table = facts["snapshots"][snapshot]["families"]["gemma"]
        known = {word for flag in table["flags"] for word in spellings(flag)}
        assert {"--ckpt-type", "--model-dir", "--output-model-dir", "--world-size"} <= known
        assert "--use-weight-only-with-precision" in known
        assert "--pp_size" not in known
        assert table["needs"] == [["--ckpt-type", "hf"]]


def test_converters_without_pipeline_parallelism_are_these() -> None:
    families = read_facts("convert_checkpoint")["snapshots"]["1.2"]["families"]
    assert {name for name, table in families.items() if table.get("max_pp_size") == 1} == {
        *("bloom", "chatglm", "gemma", "gptneox", "mamba", "opt", "phi", "recurrentgemma")
    }


def test_every_promised_architecture_is_built_by_some_release() -> None:
    assert set(ENGINE) >= PROMISED


@pytest.mark.parametrize("name", ENGINE)
def test_an_engine_architecture_has_a_converter_in_every_snapshot(name: str) -> None:
    row = ENGINE[name]
    for snapshot in read_facts("convert_checkpoint")["snapshots"].values():
        assert row["converter"] in snapshot["families"]
    assert row["engine_since"] is None or row["engine_since"] in RELEASES


@pytest.mark.parametrize("name", ENGINE)
def test_weight_only_is_promised_exactly_where_the_converter_takes_it(name: str) -> None:
    row = ENGINE[name]
    for snapshot in read_facts("convert_checkpoint")["snapshots"].values():
        taken: set[str] = set()
        for flag in snapshot["families"][row["converter"]]["flags"]:
            if {"--weight_only_precision", "--use-weight-only-with-precision"} & {*spellings(flag)}:
                taken = set(flag["choices"])
        assert set(row["precisions"]) & WEIGHT_ONLY == taken & WEIGHT_ONLY


@pytest.mark.parametrize("name", ENGINE)
def test_calibrated_precisions_are_formats_of_quantize_for_a_model_it_names(name: str) -> None:
    row = ENGINE[name]
    precisions = set(row["precisions"])
    assert precisions <= PRECISIONS
    assert precisions >= {"fp16", "bf16"}
    table = read_facts("quantize")["snapshots"]["1.0"]
    formats = next(flag["choices"] for flag in table["flags"] if flag["name"] == "--qformat")
    if precisions & BY_QUANTIZE:
        assert row["modelopt"]
        assert precisions & BY_QUANTIZE <= set(formats)


def test_variants_are_words_of_the_gpt_converter() -> None:
    table = read_facts("convert_checkpoint")["snapshots"]["1.2"]["families"]["gpt"]
    words = next(flag["choices"] for flag in table["flags"] if flag["name"] == "--gpt_variant")
    variants = {name: row["gpt_variant"] for name, row in ENGINE.items() if "gpt_variant" in row}
    assert variants == {
        "GPT2LMHeadCustomModel": "santacoder",
        "GPT2LMHeadModel": "gpt2",
        "GPTBigCodeForCausalLM": "starcoder",
        "GPTForCausalLM": None,
        "JAISLMHeadModel": None,
        "NemotronForCausalLM": "nemotron",
        "Starcoder2ForCausalLM": "starcoder2",
    }
    assert set(variants.values()) <= set(words)


def test_sources_of_an_architecture_are_keys_of_the_list_and_all_of_them_are_used() -> None:
    named = {key for row in ARCHITECTURES.values() for key in row["source"]}
    named |= {key for row in ENGINE.values() for key in row["precision_source"]}
    assert named == set(read_yaml("architectures.yaml")["sources"])


def test_starcoder_1_is_built_by_the_engine_flow_alone() -> None:
    row = dict(ARCHITECTURES["GPTBigCodeForCausalLM"])
    assert row.pop("note")
    assert row == {
        "family": "gpt",
        "engine_flow": True,
        "engine_since": None,
        "converter": "gpt",
        "gpt_variant": "starcoder",
        "modelopt": True,
        "precisions": ["fp16", "bf16", "int8", "int4"],
        "unlisted": ["int4_awq", "fp8"],
        "precision_source": ["convert", "table"],
        "pytorch_backend": False,
        "source": ["engine"],
    }
