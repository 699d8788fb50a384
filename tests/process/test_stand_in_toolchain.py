"""The stand-in toolchain takes what upstream takes, refuses the rest, and writes its layouts."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoint_builder import checkpoint_files, config_bytes, write_files
from tests.stand_ins.toolchain import (
    A10G,
    B200,
    H100,
    StandInToolchain,
    install_toolchain,
    read_table,
)

if TYPE_CHECKING:
    from pathlib import Path

INT4 = ("--use_weight_only", "--weight_only_precision", "int4")


@pytest.fixture
def toolchain(tmp_path: Path) -> StandInToolchain:
    return install_toolchain(tmp_path / "toolchain", "1.2.1")


@pytest.fixture
def hf_dir(tmp_path: Path) -> Path:
    return write_files(tmp_path / "hf", checkpoint_files())


def run(
    toolchain: StandInToolchain, argv: list[str], **changes: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **toolchain.environment(), **changes}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def convert(
    toolchain: StandInToolchain, hf_dir: Path, *options: str, family: str = "gpt", **changes: str
) -> subprocess.CompletedProcess[str]:
    script = str(toolchain.converter_path(family))
    output_dir = str(hf_dir.parent / "checkpoint")
    argv = [sys.executable, script, "--model_dir", str(hf_dir), "--output_dir", output_dir]
    return run(toolchain, [*argv, *options], **changes)


def starcoder(
    toolchain: StandInToolchain, hf_dir: Path, *options: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    return convert(toolchain, hf_dir, "--gpt_variant", "starcoder", *options, **changes)


def quantize(
    toolchain: StandInToolchain, hf_dir: Path, *options: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    output_dir = str(hf_dir.parent / "checkpoint")
    argv = [sys.executable, str(toolchain.quantize_path), "--model_dir", str(hf_dir)]
    return run(toolchain, [*argv, "--output_dir", output_dir, *options], **changes)


def compile_engine(
    toolchain: StandInToolchain, hf_dir: Path, *options: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    folder = hf_dir.parent
    argv = ["trtllm-build", "--checkpoint_dir", str(folder / "checkpoint")]
    cache = ["--output_timing_cache", str(folder / "timing.cache")]
    return run(
        toolchain, [*argv, "--output_dir", str(folder / "engine"), *cache, *options], **changes
    )


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.strip().splitlines()[-1]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


@pytest.mark.parametrize(
    ("failure", "output", "error"),
    [
        ("oom", "Error Code 2: OutOfMemory", "AssertionError: Engine building failed, please"),
        ("version_tag", "Version tag does not match", "AssertionError: Engine building failed"),
        ("architecture", "expecting compute 8.6 got compute 9.0", "AssertionError: Engine"),
        ("plugin", "getPluginCreator could not find plugin: AllReduce", "AssertionError"),
        ("crash_rank_1", "Unsupported SM", "AssertionError: Engine building failed"),
        ("disk", "Set gemm_plugin", "OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_build_fails_with_the_words_of_upstream(
    toolchain: StandInToolchain, hf_dir: Path, failure: str, output: str, error: str
) -> None:
    starcoder(toolchain, hf_dir, "--tp_size", "2")
    failed = compile_engine(toolchain.failing(f"compile:{failure}"), hf_dir)
    assert failed.returncode == 1
    assert output in failed.stdout
    assert last_line(failed).startswith(error)
    built = (hf_dir.parent / "engine" / "rank0.engine").exists()
    assert built == (failure == "crash_rank_1")


@pytest.mark.parametrize(
    ("failure", "number"), [("killed", signal.SIGKILL), ("segv", signal.SIGSEGV)]
)
def test_a_tool_can_die_of_a_signal(
    toolchain: StandInToolchain, hf_dir: Path, failure: str, number: int
) -> None:
    failed = starcoder(toolchain, hf_dir, STAND_IN_FAIL=f"convert:{failure}")
    assert (failed.returncode, failed.stderr) == (-number, "")


def test_a_conversion_runs_out_of_gpu_memory_in_the_words_of_pytorch(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    failed = starcoder(toolchain, hf_dir, STAND_IN_FAIL="convert:oom")
    assert failed.returncode == 1
    assert last_line(failed).startswith("torch.OutOfMemoryError: CUDA out of memory. Tried to")


def test_a_build_can_succeed_and_leave_something_wrong(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    starcoder(toolchain, hf_dir, "--tp_size", "2")
    engine_dir = hf_dir.parent / "engine"
    failures = ("version", "missing_rank_1", "wrong_mapping", "wrong_precision", "empty_rank_0")
    request = ",".join(f"compile:{failure}" for failure in failures)
    assert compile_engine(toolchain, hf_dir, STAND_IN_FAIL=request).returncode == 0
    config = read_json(engine_dir / "config.json")
    assert config["version"] == "0.15.0"
    assert config["pretrained_config"]["mapping"]["world_size"] == 16
    assert config["pretrained_config"]["quantization"]["quant_algo"] == "W8A8_SQ"
    assert names_in(engine_dir) == ["config.json", "rank0.engine"]
    assert (engine_dir / "rank0.engine").stat().st_size == 0


def test_trtllm_build_misses_a_rank_of_the_checkpoint(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    starcoder(toolchain.failing("convert:missing_rank_1"), hf_dir, "--tp_size", "2")
    failed = compile_engine(toolchain, hf_dir)
    assert last_line(failed).startswith("FileNotFoundError: [Errno 2] No such file or directory")
    assert last_line(failed).endswith("rank1.safetensors'")


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("compile:oops", "stand-in: STAND_IN_FAIL=compile:oops is no failure of this toolchain"),
        ("convert:missing_rank_1", "stand-in: convert:missing_rank_1 needs two ranks, and there"),
    ],
)
def test_a_failure_that_cannot_happen_is_refused(
    toolchain: StandInToolchain, hf_dir: Path, failure: str, error: str
) -> None:
    refused = starcoder(toolchain, hf_dir, STAND_IN_FAIL=failure)
    assert refused.returncode == 1
    assert refused.stderr.startswith(error)


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


GPU_FACTS = """
import importlib.metadata, json, pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(1)
print(json.dumps([
    pynvml.nvmlSystemGetDriverVersion(),
    pynvml.nvmlDeviceGetCount(),
    pynvml.nvmlDeviceGetName(handle),
    pynvml.nvmlDeviceGetCudaComputeCapability(handle),
    pynvml.nvmlDeviceGetMemoryInfo(handle).total,
    importlib.metadata.version("tensorrt_llm"),
    importlib.metadata.version("tensorrt"),
]))
"""


def test_site_folder_answers_for_nvml_and_the_installed_versions(tmp_path: Path) -> None:
    toolchain = install_toolchain(tmp_path, gpus=(H100, A10G))
    told = run(toolchain, [sys.executable, "-c", GPU_FACTS])
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == [
        "590.44.01",
        2,
        "NVIDIA A10G",
        [8, 6],
        24_146_608_128,
        "1.2.1",
        "10.14.1.48",
    ]


def test_machine_without_gpus_has_no_nvml_library(tmp_path: Path) -> None:
    toolchain = install_toolchain(tmp_path, gpus=())
    told = run(toolchain, [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"])
    assert last_line(told) == "pynvml.NVMLError_LibraryNotFound: NVML Shared Library Not Found"


def test_importing_tensorrt_llm_is_an_error(toolchain: StandInToolchain) -> None:
    told = run(toolchain, [sys.executable, "-c", "import tensorrt_llm"])
    assert last_line(told) == (
        "ImportError: stand-in: importing tensorrt_llm takes a minute and a GPU; read its metadata"
    )
