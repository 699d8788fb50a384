from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine_runtime import engine_checkpoint, engine_config, engine_runtime
from tests.small_stage import RecordingReporter, printed
from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.machine.executors.docker import DockerExecutor
from trtllm_forge.machine.process.docker import Mount
from trtllm_forge.pipeline.stage import stage_key
from trtllm_forge.runtimes.trtllm.compile import CompileStage

if TYPE_CHECKING:
    from trtllm_forge.machine.process.command import Command

LLAMA = "LlamaForCausalLM"


def docker_executor() -> DockerExecutor:
    return DockerExecutor(
        image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        image_bytes=1,
        offline=False,
        cache_dir=Path("/cache"),
        gpus="all",
        user="1000:1000",
    )


def stage(
    line: str = "", architecture: str = LLAMA, version: str = "1.2.1", **machine: Any
) -> CompileStage:
    runtime = engine_runtime(version, architecture, **machine)
    _, built = runtime.stages(engine_config(line), engine_checkpoint(architecture))
    assert isinstance(built, CompileStage)
    return built


def command(*arguments: Any, **machine: Any) -> Command:
    inputs = {"download": Path("/hf"), "convert": Path("/made")}
    (one,) = stage(*arguments, **machine).commands(Path("/work/.built"), inputs)
    return one


def argv(*arguments: Any, **machine: Any) -> tuple[str, ...]:
    return tuple(command(*arguments, **machine).inner_argv)


def value(words: tuple[str, ...], flag: str) -> str:
    return words[words.index(flag) + 1]


def key(*arguments: Any, **machine: Any) -> str:
    return stage_key(stage(*arguments, **machine), ["upstream"])


def adapter(name: str = "adapter", weights: str = "one") -> str:
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(weights, encoding="utf-8")
    return name


def test_engine_is_built_for_requests_that_join_and_leave() -> None:
    assert argv("--max-seq-len 2048 --max-batch-size 16 --max-num-tokens 4096") == (
        *("trtllm-build", "--checkpoint_dir", "/made", "--output_dir", "/work/.built"),
        *("--max_batch_size", "16", "--max_beam_width", "1"),
        *("--max_seq_len", "2048", "--max_input_len", "2047", "--max_num_tokens", "4096"),
        *("--gpt_attention_plugin", "auto", "--gemm_plugin", "auto"),
        *("--remove_input_padding", "enable", "--kv_cache_type", "paged"),
        *("--use_paged_context_fmha", "enable", "--workers", "1"),
        *("--output_timing_cache", "/work/.built/timing.cache"),
    )


def test_length_is_the_checkpoints_unless_it_is_asked_for() -> None:
    assert value(argv(), "--max_seq_len") == "4096"
    unknown = engine_runtime(architecture=LLAMA)
    _, built = unknown.stages(engine_config(), engine_checkpoint(LLAMA, max_seq_len=0))
    (one,) = built.commands(Path("/work/.built"), {"convert": Path("/made")})
    assert "--max_seq_len" not in one.inner_argv
    assert "--max_input_len" not in one.inner_argv


@pytest.mark.parametrize(
    ("line", "plugin"),
    [
        ("--fp16", "auto"),
        ("--int4", "auto"),
        ("--fp8", "disable"),
        ("--fp8 --gemm-plugin fp8", "fp8"),
    ],
)
def test_plugin_for_matrix_products_suits_the_precision(line: str, plugin: str) -> None:
    assert value(argv(line), "--gemm_plugin") == plugin


@pytest.mark.parametrize(
    ("line", "paged", "fp8"),
    [
        ("--fp16", "enable", False),
        ("--fp16 --kv-cache int8", "disable", False),
        ("--int4 --kv-cache fp8", "disable", False),
        ("--fp8 --kv-cache fp8", "enable", True),
    ],
)
def test_prompts_are_split_over_blocks_where_the_kernels_can(
    line: str, paged: str, fp8: bool
) -> None:
    words = argv(line)
    assert value(words, "--use_paged_context_fmha") == paged
    assert ("--use_fp8_context_fmha" in words) is fp8


def test_logits_of_the_prompt_are_left_out_unless_they_are_asked_for() -> None:
    assert "--gather_context_logits" not in argv()
    assert "--gather_context_logits" in argv("--gather-context-logits")


def test_speculation_reserves_draft_tokens() -> None:
    words = argv("--speculative lookahead")
    assert value(words, "--speculative_decoding_mode") == "lookahead_decoding"
    assert value(words, "--max_draft_len") == "83"
    words = argv("--speculative draft_tokens --max-draft-len 4")
    assert value(words, "--speculative_decoding_mode") == "draft_tokens_external"
    assert value(words, "--max_draft_len") == "4"


