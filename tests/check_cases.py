"""For each rule of the linter, what breaks it in an otherwise sound repository."""

from __future__ import annotations

from dataclasses import replace as with_changes

from tests.check_fixtures import (
    ENGINE_DIR,
    OPTIONS,
    TOKENIZER_DIR,
    Case,
    all_of,
    append,
    drop_parameter,
    drop_tensor,
    engine,
    nothing,
    parameter,
    remove,
    replace,
    tensor,
    write,
)

CORE = "tensorrt_llm/config.pbtxt"
PRE = "preprocessing/config.pbtxt"
POST = "postprocessing/config.pbtxt"
BLS = "tensorrt_llm_bls/config.pbtxt"
ENSEMBLE = "ensemble/config.pbtxt"
YAML = "tensorrt_llm/1/model.yaml"
CHECKPOINT = "tensorrt_llm/1/checkpoint"
QUEUE = """dynamic_batching {
  preferred_batch_size: [64]
  max_queue_delay_microseconds: 0
  default_queue_policy: { max_queue_size: 0 }
}
"""
WIRE = 'input_map { key: "TOKENS_BATCH" value: "_TOKENS_BATCH" }'


def _core(key: str, value: str, code: str, base: str = "forge") -> Case:
    return Case(code, parameter("tensorrt_llm", key, value), base, CORE)


def _switch(value: str) -> Case:
    return Case(
        "FL315", parameter("preprocessing", "FORCE_CPU_ONLY_INPUT_TENSORS", value), path=PRE
    )


