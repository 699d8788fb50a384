"""The stand-in toolchain takes what upstream takes, refuses the rest, and writes its layouts."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.checkpoint_builder import checkpoint_files, config_bytes, write_files
from tests.process.stand_in_runs import (
    INT4,
    compile_engine,
    convert,
    last_line,
    names_in,
    quantize,
    read_json,
    run,
    starcoder,
)
from tests.stand_ins.toolchain import (
    A10G,
    B200,
    StandInToolchain,
    install_toolchain,
    read_table,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def toolchain(tmp_path: Path) -> StandInToolchain:
    return install_toolchain(tmp_path / "toolchain", "1.2.1")


@pytest.fixture
def hf_dir(tmp_path: Path) -> Path:
    return write_files(tmp_path / "hf", checkpoint_files())


@pytest.mark.parametrize(
    ("release", "path"),
    [
        ("0.16.0", "examples/gpt/convert_checkpoint.py"),
        ("1.2.1", "examples/models/core/gpt/convert_checkpoint.py"),
    ],
)
def test_each_release_keeps_its_converters_where_upstream_does(
    tmp_path: Path, release: str, path: str
) -> None:
    toolchain = install_toolchain(tmp_path, release)
    assert toolchain.converter_path("gpt") == tmp_path / path
    for family in read_table(release)["converters"]:
        assert toolchain.converter_path(family).is_file()
    assert toolchain.quantize_path == tmp_path / "examples/quantization/quantize.py"


def test_a_release_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no stand-in for TensorRT-LLM 1\.0\.0: there are"):
        install_toolchain(tmp_path, "1.0.0")


@pytest.mark.parametrize("release", ["0.16.0", "1.2.1"])
def test_a_checkpoint_becomes_an_engine_in_upstreams_layout(tmp_path: Path, release: str) -> None:
    toolchain = install_toolchain(tmp_path / "toolchain", release)
    hf_dir = write_files(tmp_path / "hf", checkpoint_files())
    assert starcoder(toolchain, hf_dir, "--tp_size", "2", *INT4).returncode == 0
    checkpoint = read_json(tmp_path / "checkpoint" / "config.json")
    assert names_in(tmp_path / "checkpoint") == [
        "config.json",
        "rank0.safetensors",
        "rank1.safetensors",
    ]
    assert checkpoint["architecture"] == "GPTBigCodeForCausalLM"
    assert checkpoint["gpt_variant"] == "starcoder"
    assert checkpoint["num_key_value_heads"] == 1
    assert checkpoint["mapping"] == {
        "world_size": 2,
        "gpus_per_node": 8,
        "cp_size": 1,
        "tp_size": 2,
        "pp_size": 1,
        "moe_tp_size": 2,
        "moe_ep_size": 1,
    }
    assert checkpoint["quantization"]["quant_algo"] == "W4A16"

    limits = ("--max_batch_size", "8", "--max_seq_len", "64", "--max_num_tokens", "128")
    built = compile_engine(toolchain, hf_dir, *limits, "--gemm_plugin", "auto")
    assert built.returncode == 0, built.stderr
    assert names_in(tmp_path / "engine") == ["config.json", "rank0.engine", "rank1.engine"]
    engine = read_json(tmp_path / "engine" / "config.json")
    assert sorted(engine) == ["build_config", "pretrained_config", "version"]
    assert engine["version"] == release
    assert engine["pretrained_config"] == checkpoint
    limits_read = [
        engine["build_config"][f"max_{name}"] for name in ("batch_size", "seq_len", "num_tokens")
    ]
    assert limits_read == [8, 64, 128]
    assert engine["build_config"]["plugin_config"]["gemm_plugin"] == "float16"
    assert engine["build_config"]["kv_cache_type"] == "PAGED"
    assert read_json(tmp_path / "timing.cache") == {"builds": 1}


def test_weights_are_valid_safetensors_that_differ_by_rank(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    starcoder(toolchain, hf_dir, "--tp_size", "2")
    contents = [
        (hf_dir.parent / "checkpoint" / f"rank{rank}.safetensors").read_bytes() for rank in (0, 1)
    ]
    assert contents[0] != contents[1]
    for content in contents:
        (size,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + size])
        ((name, tensor),) = header.items()
        assert name == "transformer.vocab_embedding.weight"
        assert tensor["data_offsets"][1] == len(content) - 8 - size


def test_two_builds_of_one_engine_differ_and_share_the_timing_cache(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    starcoder(toolchain, hf_dir)
    cache = str(hf_dir.parent / "timing.cache")
    engines = []
    for _ in range(2):
        compile_engine(toolchain, hf_dir, "--input_timing_cache", cache)
        engines.append((hf_dir.parent / "engine" / "rank0.engine").read_bytes())
    assert engines[0] != engines[1]
    assert read_json(hf_dir.parent / "timing.cache") == {"builds": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(("--tp", "2"), "unrecognized arguments: --tp 2", id="abbreviation"),
        pytest.param(
            ("--dtype", "fp16"),
            "argument --dtype: invalid choice: 'fp16'",
            id="bad choice",
        ),
        pytest.param(
            ("--tp_size", "two"), "argument --tp_size: invalid int value: 'two'", id="no number"
        ),
        pytest.param(
            ("--use_fp8",), "unrecognized arguments: --use_fp8", id="flag of another family"
        ),
    ],
)
def test_converter_refuses_what_upstream_does_not_take(
    toolchain: StandInToolchain, hf_dir: Path, options: tuple[str, ...], message: str
) -> None:
    refused = starcoder(toolchain, hf_dir, *options)
    assert refused.returncode == 2
    assert last_line(refused).startswith(f"convert_checkpoint.py: error: {message}")
    assert not (hf_dir.parent / "checkpoint").exists()


def test_trtllm_build_takes_no_parallel_sizes_and_no_unknown_plugin_value(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    sizes = compile_engine(toolchain, hf_dir, "--tp_size", "2")
    assert (sizes.returncode, last_line(sizes)) == (
        2,
        "trtllm-build: error: unrecognized arguments: --tp_size 2",
    )
    value = compile_engine(toolchain, hf_dir, "--gemm_plugin", "enable")
    assert value.returncode == 2
    assert "argument --gemm_plugin: invalid choice: 'enable'" in last_line(value)


def test_flags_of_one_release_are_refused_by_the_other(tmp_path: Path, hf_dir: Path) -> None:
    old = install_toolchain(tmp_path / "old", "0.16.0")
    new = install_toolchain(tmp_path / "new", "1.2.1")
    assert starcoder(new, hf_dir).returncode == 0
    assert compile_engine(old, hf_dir, "--auto_parallel", "1").returncode == 0
    assert compile_engine(new, hf_dir, "--auto_parallel", "1").returncode == 2
    assert compile_engine(new, hf_dir, "--norm_quant_fusion", "disable").returncode == 0
    assert compile_engine(old, hf_dir, "--norm_quant_fusion", "disable").returncode == 2


def test_gpt_variant_is_guessed_from_the_path_or_the_assertion_fails(
    toolchain: StandInToolchain, tmp_path: Path
) -> None:
    nameless = write_files(tmp_path / "model", checkpoint_files())
    failed = convert(toolchain, nameless)
    assert (failed.returncode, last_line(failed)) == (1, "AssertionError")
    named = write_files(tmp_path / "bigcode-starcoder-7b", checkpoint_files())
    assert "Gpt variant: starcoder\n" in convert(toolchain, named).stdout
    later = write_files(tmp_path / "starcoder2-3b", checkpoint_files())
    assert "Gpt variant: starcoder2\n" in convert(toolchain, later).stdout


def test_gemma_has_its_own_flags_and_needs_to_know_the_kind_of_checkpoint(
    tmp_path: Path, hf_dir: Path
) -> None:
    (hf_dir / "config.json").write_bytes(config_bytes("GemmaForCausalLM"))
    toolchain = install_toolchain(tmp_path / "toolchain", "0.16.0")
    script = str(toolchain.converter_path("gemma"))
    output_dir = str(tmp_path / "checkpoint")
    argv = [sys.executable, script, "--model-dir", str(hf_dir), "--output-model-dir", output_dir]
    options = ["--world-size", "2", "--use-weight-only-with-precision", "int4"]
    unknown = run(toolchain, [*argv, *options])
    assert (unknown.returncode, last_line(unknown)) == (1, "KeyError: None")
    converted = run(toolchain, [*argv, "--ckpt-type", "hf", *options])
    assert converted.returncode == 0, converted.stderr
    config = read_json(tmp_path / "checkpoint" / "config.json")
    assert config["mapping"]["tp_size"] == 2
    assert config["quantization"]["quant_algo"] == "W4A16"
    assert run(toolchain, [*argv, "--tp_size", "2"]).returncode == 2


def test_missing_config_and_missing_weights_are_told_apart(
    toolchain: StandInToolchain, tmp_path: Path
) -> None:
    files = checkpoint_files()
    weights = {"model.safetensors": files.pop("model.safetensors")}
    without = starcoder(toolchain, write_files(tmp_path / "a", files))
    assert "Could not find any .safetensors or .bin files in" in last_line(without)
    without = starcoder(toolchain, write_files(tmp_path / "b", weights))
    assert "does not appear to have a file named config.json" in last_line(without)


def test_a_converter_refuses_the_architectures_of_other_families(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    refused = convert(toolchain, hf_dir, family="llama")
    assert refused.returncode == 1
    assert refused.stderr == (
        "stand-in convert_checkpoint.py: the llama converter does not read GPTBigCodeForCausalLM\n"
    )


def test_heads_that_cannot_be_shared_fail_the_conversion(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    failed = starcoder(toolchain, hf_dir, "--tp_size", "4")
    assert last_line(failed) == "AssertionError: num_attention_heads must be divisible by tp_size"


@pytest.mark.parametrize(
    ("family", "architecture", "options", "error"),
    [
        ("phi", "Phi3ForCausalLM", ("--pp_size", "2"), "Pipeline parallelism is not supported."),
        ("nemotron_nas", "DeciLMForCausalLM", (), "trust_remote_code must be set"),
        (
            "baichuan",
            "BaichuanForCausalLM",
            ("--weight_only_precision", "int4_gptq"),
            "int4_gptq needs quant_ckpt_path",
        ),
    ],
)
def test_families_have_assertions_of_their_own(
    toolchain: StandInToolchain,
    hf_dir: Path,
    family: str,
    architecture: str,
    options: tuple[str, ...],
    error: str,
) -> None:
    (hf_dir / "config.json").write_bytes(config_bytes(architecture))
    failed = convert(toolchain, hf_dir, *options, family=family)
    assert last_line(failed) == f"AssertionError: {error}"


@pytest.mark.parametrize(
    ("options", "quant_algo", "kv_cache"),
    [
        (("--qformat", "int4_awq"), "W4A16_AWQ", None),
        (("--qformat", "fp8", "--kv_cache_dtype", "fp8"), "FP8", "FP8"),
        (("--qformat", "full_prec", "--kv_cache_dtype", "int8"), None, "INT8"),
        (("--autoq_format", "fp8,int4_awq", "--auto_quantize_bits", "5"), "MIXED_PRECISION", None),
    ],
)
def test_quantize_writes_the_precision_and_the_class_that_modelopt_exports(
    toolchain: StandInToolchain,
    hf_dir: Path,
    options: tuple[str, ...],
    quant_algo: str | None,
    kv_cache: str | None,
) -> None:
    quantized = quantize(toolchain, hf_dir, *options)
    assert quantized.returncode == 0, quantized.stderr
    config = read_json(hf_dir.parent / "checkpoint" / "config.json")
    assert config["architecture"] == "GPTForCausalLM"
    assert config["quantization"]["quant_algo"] == quant_algo
    assert config["quantization"]["kv_cache_quant_algo"] == kv_cache
    mixed = (hf_dir.parent / "checkpoint" / "quant_cfg.json").is_file()
    assert mixed == (quant_algo == "MIXED_PRECISION")


def test_quantize_of_016_has_no_nvfp4(tmp_path: Path, hf_dir: Path) -> None:
    toolchain = install_toolchain(tmp_path / "old", "0.16.0")
    assert quantize(toolchain, hf_dir, "--qformat", "nvfp4").returncode == 2


def test_calibration_data_are_a_folder_or_the_one_known_data_set(
    toolchain: StandInToolchain, hf_dir: Path, tmp_path: Path
) -> None:
    data_dir = write_files(tmp_path / "data", {"train.jsonl": b'{"text": "x"}\n'})
    awq = ("--qformat", "int4_awq", "--calib_dataset")
    assert quantize(toolchain, hf_dir, *awq, str(data_dir)).returncode == 0
    file_path = str(data_dir / "train.jsonl")
    assert last_line(quantize(toolchain, hf_dir, *awq, file_path)) == (
        f"NotImplementedError: Unsupported dataset name or local repo directory: {file_path}."
    )
    offline = quantize(toolchain, hf_dir, "--qformat", "int4_awq", HF_HUB_OFFLINE="1")
    assert last_line(offline) == (
        "ConnectionError: Couldn't reach 'cnn_dailymail' on the Hub (OfflineModeIsEnabled)"
    )


def test_without_a_gpu_only_plain_conversion_works(tmp_path: Path, hf_dir: Path) -> None:
    toolchain = install_toolchain(tmp_path / "toolchain", gpus=())
    assert starcoder(toolchain, hf_dir, *INT4).returncode == 0
    calibrated = starcoder(toolchain, hf_dir, "--int8_kv_cache")
    assert last_line(calibrated) == "OSError: GPU is required for inference."
    built = compile_engine(toolchain, hf_dir)
    assert last_line(built).startswith("RuntimeError: Found no NVIDIA driver on your system.")


def test_gpus_limit_precisions_and_plugins(tmp_path: Path, hf_dir: Path) -> None:
    older = install_toolchain(tmp_path / "older", gpus=(A10G,))
    assert quantize(older, hf_dir, "--qformat", "fp8").returncode == 0
    assert last_line(compile_engine(older, hf_dir)) == (
        "RuntimeError: Unsupported SM version for FP8 GEMM"
    )
    newer = install_toolchain(tmp_path / "newer", gpus=(B200,))
    assert last_line(compile_engine(newer, hf_dir, "--gemm_swiglu_plugin", "fp8")) == (
        "ValueError: gemm_swiglu_plugin is not supported on Blackwell"
    )


def test_the_journal_holds_every_start_in_order(toolchain: StandInToolchain, hf_dir: Path) -> None:
    assert toolchain.starts() == []
    starcoder(toolchain, hf_dir, CUDA_VISIBLE_DEVICES="0", HF_HUB_OFFLINE="1")
    compile_engine(toolchain, hf_dir, "--tp_size", "2")
    first, second = toolchain.starts()
    assert first["tool"] == "convert_checkpoint.py"
    assert first["release"] == "1.2.1"
    assert first["argv"][:2] == ["--model_dir", str(hf_dir)]
    assert first["env"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert first["env"]["HF_HUB_OFFLINE"] == "1"
    assert second["argv"][-2:] == ["--tp_size", "2"]
    assert toolchain.starts("trtllm-build") == [second]


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_no_tool_starts_with_a_secret_in_its_environment(
    toolchain: StandInToolchain, hf_dir: Path, name: str
) -> None:
    for refused in (
        starcoder(toolchain, hf_dir, **{name: "hf_secret"}),
        quantize(toolchain, hf_dir, **{name: "hf_secret"}),
        compile_engine(toolchain, hf_dir, **{name: "hf_secret"}),
    ):
        assert refused.returncode == 1
        assert f"{name} is in the environment, and no tool may see it" in refused.stderr
    assert toolchain.starts() == []


def test_tools_work_without_their_variables(toolchain: StandInToolchain, hf_dir: Path) -> None:
    starcoder(toolchain, hf_dir)
    argv = [str(toolchain.trtllm_build_path), "--checkpoint_dir", str(hf_dir.parent / "checkpoint")]
    built = subprocess.run(
        argv, env={}, cwd=hf_dir.parent, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    # Upstream's defaults are relative, so both land in the working folder.
    assert (hf_dir.parent / "engine_outputs" / "rank0.engine").is_file()
    assert (hf_dir.parent / "model.cache").is_file()
    assert len(toolchain.starts("trtllm-build")) == 1