def test_adapter_is_built_in_with_its_modules_and_rank() -> None:
    line = f"--lora-dir {adapter()} --lora-target-modules attn_q,attn_v --max-lora-rank 8"
    words = argv(line)
    start = words.index("--lora_plugin")
    assert words[start : start + 9] == (
        *("--lora_plugin", "auto", "--lora_dir", str(Path("adapter").absolute())),
        *("--lora_target_modules", "attn_q", "attn_v", "--max_lora_rank", "8"),
    )


def test_module_the_tool_does_not_know_is_refused() -> None:
    line = f"--lora-dir {adapter()} --lora-target-modules q_proj"
    with pytest.raises(ConfigError) as caught:
        argv(line)
    assert caught.value.what == (
        "trtllm-build of TensorRT-LLM 1.2.1 does not accept --lora_target_modules q_proj"
    )
    assert caught.value.why.startswith("it accepts attn_qkv, attn_q, ")


def test_adapter_that_is_no_folder_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        stage("--lora-dir absent")
    assert printed(caught.value) == (
        f"error: lora_dir {Path('absent').absolute()} is not a folder\n"
        "  why:  it must hold adapter_config.json and the adapter's weights",
        2,
    )


@pytest.mark.parametrize(
    ("line", "count", "workers"),
    [("--tp 4", 8, "4"), ("--tp 4", 2, "2"), ("--tp 4", 0, "4"), ("--tp 2 --workers 8", 8, "2")],
    ids=["as-ranks", "as-gpus", "unknown-machine", "asked-for"],
)
def test_as_many_ranks_are_built_at_once_as_there_are_gpus(
    line: str, count: int, workers: str
) -> None:
    assert value(argv(line, gpu_count=count), "--workers") == workers


def test_timings_of_an_earlier_build_are_used(tmp_path: Path) -> None:
    assert "--input_timing_cache" not in argv(cache_dir=tmp_path)
    path = stage(cache_dir=tmp_path).timing_cache_path
    assert path == tmp_path / "timing-cache" / "1.2.1-sm_90.cache"
    path.parent.mkdir()
    path.write_bytes(b"timings")
    assert value(argv(cache_dir=tmp_path), "--input_timing_cache") == "/work/.built/timing.cache"


def test_container_sees_the_adapter() -> None:
    words = command(f"--lora-dir {adapter()}", executor=docker_executor()).argv
    folder = Path("adapter").absolute()
    assert f"type=bind,source={folder},target={folder},readonly" in words


def test_outputs_are_an_engine_per_rank_and_what_describes_it() -> None:
    assert stage("--tp 2 --pp 2").outputs == (
        *("config.json", "engine.json"),
        *(f"rank{rank}.engine" for rank in range(4)),
    )


@pytest.mark.parametrize(
    "line",
    [
        "--max-batch-size 8",
        "--max-seq-len 1024",
        "--max-num-tokens 2048",
        "--max-beam-width 2",
        "--gemm-plugin disable",
        "--speculative lookahead",
        "--speculative draft_tokens",
        "--gather-context-logits",
        "--lora-dir .",
    ],
)
def test_each_parameter_of_the_engine_changes_its_key(line: str) -> None:
    assert key(line) != key()


def test_gpu_architecture_and_release_change_the_key() -> None:
    assert key(gpu_architecture="sm_89") != key()
    assert key("", LLAMA, "1.2.0") != key()


def test_length_of_the_draft_changes_the_key() -> None:
    mode = "--speculative draft_tokens --max-draft-len"
    assert key(f"{mode} 4") != key(f"{mode} 5")


def test_precision_and_ranks_change_the_key_through_the_stage_before() -> None:
    def keys(line: str) -> str:
        runtime = engine_runtime(architecture=LLAMA)
        convert, built = runtime.stages(engine_config(line), engine_checkpoint(LLAMA))
        return stage_key(built, [stage_key(convert, ["upstream"])])

    lines = ("", "--int8", "--kv-cache fp8", "--tp 2", "--pp 2")
    assert len({keys(line) for line in lines}) == len(lines)


def test_adapter_is_known_by_its_content_its_modules_and_its_rank() -> None:
    one, other = adapter("one", "same"), adapter("other", "same")
    assert key(f"--lora-dir {one}") == key(f"--lora-dir {other}")
    changed = [
        key(f"--lora-dir {one} --lora-target-modules attn_q"),
        key(f"--lora-dir {one} --max-lora-rank 8"),
    ]
    before = key(f"--lora-dir {one}")
    adapter("one", "changed")
    assert len({before, *changed, key(f"--lora-dir {one}")}) == 4


