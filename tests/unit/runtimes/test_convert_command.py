from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine_runtime import engine_checkpoint, engine_config, engine_runtime
from tests.small_stage import printed
from trtllm_forge.errors import BuildError, ConfigError
from trtllm_forge.machine.executors.docker import DockerExecutor
from trtllm_forge.machine.process.docker import Mount
from trtllm_forge.pipeline.stage import stage_key
from trtllm_forge.runtimes.trtllm.convert import ConvertStage

if TYPE_CHECKING:
    from trtllm_forge.machine.process.command import Command

LLAMA = "LlamaForCausalLM"
GIB = 1 << 30
IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"


def docker_executor() -> DockerExecutor:
    return DockerExecutor(
        image=IMAGE,
        image_bytes=1,
        offline=False,
        cache_dir=Path("/cache"),
        gpus="all",
        user="1000:1000",
    )


def stage(
    line: str = "", architecture: str = LLAMA, version: str = "1.2.1", **machine: Any
) -> ConvertStage:
    runtime = engine_runtime(version, architecture, **machine)
    convert, _ = runtime.stages(engine_config(line), engine_checkpoint(architecture))
    assert isinstance(convert, ConvertStage)
    return convert


def command(*arguments: Any, **machine: Any) -> Command:
    (one,) = stage(*arguments, **machine).commands(Path("/work/.made"), {"download": Path("/hf")})
    return one


def argv(*arguments: Any, **machine: Any) -> tuple[str, ...]:
    return tuple(command(*arguments, **machine).inner_argv)


def key(*arguments: Any, **machine: Any) -> str:
    return stage_key(stage(*arguments, **machine), ["upstream"])


def test_starcoder_is_converted_with_its_variant() -> None:
    assert argv("--int4 --tp 2", "GPTBigCodeForCausalLM") == (
        *("python3", "/app/examples/models/core/gpt/convert_checkpoint.py"),
        *("--model_dir", "/hf", "--output_dir", "/work/.made"),
        *("--gpt_variant", "starcoder", "--dtype", "float16"),
        *("--tp_size", "2", "--pp_size", "1"),
        *("--use_weight_only", "--weight_only_precision", "int4", "--workers", "1"),
    )


def test_gemma_is_converted_in_its_own_words() -> None:
    assert argv("--int8", "GemmaForCausalLM", "0.16.0") == (
        *("python3", "/app/examples/gemma/convert_checkpoint.py"),
        *("--ckpt-type", "hf", "--model-dir", "/hf", "--output-model-dir", "/work/.made"),
        *("--dtype", "float16", "--world-size", "1"),
        *("--use-weight-only-with-precision", "int8"),
    )


def test_old_release_has_its_converters_elsewhere() -> None:
    assert argv("", LLAMA, "0.16.0")[1] == "/app/examples/llama/convert_checkpoint.py"


def test_quantised_precision_is_made_by_quantize() -> None:
    line = "--int4-awq --group-size 64 --kv-cache fp8 --tp 4 --pp 2 --calib-size 32"
    assert argv(line) == (
        *("python3", "/app/examples/quantization/quantize.py"),
        *("--model_dir", "/hf", "--output_dir", "/work/.made"),
        *("--dtype", "float16", "--qformat", "int4_awq", "--tp_size", "4", "--pp_size", "2"),
        *("--kv_cache_dtype", "fp8", "--awq_block_size", "64", "--calib_size", "32"),
    )


def test_own_python_and_examples_are_used() -> None:
    words = argv(python="/venv/bin/python", examples_dir="/src/examples")
    assert words[:2] == (
        "/venv/bin/python",
        "/src/examples/models/core/llama/convert_checkpoint.py",
    )


def test_nothing_is_fetched_but_calibration_data_that_is_not_here() -> None:
    assert command().env["HF_HUB_OFFLINE"] == "1"
    assert stage("--fp8").downloads_calibration
    assert "HF_HUB_OFFLINE" not in command("--fp8").env
    Path("texts").mkdir()
    local = "--fp8 --calib-dataset texts"
    assert not stage(local).downloads_calibration
    assert command(local).env["HF_HUB_OFFLINE"] == "1"
    words = argv(local)
    assert words[words.index("--calib_dataset") + 1] == str(Path("texts").resolve())


