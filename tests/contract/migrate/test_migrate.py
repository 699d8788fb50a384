from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scripts.render_examples import EXAMPLES, EXAMPLES_DIR, render_example
from tests.archive_builder import manifest_text
from tests.checkpoint_builder import write_files
from tests.rendering import contract_models, parameters, parse_configs, tree
from tests.upstream_repository import ENGINE, FILLED, write_upstream
from trtllm_forge.cli.console import error_text
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import CheckpointError, ConfigError, ForgeError, RenderError
from trtllm_forge.migrate import migrate_repository
from trtllm_forge.migrate.tensors import migration_facts
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.triton.repository.contract import known_releases, read_contract
from trtllm_forge.triton.repository.repository import verify_repository

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.migrate.report import MigrationReport

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}
ENGINE_EXAMPLES = [name for name, (runtime, *_) in EXAMPLES.items() if runtime == "trtllm"]


@pytest.fixture(scope="module")
def examples_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the complete repository of each engine example."""
    root = tmp_path_factory.mktemp("examples")
    for name in ENGINE_EXAMPLES:
        render_example(name, root / name)
    return root


def migrate(source_dir: Path, to: str, **options: Any) -> MigrationReport:
    options.setdefault("output_dir", source_dir.parent / "new")
    return migrate_repository(source_dir, to, read_settings(), SilentReporter(), **options)


def refusal(kind: type[ForgeError], source_dir: Path, to: str, **options: Any) -> str:
    before = tree(source_dir.parent)
    with pytest.raises(kind) as caught:
        migrate(source_dir, to, **options)
    assert tree(source_dir.parent) == before
    return error_text(caught.value).replace(str(source_dir.parent), "ROOT")


def fates(report: MigrationReport, fate: str) -> dict[str, str]:
    return {
        f"{move.model}.{move.name}": move.to or move.reason
        for move in report.settings
        if move.fate == fate
    }


def tensors(report: MigrationReport, model: str, kind: str) -> dict[str, str]:
    return {
        move.name: move.to or move.fate
        for move in report.tensors
        if (move.model, move.kind) == (model, kind)
    }


def pbtxt(folder: Path) -> dict[str, bytes]:
    return {name: text for name, text in tree(folder).items() if name.endswith(".pbtxt")}


def model_yaml(folder: Path) -> Any:
    return yaml.safe_load((folder / "tensorrt_llm/1/model.yaml").read_text(encoding="utf-8"))


def test_upstreams_settings_are_carried_to_the_llm_api(tmp_path: Path) -> None:
    report = migrate(write_upstream(tmp_path / "llama"), "llmapi")
    verify_repository(tmp_path / "new")
    assert model_yaml(tmp_path / "new") == {
        "model": "/repo/tensorrt_llm/1/checkpoint",
        "backend": "pytorch",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "dtype": "bfloat16",
        "max_batch_size": 16,
        "enable_chunked_prefill": True,
        "kv_cache_config": {
            # Unset meant off in 0.16.
            "enable_block_reuse": False,
            "free_gpu_memory_fraction": 0.75,
            "max_tokens": 40960,
        },
        "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
        "cuda_graph_config": {"enable_padding": True, "batch_sizes": [1, 2, 4, 8, 16]},
        "tokenizer": "/data/llama-hf",
        "max_seq_len": 2048,
        "max_num_tokens": 4096,
        "triton_config": {
            "max_batch_size": 0,
            "decoupled": True,
            "cancellation_check_period_ms": 50,
        },
    }
    assert fates(report, "carried") == {
        "preprocessing.tokenizer_dir": "model.yaml tokenizer",
        "tensorrt_llm.batch_scheduler_policy": (
            "model.yaml scheduler_config.capacity_scheduler_policy"
        ),
        "tensorrt_llm.cancellation_check_period_ms": (
            "model.yaml triton_config.cancellation_check_period_ms"
        ),
        "tensorrt_llm.enable_chunked_context": "model.yaml enable_chunked_prefill",
        "tensorrt_llm.kv_cache_free_gpu_mem_fraction": (
            "model.yaml kv_cache_config.free_gpu_memory_fraction"
        ),
        "tensorrt_llm.max_tokens_in_paged_kv_cache": "model.yaml kv_cache_config.max_tokens",
        "tensorrt_llm.decoupled": "model.yaml triton_config.decoupled",
        "engine.tp_size": "model.yaml tensor_parallel_size",
        "engine.pp_size": "model.yaml pipeline_parallel_size",
        "engine.max_num_tokens": "model.yaml max_num_tokens",
        "engine.max_seq_len": "model.yaml max_seq_len",
        "engine.dtype": "model.yaml dtype",
    }
    assert fates(report, "changed") == {
        "tensorrt_llm.max_batch_size": "model.yaml max_batch_size = 16",
        "tensorrt_llm.enable_kv_cache_reuse": (
            "model.yaml kv_cache_config.enable_block_reuse = false"
        ),
    }


def test_what_has_no_counterpart_is_listed_one_by_one(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "llama", instances={"postprocessing": 4})
    write_files(source_dir, {"router/config.pbtxt": b'name: "router" backend: "python"'})
    report = migrate(source_dir, "llmapi")
    dropped = fates(report, "dropped")
    assert sorted(dropped) == [
        "engine.quantization",
        "postprocessing.instances",
        "postprocessing.tokenizer_dir",
        "preprocessing.add_special_tokens",
        "router.model",
        "tensorrt_llm.FORCE_CPU_ONLY_INPUT_TENSORS",
        "tensorrt_llm.exclude_input_in_output",
        "tensorrt_llm.executor_worker_path",
        "tensorrt_llm.gpt_model_path",
        "tensorrt_llm.gpt_model_type",
        "tensorrt_llm.kv_cache_host_memory_bytes",
        "tensorrt_llm.lora_cache_max_adapter_size",
        "tensorrt_llm.max_beam_width",
        "tensorrt_llm.max_queue_size",
        "tensorrt_llm_bls.tensorrt_llm_draft_model_name",
        "tensorrt_llm_bls.tensorrt_llm_model_name",
    ]
    assert all(dropped.values())
    assert "not carried over: router, which may refer to models that are gone" in report.notes


def test_every_setting_is_in_the_report_once(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "llama")
    for to in ("llmapi", "1.2.1"):
        report = migrate(source_dir, to, output_dir=tmp_path / to)
        named = [(move.model, move.name) for move in report.settings]
        assert len(named) == len(set(named))
        set_ones = {
            (model, name)
            for model, values in FILLED.items()
            for name, value in values.items()
            if value and not value.startswith("$")
        }
        assert set_ones <= set(named)


@pytest.mark.parametrize("release", known_releases())
def test_every_tensor_of_every_release_has_a_known_way_to_the_llm_api(release: str) -> None:
    facts = migration_facts()
    models = contract_models(release)
    llmapi = contract_models("1.2", "llmapi")["tensorrt_llm"]
    for kind in ("inputs", "outputs"):
        known = {tensor["name"] for tensor in llmapi[kind]}
        for model in ("ensemble", "tensorrt_llm_bls"):
            names = {tensor["name"] for tensor in models[model][kind]}
            names = {facts["renamed"].get(name, name) for name in names}
            assert sorted(names - set(facts[f"llmapi_{kind}"])) == []
        targets = {fact["to"] for fact in facts[f"llmapi_{kind}"].values() if "to" in fact}
        assert sorted(targets - known) == []


@pytest.mark.parametrize("release", known_releases())
def test_every_parameter_of_every_release_has_a_known_fate(release: str) -> None:
    table = migration_facts()["llmapi_parameters"]
    for name, model in read_contract(release).models.items():
        if name != "ensemble":
            assert sorted(set(model.parameters) - set(table[name])) == []


def test_facts_hold_nothing_but_where_to_and_why() -> None:
    facts = migration_facts()
    tables = [*facts["llmapi_parameters"].values(), facts["llmapi_inputs"], facts["llmapi_outputs"]]
    for table in tables:
        for name, fact in table.items():
            assert set(fact) in ({"to"}, {"reason"}, {"to", "note"}), name
            assert all(fact.values())


def test_clients_names_are_mapped_to_the_llm_api(tmp_path: Path) -> None:
    report = migrate(write_upstream(tmp_path / "llama"), "llmapi")
    inputs = tensors(report, "ensemble", "input")
    assert {name: to for name, to in inputs.items() if to != "gone"} == {
        "text_input": "text_input",
        "max_tokens": "sampling_param_max_tokens",
        "stop_words": "sampling_param_stop",
        "exclude_input_in_output": "sampling_param_exclude_input_from_output",
        "top_k": "sampling_param_top_k",
        "top_p": "sampling_param_top_p",
        "temperature": "sampling_param_temperature",
        "presence_penalty": "sampling_param_presence_penalty",
        "frequency_penalty": "sampling_param_frequency_penalty",
        "random_seed": "sampling_param_seed",
        "return_log_probs": "return_cumulative_logprob",
        "return_kv_cache_reuse_stats": "sampling_param_return_perf_metrics",
        "stream": "streaming",
    }
    assert set(tensors(report, "tensorrt_llm", "input").values()) == {"gone", "new"}
    new = [m.name for m in report.tensors if m.fate == "new" and m.kind == "input"]
    assert new == ["sampling_param_best_of", "return_finish_reason", "return_stop_reason", "stop"]


@pytest.mark.parametrize("name", ENGINE_EXAMPLES)
@pytest.mark.parametrize("to", ["0.16", "0.19", "1.2"])
def test_forges_repository_of_a_release_becomes_that_of_another(
    tmp_path: Path, examples_dir: Path, name: str, to: str
) -> None:
    output_dir = tmp_path / "new"
    report = migrate(examples_dir / name, to, output_dir=output_dir)
    verify_repository(output_dir)
    line = EXAMPLES[name][1].rpartition(".")[0]
    assert (report.source_release, report.source_release_origin) == (line, "by its tensors")
    assert fates(report, "dropped") == {}
    models = contract_models(to)
    for model, config in parse_configs(output_dir).items():
        found = {tensor.name for tensor in config.input}
        assert found == {tensor["name"] for tensor in models[model]["inputs"]}
    expected = EXAMPLES_DIR / f"sample-trtllm-{to}"
    if expected.exists():
        assert pbtxt(output_dir) == pbtxt(expected)


def test_renamed_tensors_are_followed_in_both_directions(
    tmp_path: Path, examples_dir: Path
) -> None:
    older, newer = examples_dir / "sample-trtllm-0.16", examples_dir / "sample-trtllm-1.2"
    forward = migrate(older, "1.2.1", output_dir=tmp_path / "a")
    back = migrate(newer, "0.16.0", output_dir=tmp_path / "b")
    names = ("random_seed", "min_length", "return_kv_cache_reuse_stats")
    now = ("seed", "min_tokens", "return_perf_metrics")
    there, here = tensors(forward, "ensemble", "input"), tensors(back, "ensemble", "input")
    assert tuple(there[name] for name in names) == now
    assert tuple(here[name] for name in now) == names
    assert here["guided_decoding_guide"] == "gone"
    assert there["guided_decoding_guide"] == "new"


def test_upstreams_settings_are_kept_for_another_release(tmp_path: Path) -> None:
    report = migrate(write_upstream(tmp_path / "llama"), "1.2.1")
    verify_repository(tmp_path / "new")
    configs = parse_configs(tmp_path / "new")
    core = parameters(configs["tensorrt_llm"])
    kept = {k: v for k, v in FILLED["tensorrt_llm"].items() if v and not v.startswith("$")}
    models = contract_models("1.2")
    unset = dict.fromkeys(models["tensorrt_llm"]["parameters"], "")
    assert core == {**unset, **kept, "enable_kv_cache_reuse": "false"}
    assert parameters(configs["preprocessing"]) == {
        **dict.fromkeys(models["preprocessing"]["parameters"], ""),
        "tokenizer_dir": "/data/llama-hf",
        "add_special_tokens": "false",
        "gpt_model_path": "tensorrt_llm/1/engine",
    }
    assert configs["tensorrt_llm"].dynamic_batching.default_queue_policy.max_queue_size == 8
    assert fates(report, "changed") == {
        "preprocessing.add_special_tokens": "add_special_tokens = false",
        "tensorrt_llm.enable_kv_cache_reuse": "enable_kv_cache_reuse = false",
    }
    assert fates(report, "dropped") == {
        "tensorrt_llm_bls.tensorrt_llm_draft_model_name": (
            "forge's tensorrt_llm_bls does not read it"
        )
    }
    assert report.next_steps == (
        "forge build MODEL --runtime trtllm --trtllm-version 1.2.1 --int4-awq --tp 2 "
        "--max-batch-size 16 --max-num-tokens 4096 --max-seq-len 2048 "
        f"--output {tmp_path}/new-built",
        f"cp -r {tmp_path}/new-built/tensorrt_llm/1/engine {tmp_path}/new/tensorrt_llm/1/engine",
        f"mount {tmp_path}/new/tensorrt_llm/1/engine at /repo/tensorrt_llm/1, "
        "the value of gpt_model_path",
        f"forge serve {tmp_path}/new",
    )


def test_unset_block_reuse_keeps_its_meaning_over_0_19(tmp_path: Path) -> None:
    for number, (release, to, expected) in enumerate(
        [("0.18", "0.19.0", "false"), ("0.19", "0.18.2", "true"), ("1.0", "1.2.1", "")]
    ):
        source_dir = write_upstream(tmp_path / f"r{number}", release, engine=None)
        report = migrate(source_dir, to, output_dir=tmp_path / f"n{number}")
        config = parse_configs(report.output_dir)["tensorrt_llm"]
        assert parameters(config)["enable_kv_cache_reuse"] == expected


def test_element_types_of_the_engine_are_kept(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r", "1.0", engine=None)
    path = source_dir / "tensorrt_llm/config.pbtxt"
    text = path.read_text(encoding="utf-8")
    for name in ("context_logits", "generation_logits"):
        text = text.replace(f'"{name}" data_type: TYPE_FP32', f'"{name}" data_type: TYPE_FP16')
    path.write_text(text, encoding="utf-8")
    migrate(source_dir, "1.2.1")
    config = parse_configs(tmp_path / "new")["tensorrt_llm"]
    assert {t.name: t.data_type for t in config.output}["context_logits"] == 10  # TYPE_FP16


def test_tokenizer_in_the_repository_goes_along(tmp_path: Path) -> None:
    own = {name: dict(values) for name, values in FILLED.items()}
    for name in ("preprocessing", "postprocessing"):
        own[name]["tokenizer_dir"] = "preprocessing/1/tokenizer"
    source_dir = write_upstream(tmp_path / "r", parameters=own)
    write_files(source_dir, {"preprocessing/1/tokenizer/tokenizer.json": b"{}"})
    migrate(source_dir, "1.2.1")
    assert (tmp_path / "new/preprocessing/1/tokenizer/tokenizer.json").read_bytes() == b"{}"
    migrate(source_dir, "llmapi", output_dir=tmp_path / "api")
    assert "tokenizer" not in model_yaml(tmp_path / "api")


def test_old_repository_is_only_read(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r")
    before = tree(source_dir)
    migrate(source_dir, "llmapi", dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    migrate(source_dir, "llmapi")
    assert tree(source_dir) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "r"]


def test_new_repository_stands_beside_the_old_one_by_default(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "llama")
    assert migrate(source_dir, "llmapi", output_dir=None).output_dir == tmp_path / "llama-llmapi"
    assert migrate(source_dir, "1.2", output_dir=None).output_dir == tmp_path / "llama-1.2"


def test_starcoder_is_refused_with_the_last_release_that_has_it(tmp_path: Path) -> None:
    starcoder = {**ENGINE["pretrained_config"], "architecture": "GPTForCausalLM"}
    starcoder["gpt_variant"] = "starcoder"
    engine = {**ENGINE, "pretrained_config": starcoder}
    source_dir = write_upstream(tmp_path / "r", engine=engine)
    assert refusal(ConfigError, source_dir, "llmapi") == (
        "error: the LLM API does not support GPTBigCodeForCausalLM\n"
        "  why:  no release of TensorRT-LLM has a class for it in its PyTorch backend; 1.2.1 is "
        "the last that can build an engine for it\n"
        "  try:  forge migrate ROOT/r --to 1.2.1"
    )
    assert migrate(source_dir, "1.2.1").architecture == "GPTBigCodeForCausalLM"


def test_release_without_the_architecture_is_refused_with_one_that_has_it(tmp_path: Path) -> None:
    checkpoint = {**LLAMA, "architectures": ["Starcoder2ForCausalLM"]}
    folder = write_files(tmp_path / "hf", {"config.json": json.dumps(checkpoint).encode()})
    filled = {**FILLED, "preprocessing": {"tokenizer_dir": str(folder)}}
    source_dir = write_upstream(tmp_path / "r", parameters=filled, engine=None)
    assert refusal(ConfigError, source_dir, "llmapi", trtllm_version="1.0.0") == (
        "error: the LLM API supports Starcoder2ForCausalLM since TensorRT-LLM 1.2\n"
        "  why:  1.0.0 was requested\n"
        "  try:  forge migrate ROOT/r --to llmapi --trtllm-version 1.2.1"
    )


def test_model_that_is_not_known_has_to_be_named(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r", engine=None)
    assert refusal(ConfigError, source_dir, "llmapi") == (
        "error: it is not known which model the repository serves\n"
        "  why:  neither its manifest, its engine nor its tokenizer's folder says so\n"
        "  try:  forge migrate ROOT/r --to llmapi --model MODEL"
    )
    folder = write_files(tmp_path / "hf", {"config.json": json.dumps(LLAMA).encode()})
    report = migrate(source_dir, "llmapi", model=str(folder))
    assert report.architecture == "LlamaForCausalLM"
    assert report.next_steps == (
        f"ln -s {folder} {tmp_path}/new/tensorrt_llm/1/checkpoint",
        f"forge serve {tmp_path}/new",
    )
    assert model_yaml(tmp_path / "new")["dtype"] == "auto"


def test_tokenizers_folder_says_which_model_it_is(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "hf", {"config.json": json.dumps(LLAMA).encode()})
    filled = {**FILLED, "preprocessing": {"tokenizer_dir": str(folder)}}
    source_dir = write_upstream(tmp_path / "r", parameters=filled, engine=None)
    report = migrate(source_dir, "llmapi")
    assert (report.model, report.architecture) == (str(folder), "LlamaForCausalLM")
    unknown = {**LLAMA, "architectures": ["NobodyForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(unknown), encoding="utf-8")
    text = refusal(CheckpointError, source_dir, "llmapi", output_dir=tmp_path / "other")
    assert "has the unknown architecture NobodyForCausalLM" in text


def test_release_that_builds_no_engines_is_refused(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r")
    assert refusal(ConfigError, source_dir, "1.3.0rc22") == (
        "error: TensorRT-LLM 1.3.0rc22 cannot build engines\n"
        "  why:  the last release that can is 1.2.1\n"
        "  try:  forge migrate ROOT/r --to llmapi"
    )
    assert refusal(ConfigError, source_dir, "llmapi", trtllm_version="0.20.0") == (
        "error: TensorRT-LLM 0.20.0 has no LLM API that Triton can serve\n"
        "  why:  the first release with it is 1.0.0\n"
        "  try:  forge migrate ROOT/r --to llmapi --trtllm-version 1.2.1"
    )
    assert refusal(ConfigError, source_dir, "triton") == (
        "error: --to triton is neither llmapi nor a release of TensorRT-LLM\n"
        "  try:  forge migrate ROOT/r --to llmapi"
    )
    assert refusal(ConfigError, source_dir, "1.2.1", trtllm_version="1.2.1") == (
        "error: --to 1.2.1 and --trtllm-version 1.2.1 both name a release\n"
        "  try:  forge migrate ROOT/r --to 1.2.1"
    )


def test_placeholder_where_a_value_has_to_be_is_named_with_its_line(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r")
    path = source_dir / "ensemble/config.pbtxt"
    path.write_text('name: "ensemble"\nmax_batch_size: ${triton_max_batch_size}\n', "utf-8")
    assert refusal(RenderError, source_dir, "llmapi") == (
        "error: ROOT/r/ensemble/config.pbtxt:2 still has a placeholder\n"
        "  why:  max_batch_size: ${triton_max_batch_size}\n"
        "  try:  fill it with fill_template.py first"
    )
    path.write_text("nonsense: 1\n", encoding="utf-8")
    assert refusal(RenderError, source_dir, "llmapi").startswith(
        "error: ROOT/r/ensemble/config.pbtxt is not a Triton ModelConfig\n  why:  1:1"
    )


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("kv_cache_free_gpu_mem_fraction", "90", "it must be above 0 and at most 1"),
        ("kv_cache_free_gpu_mem_fraction", "most", "it must be above 0 and at most 1"),
        ("max_tokens_in_paged_kv_cache", "0", "it must be a whole number, 1 or more"),
        ("enable_chunked_context", "maybe", "it must be true or false"),
    ],
)
def test_value_that_a_key_cannot_have_is_named(
    tmp_path: Path, name: str, value: str, why: str
) -> None:
    core = {**FILLED["tensorrt_llm"], name: value}
    source_dir = write_upstream(tmp_path / "r", parameters={**FILLED, "tensorrt_llm": core})
    assert refusal(ConfigError, source_dir, "llmapi") == (
        f"error: ROOT/r/tensorrt_llm/config.pbtxt has {name} {value!r}\n  why:  {why}"
    )


def test_scheduler_policy_that_nobody_knows_becomes_what_the_backend_takes(tmp_path: Path) -> None:
    core = {**FILLED["tensorrt_llm"], "batch_scheduler_policy": "static"}
    source_dir = write_upstream(tmp_path / "r", parameters={**FILLED, "tensorrt_llm": core})
    report = migrate(source_dir, "llmapi")
    assert fates(report, "changed")["tensorrt_llm.batch_scheduler_policy"] == (
        "model.yaml scheduler_config.capacity_scheduler_policy = guaranteed_no_evict"
    )


def test_postprocessing_of_a_stream_keeps_one_instance(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r", instances={"postprocessing": 3, "preprocessing": 4})
    report = migrate(source_dir, "1.2.1")
    assert fates(report, "changed")["postprocessing.instances"] == "instances = 1"
    assert fates(report, "carried")["preprocessing.instances"] == ""
    one_answer = write_upstream(tmp_path / "s", decoupled=False, instances={"postprocessing": 3})
    report = migrate(one_answer, "1.2.1", output_dir=tmp_path / "t")
    assert "postprocessing.instances" in fates(report, "carried")


@pytest.mark.parametrize(
    ("quantization", "dtype", "flags", "dropped"),
    [
        (
            {"quant_algo": "W8A8_SQ_PER_CHANNEL", "kv_cache_quant_algo": "INT8"},
            "float16",
            "--int8-sq --kv-cache int8",
            {},
        ),
        (
            {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
            "bfloat16",
            "--fp8 --kv-cache fp8",
            {},
        ),
        (
            {"quant_algo": "W4A8_SOMETHING", "kv_cache_quant_algo": "NVFP4"},
            "float16",
            "--fp16",
            {
                "engine.quantization": "forge build has no such precision; --fp16 is used instead",
                "engine.kv_cache": "forge build has no such KV cache",
            },
        ),
        (
            {"quant_algo": None, "kv_cache_quant_algo": None},
            "float32",
            "--fp16",
            {"engine.dtype": "forge build has no such precision; --fp16 is used instead"},
        ),
    ],
    ids=["smooth quant", "fp8", "unknown", "float32"],
)
def test_what_was_compiled_in_is_asked_for_again_or_named(
    tmp_path: Path, quantization: Any, dtype: str, flags: str, dropped: dict[str, str]
) -> None:
    pretrained = {**ENGINE["pretrained_config"], "dtype": dtype, "quantization": quantization}
    engine = {**ENGINE, "pretrained_config": pretrained}
    parameters = {**FILLED, "tensorrt_llm": {**FILLED["tensorrt_llm"], "max_beam_width": "4"}}
    source_dir = write_upstream(tmp_path / "llama", engine=engine, parameters=parameters)
    report = migrate(source_dir, "1.2.1")
    assert f" {flags} --tp 2 --max-batch-size 16 " in report.next_steps[0]
    assert " --max-beam-width 4 " in report.next_steps[0]
    found = fates(report, "dropped")
    assert {key: why for key, why in found.items() if key.startswith("engine.")} == dropped


def test_type_that_the_llm_api_is_not_given_is_named(tmp_path: Path) -> None:
    pretrained = {**ENGINE["pretrained_config"], "dtype": "float32"}
    source_dir = write_upstream(
        tmp_path / "llama", engine={**ENGINE, "pretrained_config": pretrained}
    )
    report = migrate(source_dir, "llmapi")
    assert fates(report, "changed")["engine.dtype"] == "model.yaml dtype = auto"


def test_release_can_be_said(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r", "0.18")
    report = migrate(source_dir, "llmapi", from_version="0.18.2")
    assert (report.source_release, report.source_release_origin) == ("0.18.2", "as given")
    report = migrate(source_dir, "llmapi", output_dir=tmp_path / "o")
    assert (report.source_release, report.source_release_origin) == ("0.16.0", "by its engine")


def test_output_in_the_way_is_left_alone(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r")
    mine = write_files(tmp_path / "mine", {"letter.txt": b"dear"})
    hint = "  try:  forge migrate ROOT/r --to llmapi --output ROOT/"
    (tmp_path / "mine-2").mkdir()
    assert refusal(ConfigError, source_dir, "llmapi", output_dir=mine) == (
        "error: ROOT/mine is in the way: it is not empty\n"
        f"  why:  migrate does not replace anything\n{hint}mine-3"
    )
    assert refusal(ConfigError, source_dir, "llmapi", output_dir=mine / "letter.txt") == (
        "error: ROOT/mine/letter.txt is in the way\n"
        f"  why:  it is not a folder\n{hint}mine/letter.txt-2"
    )
    stays = f"  why:  migrate does not change the old one\n{hint}r-migrated"
    assert refusal(ConfigError, source_dir, "llmapi", output_dir=source_dir) == (
        f"error: the new repository ROOT/r would overwrite the folder of the old one\n{stays}"
    )
    assert refusal(ConfigError, source_dir, "llmapi", output_dir=source_dir / "new") == (
        f"error: the new repository ROOT/r/new would be inside the old one, ROOT/r\n{stays}"
    )
    (tmp_path / "empty").mkdir()
    assert migrate(source_dir, "llmapi", output_dir=tmp_path / "empty").settings


def test_folder_that_is_no_engine_repository_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(ConfigError, empty, "llmapi") == (
        "error: ROOT/empty is not a model repository: no folder in it has a config.pbtxt"
    )
    other = write_files(tmp_path / "other", {"add/config.pbtxt": b'name: "add"'})
    assert refusal(ConfigError, other, "llmapi") == (
        "error: ROOT/other has no tensorrt_llm model, which serves the engine\n  why:  it has add"
    )
    text = refusal(
        ConfigError, EXAMPLES_DIR / "llama-llmapi-1.2", "llmapi", output_dir=tmp_path / "x"
    )
    assert text.startswith("error: ROOT/llama-llmapi-1.2 already serves through the LLM API\n")
    text = refusal(
        ConfigError, EXAMPLES_DIR / "sample-openvino-1.2", "0.20", output_dir=tmp_path / "x"
    )
    assert text == (
        "error: ROOT/sample-openvino-1.2 is not a repository around a TensorRT engine\n"
        "  why:  its tensorrt_llm has the backend python; a twin must be built again"
    )


def test_tensors_of_no_release_are_refused(tmp_path: Path) -> None:
    config = b'name: "tensorrt_llm" backend: "tensorrtllm" input { name: "x" data_type: TYPE_FP32 }'
    source_dir = write_files(tmp_path / "r", {"tensorrt_llm/config.pbtxt": config})
    assert refusal(ConfigError, source_dir, "1.2.1") == (
        "error: the tensors of ROOT/r match no release of TensorRT-LLM that forge knows\n"
        "  why:  forge knows 0.16, 0.17, 0.18, 0.19, 0.20, 0.21, 1.0, 1.1, 1.2\n"
        "  try:  --from-version 0.16"
    )


def test_report_as_text_says_every_dropped_setting_and_every_step(tmp_path: Path) -> None:
    report = migrate(write_upstream(tmp_path / "llama"), "llmapi")
    text = report.text()
    for move in report.settings:
        assert f"{move.model}.{move.name} = {move.value}" in text
    for line in (*report.notes, *report.next_steps):
        assert f"\n  {line}" in text
    assert "  input random_seed -> sampling_param_seed\n" in text
    assert "gone, the llmapi model has no beam search: length_penalty, beam_width\n" in text
    assert replace(report, notes=()).text() != text


def test_manifest_says_release_and_model(tmp_path: Path) -> None:
    source_dir = write_upstream(tmp_path / "r", engine=None)
    document = json.loads(manifest_text([]))
    document["recipe"] = {"trtllm_version": "0.16.0"}
    hub = {"repo_id": "meta-llama/Llama-3.1-8B", "revision": "0" * 40, "origin": "hub"}
    document["checkpoint"].update(hub)
    engine = {"architecture": "LlamaForCausalLM"}
    files = {"forge.manifest.json": document, "tensorrt_llm/1/engine.json": engine}
    write_files(source_dir, {name: json.dumps(text).encode() for name, text in files.items()})
    report = migrate(source_dir, "llmapi")
    assert (report.source_release, report.source_release_origin) == ("0.16.0", "by its manifest")
    assert report.next_steps[0] == (
        f"hf download meta-llama/Llama-3.1-8B --revision {'0' * 40} "
        f"--local-dir {tmp_path}/new/tensorrt_llm/1/checkpoint"
    )
    document["checkpoint"].update({"repo_id": "sample", "origin": "sample"})
    (source_dir / "tensorrt_llm/1/engine.json").unlink()
    (source_dir / "forge.manifest.json").write_text(json.dumps(document), encoding="utf-8")
    text = refusal(ConfigError, source_dir, "llmapi", output_dir=tmp_path / "other")
    assert text.startswith("error: the LLM API does not support GPTBigCodeForCausalLM\n")


def test_unknown_release_is_refused_with_the_flag_that_migrate_takes(tmp_path: Path) -> None:
    assert refusal(ConfigError, write_upstream(tmp_path / "r", engine=None), "9.9") == (
        "error: TensorRT-LLM 9.9 is not a release that this forge knows\n"
        "  why:  it is newer than 1.4.0rc1, the last one known; releases_file can describe it\n"
        "  try:  forge migrate ROOT/r --to 1.2.1"
    )