TEXT = (
    Case("FL101", replace(PRE, "input [", "input [ ] ]"), path=PRE),
    Case("FL102", replace(CORE, "max_batch_size: 64", "max_batch_size: ${batch}"), path=CORE),
    _core("gpt_model_type", "${batching_strategy}", "FL103"),
    _core("decoding_mode", "${decoding_mode}", "FL104"),
    Case("FL105", replace(PRE, "max_batch_size: 64", "max_batch: 64"), path=PRE),
    Case("FL106", lambda r: (r / PRE).write_bytes(b"# \xff\n" + (r / PRE).read_bytes()), path=PRE),
    Case(
        "FL107", lambda r: (r / PRE).write_bytes(b"\xef\xbb\xbf" + (r / PRE).read_bytes()), path=PRE
    ),
    Case(
        "FL108",
        lambda r: (r / PRE).write_bytes((r / PRE).read_bytes().replace(b"\n", b"\r\n")),
        path=PRE,
    ),
    _core("enable_kv_cache_reuse", " true", "FL109"),
)
MODELS = (
    Case("FL110", remove(PRE), path="preprocessing"),
    Case("FL111", write("notes/readme.txt", "x"), path="notes"),
    Case("FL112", replace(PRE, 'name: "preprocessing"', 'name: "preprocess"'), path=PRE),
    Case("FL113", replace(PRE, 'backend: "python"\n', ""), path=PRE),
    Case("FL114", replace(CORE, '"tensorrtllm"', '"tensorrt_llm"'), path=CORE),
    Case("FL115", replace(ENSEMBLE, 'platform: "ensemble"\n', ""), path=ENSEMBLE),
    Case("FL116", remove("ensemble/1"), path="ensemble"),
    Case("FL117", write("preprocessing/v2/model.py", ""), path="preprocessing/v2"),
    Case("FL118", remove("postprocessing/1/model.py"), path="postprocessing/1"),
    Case(
        "FL119", write("postprocessing/1/model.py", "def f(:\n"), path="postprocessing/1/model.py"
    ),
    Case("FL120", append(PRE, "version_policy { specific { versions: [3] } }\n"), path=PRE),
    Case(
        "FL121",
        append(PRE, 'parameters: { key: "tokenizer_dir" value: { string_value: "b" } }\n'),
        path=PRE,
    ),
    Case(
        "FL122",
        replace(
            PRE, "output [", 'output { name: "INPUT_ID" data_type: TYPE_INT32 dims: -1 }\noutput ['
        ),
        path=PRE,
    ),
    Case("FL123", tensor("preprocessing", "QUERY", "dims: [1]", "dims: [0]"), path=PRE),
    Case("FL124", write(PRE, 'name: "preprocessing"\nbackend: "python"\n'), path=PRE),
)
PARTS = (
    Case("FL125", replace(CORE, '"tensorrtllm"', '"tensorrt"'), path=CORE),
    Case(
        "FL128",
        tensor("postprocessing", "OUTPUT", "dims: [-1]", 'dims: [-1]\n label_filename: "a.txt"'),
        path=POST,
    ),
    Case("FL126", write("postprocessing/1/model.py", ""), path="postprocessing/1/model.py"),
    Case("FL127", remove("postprocessing/1/detokenizer.py"), path="postprocessing/1/model.py"),
    _core("xgrammar_tokenizer_info_path", "/models/tensorrt_llm/info.json", "FL415"),
)
CHAIN = (
    Case(
        "FL201",
        replace(ENSEMBLE, 'model_name: "tensorrt_llm"', 'model_name: "tensorrt-llm"'),
        path=ENSEMBLE,
    ),
    Case("FL202", replace(ENSEMBLE, "model_version: -1", "model_version: 3"), path=ENSEMBLE),
    Case("FL203", replace(ENSEMBLE, 'key: "TOKENS_BATCH"', 'key: "TOKEN_BATCH"'), path=ENSEMBLE),
    Case("FL204", replace(ENSEMBLE, WIRE, ""), path=ENSEMBLE),
    Case(
        "FL205",
        replace(ENSEMBLE, WIRE, WIRE.replace('_TOKENS_BATCH" }', '_TOKENS" }')),
        path=ENSEMBLE,
    ),
    Case("FL206", tensor("ensemble", "max_tokens", "TYPE_INT32", "TYPE_INT64"), path=ENSEMBLE),
    Case("FL207", tensor("ensemble", "temperature", "dims: [1]", "dims: [2]"), path=ENSEMBLE),
    Case(
        "FL208",
        replace(ENSEMBLE, 'key: "OUTPUT" value: "text_output"', 'key: "OUTPUT" value: "text"'),
        path=ENSEMBLE,
    ),
    Case(
        "FL209",
        replace(ENSEMBLE, 'value: "_STOP_WORDS_IDS"', 'value: "_BAD_WORDS_IDS"'),
        path=ENSEMBLE,
    ),
    Case("FL210", drop_tensor("ensemble", "acceptance_rate"), path=ENSEMBLE),
    Case("FL211", replace(ENSEMBLE, 'input_map { key: "seed" value: "seed" }', ""), path=ENSEMBLE),
    Case(
        "FL212",
        tensor("ensemble", "max_tokens", "dims: [1]", "dims: [1]\n    optional: true"),
        path=ENSEMBLE,
    ),
    Case("FL213", replace(ENSEMBLE, WIRE, f"{WIRE} {WIRE}"), path=ENSEMBLE),
    Case("FL220", parameter("tensorrt_llm_bls", "tensorrt_llm_model_name", "llm"), path=BLS),
    Case("FL221", replace(BLS, "decoupled: true", "decoupled: false"), path=BLS),
    Case("FL222", replace(CORE, "decoupled: true", "decoupled: false"), path=CORE),
    Case("FL223", append(POST, "model_transaction_policy { decoupled: true }\n"), path=POST),
    Case("FL224", replace(ENSEMBLE, "max_batch_size: 64", "max_batch_size: 65"), path=ENSEMBLE),
    Case("FL225", replace(POST, "max_batch_size: 64", "max_batch_size: 32"), path=POST),
    Case("FL226", replace(CORE, "max_batch_size: 64", "max_batch_size: 0"), path=CORE),
    Case(
        "FL227", replace(PRE, "preferred_batch_size: [64]", "preferred_batch_size: [65]"), path=PRE
    ),
    Case(
        "FL229",
        replace(PRE, "  default_queue_policy", "  priority_levels: 2\n  default_queue_policy"),
        path=PRE,
    ),
    Case("FL228", all_of(remove("ensemble"), remove("tensorrt_llm_bls"))),
)
CONTRACT = (
    Case("FL301", drop_tensor("tensorrt_llm", "output_ids"), path=CORE),
    Case("FL302", drop_tensor("tensorrt_llm", "draft_input_ids"), path=CORE),
    Case("FL303", replace(BLS, 'name: "seed"', 'name: "random_seed"'), path=BLS),
    Case("FL304", tensor("tensorrt_llm", "seed", "TYPE_UINT64", "TYPE_INT32"), path=CORE),
    Case(
        "FL305", tensor("tensorrt_llm", "stop_words_list", "dims: [2, -1]", "dims: [-1]"), path=CORE
    ),
    Case(
        "FL306",
        tensor(
            "tensorrt_llm", "input_lengths", "dims: [1]\n    reshape: { shape: [] }", "dims: [1]"
        ),
        path=CORE,
    ),
    Case(
        "FL307",
        tensor("tensorrt_llm_bls", "stop_words", "optional: true", "optional: false"),
        path=BLS,
    ),
    Case("FL308", tensor("tensorrt_llm_bls", "context_logits", "TYPE_FP32", "TYPE_BF16"), path=BLS),
    Case("FL328", replace(CORE, "    allow_ragged_batch: true\n", ""), path=CORE),
    Case("FL309", replace(CORE, QUEUE, ""), path=CORE),
)
PARAMETERS = (
    Case("FL310", replace(CORE, '"max_beam_width"', '"max_beam_widht"'), path=CORE),
    _core("enable_trt_overlap", "true", "FL311"),
    Case("FL312", drop_parameter("tensorrt_llm", "gpt_model_type"), path=CORE),
    _core("max_beam_width", "one", "FL313"),
    _core("kv_cache_free_gpu_mem_fraction", "90", "FL314"),
    _core("enable_kv_cache_reuse", "on", "FL315"),
    _switch(""),
    _switch("No"),
    _switch("${switch}"),
    _core("batch_scheduler_policy", "guaranteed_noevict", "FL316"),
    _core("gpt_model_type", "inflight_batcher", "FL317"),
    _core("gpt_model_type", "V1", "FL318"),
    _core("lookahead_window_size", "7", "FL319"),
    _core("medusa_choices", "0,0", "FL320"),
    _core("guided_decoding_backend", "xgrammar", "FL321"),
    _core("gpu_device_ids", "0:1", "FL322"),
    Case(
        "FL323",
        parameter("tensorrt_llm", "lora_prefetch_dir", "${lora_prefetch_dir}"),
        path=CORE,
        options=with_changes(OPTIONS, trtllm_version="0.19"),
    ),
    Case(
        "FL324",
        all_of(
            parameter("tensorrt_llm", "max_beam_width", "2"),
            parameter("tensorrt_llm_bls", "accumulate_tokens", "true"),
        ),
        path=BLS,
    ),
    _core("executor_worker_path", "/opt/trtllmExecutorWorker", "FL326"),
    Case("FL327", append(PRE, 'parameters: { value: { string_value: "b" } }\n'), path=PRE),
    Case("FL325", append(PRE, 'parameters: { key: "max_num_images" value: { } }\n'), path=PRE),
)
ENGINE = (
    Case("FL401", remove(ENGINE_DIR), path=CORE),
    Case("FL402", all_of(remove(ENGINE_DIR), write(f"{ENGINE_DIR}/.keep", "")), path=CORE),
    Case("FL403", write(f"{ENGINE_DIR}/config.json", '{"version": '), path=CORE),
    Case(
        "FL404",
        all_of(
            remove(ENGINE_DIR),
            write(f"{ENGINE_DIR}/config.json", '{"architectures": ["A"]}'),
            write(f"{ENGINE_DIR}/model.safetensors", "x"),
        ),
        path=CORE,
    ),
    Case("FL405", engine(build_config=None), path=CORE),
    Case("FL406", engine(pretrained_config__mapping__tp_size=2), path=CORE),
    Case("FL407", write(f"{ENGINE_DIR}/rank0.engine", b""), path=CORE),
    Case("FL408", write(f"{ENGINE_DIR}/rank1.engine", "x"), path=CORE),
    Case("FL409", engine(version="1.1.0"), path=CORE),
    Case("FL410", nothing, path=CORE, broken_options=with_changes(OPTIONS, world_size=2)),
    _core("gpu_device_ids", "0,1", "FL411"),
    Case(
        "FL412",
        nothing,
        path=CORE,
        options=with_changes(OPTIONS, gpu="h100-80g"),
        broken_options=with_changes(OPTIONS, gpu="a100-80g"),
    ),
    _core("gpt_model_path", ENGINE_DIR, "FL413"),
    Case(
        "FL414",
        lambda root: parameter("tensorrt_llm", "gpt_model_path", str(root / ENGINE_DIR))(root),
        path=CORE,
    ),
    Case("FL420", engine(build_config__max_batch_size=8), path=CORE),
    _core("max_beam_width", "4", "FL421"),
    Case("FL422", engine(build_config__plugin_config__use_paged_context_fmha=False), path=CORE),
    Case("FL423", engine(build_config__plugin_config__use_paged_context_fmha=False), path=CORE),
    _core("decoding_mode", "medusa", "FL424"),
    Case("FL425", engine(build_config__kv_cache_type="CONTINUOUS"), path=CORE),
    _core("lora_cache_max_adapter_size", "64", "FL426"),
    _core("max_attention_window_size", "4096", "FL427"),
    Case("FL428", engine(pretrained_config__logits_dtype="float16"), path=CORE),
    _core("max_tokens_in_paged_kv_cache", "32", "FL501"),
    Case(
        "FL502",
        all_of(
            replace(CORE, "count: 1", "count: 2"),
            parameter("tensorrt_llm", "kv_cache_free_gpu_mem_fraction", "0.9"),
        ),
        path=CORE,
    ),
    Case(
        "FL503",
        all_of(
            parameter("tensorrt_llm", "kv_cache_host_memory_bytes", "1000000"),
            parameter("tensorrt_llm", "enable_kv_cache_reuse", "false"),
        ),
        path=CORE,
    ),
    _core("cross_kv_cache_fraction", "0.5", "FL504"),
    _core("kv_cache_free_gpu_mem_fraction", "0.99", "FL505"),
)
TOKENIZER = (
    Case("FL601", remove(TOKENIZER_DIR), path=PRE),
    Case("FL602", remove(f"{TOKENIZER_DIR}/tokenizer.json"), path=PRE),
    Case("FL603", write(f"{TOKENIZER_DIR}/tokenizer.json", "version https://git-lfs"), path=PRE),
    Case(
        "FL604",
        write(f"{TOKENIZER_DIR}/tokenizer.json", '{"added_tokens": [{"id": 16, "content": "b"}]}'),
        path=PRE,
    ),
    Case(
        "FL605",
        write(f"{TOKENIZER_DIR}/tokenizer_config.json", '{"model_max_length": 64}'),
        path=PRE,
    ),
    Case(
        "FL606",
        write(
            f"{TOKENIZER_DIR}/tokenizer.json", '{"added_tokens": [{"id": 99, "content": "<end>"}]}'
        ),
        path=PRE,
    ),
    Case(
        "FL607", parameter("preprocessing", "tokenizer_dir", "bigcode/starcoder"), "upstream", PRE
    ),
    Case(
        "FL608", write(f"{TOKENIZER_DIR}/tokenizer_config.json", '{"eos_token": "<end>"}'), path=PRE
    ),
    Case(
        "FL609",
        write(
            f"{TOKENIZER_DIR}/tokenizer_config.json",
            '{"eos_token": "<end>", "auto_map": {"AutoTokenizer": ["a.B", null]}}',
        ),
        path=PRE,
    ),
    Case(
        "FL610", parameter("postprocessing", "tokenizer_dir", "/models/preprocessing/1"), path=POST
    ),
    Case(
        "FL611",
        all_of(
            remove(f"{TOKENIZER_DIR}/tokenizer.json"),
            write(f"{TOKENIZER_DIR}/tokenizer.model", "x"),
        ),
        path=PRE,
    ),
)
SERVING = (
    Case("FL701", replace(CORE, "count: 1", "count: 2"), path=CORE),
    Case("FL702", replace(POST, "count: 1", "count: 2"), path=POST),
    Case("FL703", remove("tensorrt_llm_bls/1/model_folder.py"), path=BLS),
    Case("FL704", append(POST, "dynamic_batching { }\n"), path=POST),
    Case("FL705", replace(PRE, "KIND_CPU", "KIND_GPU"), path=PRE),
    Case(
        "FL706",
        nothing,
        path="",
        options=with_changes(OPTIONS, shm_bytes=1 << 30),
        broken_options=with_changes(OPTIONS, shm_bytes=64 << 20),
    ),
    Case(
        "FL707",
        replace(PRE, "max_queue_delay_microseconds: 0", "max_queue_delay_microseconds: 2000000"),
        path=PRE,
    ),
    Case("FL708", replace(PRE, "count: 1", "count: -1"), path=PRE),
    Case(
        "FL709", append(ENSEMBLE, "instance_group [{ count: 1 kind: KIND_CPU }]\n"), path=ENSEMBLE
    ),
    Case("FL710", append(CORE, "response_cache { enable: true }\n"), path=CORE),
    Case("FL711", replace(PRE, "count: 1", "count: 1 gpus: [0]"), path=PRE),
    Case("FL801", write("preprocessing/1/table.pkl", b"x"), path="preprocessing/1/table.pkl"),
    Case(
        "FL802",
        append("preprocessing/1/model.py", f"\nTOKEN = 'hf_{'a' * 34}'\n"),
        path="preprocessing/1/model.py",
    ),
    Case(
        "FL803",
        lambda r: (r / "preprocessing/1/link.txt").symlink_to("/nowhere/x"),
        path="preprocessing/1/link.txt",
    ),
    Case(
        "FL804",
        lambda r: (r / "preprocessing/1/model.py").chmod(0o666),
        path="preprocessing/1/model.py",
    ),
    Case(
        "FL805",
        lambda r: (r / f"{ENGINE_DIR}/rank0.engine").chmod(0o000),
        path=f"{ENGINE_DIR}/rank0.engine",
    ),
)
LLMAPI = (
    Case("FL901", remove(YAML), "llmapi", YAML),
    Case("FL902", write(YAML, "model: [\n"), "llmapi", YAML),
    Case("FL903", append(YAML, "max_batchsize: 4\n"), "llmapi", YAML),
    Case("FL904", replace(YAML, "  decoupled: true", "  decupled: true"), "llmapi", YAML),
    Case("FL905", remove("tensorrt_llm/1/checkpoint"), "llmapi", YAML, with_changes(OPTIONS)),
    Case(
        "FL906",
        replace(YAML, "/models/tensorrt_llm/1/checkpoint", "bigcode/starcoder2-3b"),
        "llmapi",
        YAML,
    ),
    Case("FL907", replace(YAML, "decoupled: true", "decoupled: false"), "llmapi", YAML),
    Case("FL908", nothing, "llmapi", YAML, broken_options=with_changes(OPTIONS, world_size=2)),
    Case("FL909", replace(YAML, "fraction: 0.9", "fraction: 9"), "llmapi", YAML),
    Case("FL910", replace(YAML, "  max_batch_size: 0", "  max_batch_size: 8"), "llmapi", YAML),
    Case("FL902", append(YAML, "backend: pytorch\n"), "llmapi", YAML),
    Case("FL903", append(YAML, "tp_size: 2\n"), "llmapi", YAML),
    Case("FL903", replace(YAML, "free_gpu_memory_fr", "free_gpu_mem_fr"), "llmapi", YAML),
    Case("FL904", replace(YAML, "  decoupled: true", "  decoupled: maybe"), "llmapi", YAML),
    Case("FL904", replace(YAML, "  max_batch_size: 0\n  decoupled: true", "  - 0"), "llmapi", YAML),
    Case("FL911", replace(YAML, "backend: pytorch", "backend: tensorrt"), "llmapi", YAML),
    Case("FL911", replace(YAML, "max_batch_size: 64", "max_batch_size: -1"), "llmapi", YAML),
    Case("FL911", append(YAML, "trust_remote_code: maybe\n"), "llmapi", YAML),
    Case("FL911", append(YAML, "scheduler_config: NO_EVICT\n"), "llmapi", YAML),
    Case("FL912", remove(f"{CHECKPOINT}/config.json"), "llmapi", YAML),
    Case(
        "FL912",
        all_of(
            remove(f"{CHECKPOINT}/model.safetensors"),
            replace("tensorrt_llm/config.pbtxt", "Written by forge", "Written by hand"),
        ),
        "llmapi",
        YAML,
    ),
    Case("FL912", remove(f"{CHECKPOINT}/tokenizer.json"), "llmapi", YAML),
    Case(
        "FL912", write(f"{CHECKPOINT}/model.safetensors", "version https://git-lfs"), "llmapi", YAML
    ),
    Case(
        "FL912",
        write(
            f"{CHECKPOINT}/model.safetensors.index.json",
            '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
        ),
        "llmapi",
        YAML,
    ),
    Case(
        "FL912",
        lambda r: (r / CHECKPOINT / "model.safetensors").rename(r / CHECKPOINT / "model.bin"),
        "llmapi",
        YAML,
    ),
)
CASES = (
    *TEXT,
    *MODELS,
    *PARTS,
    *CHAIN,
    *CONTRACT,
    *PARAMETERS,
    *ENGINE,
    *TOKENIZER,
    *SERVING,
    *LLMAPI,
)