def test_granite_is_converted_by_the_code_of_its_own() -> None:
    for architecture in ("GraniteForCausalLM", "GraniteMoeForCausalLM"):
        assert command("", architecture).env["TRTLLM_DISABLE_UNIFIED_CONVERTER"] == "1"
        assert "TRTLLM_DISABLE_UNIFIED_CONVERTER" not in command("--fp8", architecture).env
    assert "TRTLLM_DISABLE_UNIFIED_CONVERTER" not in command().env


def test_name_of_a_data_set_on_the_hub_is_passed_on() -> None:
    words = argv("--fp8 --calib-dataset org/texts")
    assert words[words.index("--calib_dataset") + 1] == "org/texts"


def test_container_sees_local_calibration_data() -> None:
    Path("texts").mkdir()
    executor = docker_executor()
    words = command("--fp8 --calib-dataset texts", executor=executor).argv
    folder = Path("texts").resolve()
    assert f"type=bind,source={folder},target={folder},readonly" in words


@pytest.mark.parametrize(
    ("weights", "free", "cores", "workers"),
    [
        (10 * GIB, 64 * GIB, 8, 4),
        (20 * GIB, 64 * GIB, 8, 3),
        (100 * GIB, 64 * GIB, 8, 1),
        (10 * GIB, 64 * GIB, 2, 2),
        (None, 64 * GIB, 8, 1),
    ],
    ids=["as-ranks", "as-memory-holds", "larger-than-memory", "as-cores", "unknown-size"],
)
def test_as_many_ranks_at_once_as_the_machine_holds(
    weights: int | None, free: int, cores: int, workers: int
) -> None:
    words = argv("--tp 4", weights_bytes=weights, free_memory_bytes=free, cpu_count=cores)
    assert words[-2:] == ("--workers", str(workers))


def test_no_more_workers_than_ranks_whatever_is_asked_for() -> None:
    assert argv("--tp 2 --workers 8")[-2:] == ("--workers", "2")


@pytest.mark.parametrize(
    ("memory", "switches"),
    [(80 * GIB, True), (0, False), (141 * GIB, False)],
    ids=["too-small", "unknown", "large"],
)
def test_model_that_fills_the_gpu_is_loaded_on_the_cpu(memory: int, switches: bool) -> None:
    words = argv(gpu_memory_bytes=memory, weights_bytes=70 * GIB)
    assert ("--load_model_on_cpu" in words) is switches


def test_outputs_are_the_configuration_and_a_file_per_rank() -> None:
    assert stage("--tp 2 --pp 2").outputs == (
        "config.json",
        *(f"rank{rank}.safetensors" for rank in range(4)),
    )


@pytest.mark.parametrize("line", ["--int8", "--bf16", "--kv-cache int8", "--tp 2", "--pp 2"])
def test_each_parameter_of_the_checkpoint_changes_its_key(line: str) -> None:
    assert key(line) != key()


@pytest.mark.parametrize("change", ["--calib-size 32", "--calib-dataset org/a", "--group-size 64"])
def test_each_parameter_of_the_calibration_changes_the_key(change: str) -> None:
    assert key(f"--int4-awq {change}") != key("--int4-awq")


def test_release_architecture_and_calibration_texts_change_the_key() -> None:
    assert key("", LLAMA, "1.2.0") != key()
    assert key("", "Qwen2ForCausalLM") != key()
    Path("texts").mkdir()
    Path("texts/a.jsonl").write_text("one", encoding="utf-8")
    before = key("--fp8 --calib-dataset texts")
    Path("texts/a.jsonl").write_text("two", encoding="utf-8")
    assert key("--fp8 --calib-dataset texts") != before