MACHINES: dict[str, dict[str, Any]] = {
    "gpus": {"gpu_count": 8},
    "gpu-memory": {"gpu_memory_bytes": 1 << 30},
    "memory": {"free_memory_bytes": 1 << 30},
    "cores": {"cpu_count": 1},
    "size": {"weights_bytes": 100 << 30},
    "cache": {"cache_dir": Path("/elsewhere")},
    "python": {"python": "/venv/bin/python"},
    "builder": {"builder": "/venv/bin/trtllm-build"},
    "examples": {"examples_dir": "/src/examples"},
    "mounts": {"mounts": (Mount(source=Path("/hf"), target="/hf", read_only=True),)},
    "executor": {"executor": docker_executor()},
}


@pytest.mark.parametrize("name", MACHINES)
def test_machine_keeps_the_key_of_an_engine(name: str) -> None:
    assert key(**MACHINES[name]) == key()


def test_workers_keep_the_key() -> None:
    assert key("--workers 4") == key()


def test_every_field_of_the_tools_keeps_the_key_but_release_and_gpu_architecture() -> None:
    tools = {field.name for field in dataclasses.fields(stage().tools)}
    tried = {name for changes in MACHINES.values() for name in changes}
    assert tools - tried == {"release", "gpu_architecture"}


def test_keys_are_of_json_alone() -> None:
    assert json.loads(json.dumps(dict(stage("--lora-dir .").parameters)))["runtime"] == "trtllm"


def test_longer_requests_than_the_checkpoint_was_made_for_are_refused() -> None:
    runtime, checkpoint = engine_runtime(architecture=LLAMA), engine_checkpoint(LLAMA)
    with pytest.raises(ConfigError) as caught:
        runtime.require_support(engine_config("--max-seq-len 4097 --tp 2"), checkpoint)
    assert printed(caught.value) == (
        "error: max_seq_len is 4097 tokens, but the checkpoint's limit is 4096\n"
        "  try:  forge build org/model --tp 2 --max-seq-len 4096",
        2,
    )
    runtime.require_support(engine_config("--tp 2 --max-seq-len 4096"), checkpoint)


def refuse(question: str) -> bool:
    raise AssertionError(question)


def test_gpu_of_another_architecture_than_the_named_one_is_refused() -> None:
    runtime = dataclasses.replace(
        engine_runtime(executor=docker_executor(), gpu_architecture="sm_89"),
        own_architecture="sm_90",
    )
    with pytest.raises(PrerequisiteError) as caught:
        runtime.require_machine(RecordingReporter(), confirm=refuse)
    assert printed(caught.value) == (
        "error: the engine is for a GPU with sm_89, the one here has sm_90\n"
        "  why:  TensorRT compiles for the GPU it runs on",
        3,
    )


def test_missing_examples_are_named_with_where_they_come_from() -> None:
    runtime = dataclasses.replace(engine_runtime(executor=docker_executor()), has_examples=False)
    with pytest.raises(PrerequisiteError) as caught:
        runtime.require_machine(RecordingReporter(), confirm=refuse)
    assert printed(caught.value) == (
        "error: TensorRT-LLM's examples, with the converters of 1.2.1, are missing\n"
        "  why:  there are none in /app/examples; clone TensorRT-LLM and add --examples-dir "
        "TensorRT-LLM/examples\n"
        "  try:  git clone --depth 1 --branch v1.2.1 https://github.com/NVIDIA/TensorRT-LLM",
        3,
    )


def test_notes_name_what_the_user_would_not_expect() -> None:
    checkpoint = engine_checkpoint("GPTBigCodeForCausalLM")
    runtime = engine_runtime(gpu_architecture="sm_75")
    assert runtime.notes(engine_config("--int8 --kv-cache int8 --calib-dataset ."), checkpoint) == [
        "block reuse and chunked context are off: TensorRT-LLM does not support them with an int8 "
        "KV cache and int8 weights",
        "TensorRT-LLM 1.2.1 does not list sm_75 among its GPUs: sm_80, sm_86, sm_89, sm_90, "
        "sm_100, sm_103, sm_120, sm_121",
    ]
    unlisted = engine_runtime().notes(engine_config("--fp8 --calib-dataset ."), checkpoint)
    assert unlisted == [
        "quantize.py lists GPTBigCodeForCausalLM, but no upstream table lists fp8 for it"
    ]


def test_evidence_names_both_tools() -> None:
    runtime = engine_runtime()
    evidence = runtime.evidence(engine_config(), engine_checkpoint("GPTBigCodeForCausalLM"))
    assert [(one.subject, one.level) for one in evidence] == [
        ("gpt/convert_checkpoint.py of TensorRT-LLM 1.2.1", "nearest"),
        ("trtllm-build of TensorRT-LLM 1.2.1", "nearest"),
    ]