def test_calibration_texts_are_known_by_content_not_by_path() -> None:
    for name in ("one", "other"):
        Path(name).mkdir()
        Path(name, "a.jsonl").write_text("text", encoding="utf-8")
    assert key("--fp8 --calib-dataset one") == key("--fp8 --calib-dataset other")


def test_earlier_stages_change_the_key() -> None:
    assert stage_key(stage(), ["one"]) != stage_key(stage(), ["other"])


@pytest.mark.parametrize(
    "line",
    ["--workers 2", "--executor docker", "--max-batch-size 4", "--calib-size 8", "--group-size 64"],
)
def test_option_that_plain_weights_do_not_depend_on_keeps_the_key(line: str) -> None:
    assert key(line) == key()


@pytest.mark.parametrize("precision", ["--fp8", "--int8-sq"])
def test_group_size_counts_only_where_weights_are_grouped(precision: str) -> None:
    assert key(f"{precision} --group-size 64") == key(precision)


MACHINES: dict[str, dict[str, Any]] = {
    "gpus": {"gpu_count": 8},
    "gpu-memory": {"gpu_memory_bytes": GIB},
    "memory": {"free_memory_bytes": GIB},
    "cores": {"cpu_count": 1},
    "gpu-architecture": {"gpu_architecture": "sm_89"},
    "size": {"weights_bytes": 100 * GIB},
    "cache": {"cache_dir": Path("/elsewhere")},
    "python": {"python": "/venv/bin/python"},
    "examples": {"examples_dir": "/src/examples"},
    "mounts": {"mounts": (Mount(source=Path("/hf"), target="/hf", read_only=True),)},
    "executor": {"executor": docker_executor()},
}


@pytest.mark.parametrize("name", MACHINES)
def test_machine_keeps_the_key_of_a_checkpoint(name: str) -> None:
    assert key(**MACHINES[name]) == key()


def test_every_field_of_the_tools_is_among_those_that_keep_the_key_but_the_release() -> None:
    tools = {field.name for field in dataclasses.fields(stage().tools)}
    tried = {name for changes in MACHINES.values() for name in changes}
    assert tools - tried == {"release", "builder"}


def checkpoint_json(folder: Path, **changes: Any) -> None:
    values = {"tp_size": 2, "pp_size": 1, "quant_algo": "W4A16", **changes}
    document = {
        "mapping": {"tp_size": values["tp_size"], "pp_size": values["pp_size"]},
        "quantization": {"quant_algo": values["quant_algo"]},
    }
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    for rank in range(2):
        (folder / f"rank{rank}.safetensors").write_bytes(b"weights")


def run_after(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stage where the tool did all that ``folder`` holds already."""
    from trtllm_forge.reporter import SilentReporter
    from trtllm_forge.runtimes.trtllm.tools import Tools

    monkeypatch.setattr(Tools, "run", lambda *_, **__: None)
    stage(line).run(folder, {"download": Path("/hf")}, SilentReporter())


def test_checkpoint_that_is_what_was_asked_for_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_json(tmp_path)
    run_after(tmp_path, "--int4 --tp 2", monkeypatch)


def test_scales_of_smoothquant_are_the_tools_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_json(tmp_path, quant_algo="W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN")
    run_after(tmp_path, "--int8-sq --tp 2", monkeypatch)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"tp_size": 1}, "tp_size 1, pp_size 1, quant_algo W4A16"),
        ({"quant_algo": None}, "tp_size 2, pp_size 1, quant_algo None"),
    ],
)
def test_checkpoint_of_another_shape_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], found: str
) -> None:
    checkpoint_json(tmp_path, **changes)
    with pytest.raises(BuildError) as caught:
        run_after(tmp_path, "--int4 --tp 2", monkeypatch)
    assert printed(caught.value) == (
        f"error: the converted checkpoint has {found}\n"
        "  why:  expected tp_size 2, pp_size 1, quant_algo W4A16",
        5,
    )


def test_checkpoint_without_a_file_for_each_rank_is_refused_with_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    checkpoint_json(work_dir)
    (work_dir / "rank1.safetensors").write_bytes(b"")
    log_path = tmp_path / "work.log"
    log_path.write_text("what the tool printed\n", encoding="utf-8")
    with pytest.raises(BuildError) as caught:
        run_after(work_dir, "--int4 --tp 2", monkeypatch)
    assert printed(caught.value) == (
        "error: the converted checkpoint has 1 of 2 rank files\n"
        "  why:  the converter ended without an error, but rank1.safetensors is missing or "
        "empty\n"
        f"  log:  {log_path}",
        5,
    )


def test_checkpoint_without_a_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError) as caught:
        run_after(tmp_path, "", monkeypatch)
    assert printed(caught.value) == (
        "error: convert ended without an error, but its config.json is invalid\n"
        "  why:  FileNotFoundError: [Errno 2] No such file or directory: "
        f"'{tmp_path / 'config.json'}'",
        5,
    )


def test_converter_that_runs_the_checkpoints_code_asks_for_trust_first() -> None:
    architecture = "DeciLMForCausalLM"
    runtime = engine_runtime(architecture=architecture)
    config, checkpoint = engine_config("--tp 2"), engine_checkpoint(architecture)
    with pytest.raises(ConfigError) as caught:
        runtime.require_support(config, checkpoint)
    assert printed(caught.value) == (
        "error: nemotron_nas/convert_checkpoint.py of TensorRT-LLM 1.2.1 runs Python code from "
        "the checkpoint\n"
        "  why:  it does not start without --trust_remote_code\n"
        "  try:  forge build org/model --tp 2 --trust-remote-code",
        2,
    )
    runtime.require_support(engine_config("--tp 2 --trust-remote-code"), checkpoint)


def test_cache_below_a_path_that_quantize_takes_for_mpt_is_refused() -> None:
    runtime = engine_runtime(architecture=LLAMA, cache_dir=Path("/data/prompts"))
    with pytest.raises(ConfigError) as caught:
        runtime.require_support(engine_config("--fp8"), engine_checkpoint(LLAMA))
    assert printed(caught.value) == (
        'error: the path of the cache, /data/prompts, contains "mpt"\n'
        "  why:  quantize.py treats every model below such a path as an MPT model\n"
        "  try:  FORGE_CACHE_DIR=/var/tmp/forge forge build org/model --fp8",
        2,
    )
    runtime.require_support(engine_config("--int8"), engine_checkpoint(LLAMA))


def test_calibration_without_data_is_refused_where_nothing_may_be_fetched() -> None:
    runtime, checkpoint = engine_runtime(architecture=LLAMA), engine_checkpoint(LLAMA)
    with pytest.raises(ConfigError) as caught:
        runtime.require_support(engine_config("--fp8 --offline"), checkpoint)
    assert printed(caught.value) == (
        "error: precision fp8 needs calibration data, but offline is set\n"
        "  why:  the release's default data set would be downloaded from the Hub\n"
        "  try:  forge build org/model --offline --fp8 --calib-dataset FOLDER",
        2,
    )
    with pytest.raises(ConfigError) as caught:
        runtime.require_support(
            engine_config("--fp8 --offline --calib-dataset org/texts"), checkpoint
        )
    assert caught.value.why == (
        "there is no folder org/texts, so it would be downloaded from the Hub"
    )
    runtime.require_support(engine_config("--fp8 --offline --calib-dataset ."), checkpoint)


def test_notes_say_what_is_downloaded_to_calibrate() -> None:
    runtime, checkpoint = engine_runtime(architecture=LLAMA), engine_checkpoint(LLAMA)
    assert runtime.notes(engine_config("--fp8"), checkpoint) == [
        "calibration: quantize.py of TensorRT-LLM 1.2.1 downloads its default data set, "
        "cnn_dailymail, from the Hub; --calib-dataset DIR uses local texts"
    ]
    assert runtime.notes(engine_config("--fp8 --calib-dataset org/texts"), checkpoint) == [
        "calibration: the data set org/texts is downloaded from the Hub"
    ]
    assert runtime.notes(engine_config("--int8"), checkpoint) == []
