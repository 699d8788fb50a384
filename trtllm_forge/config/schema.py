"""The schema of ``forge.yaml``: every key with its type, bounds, default and meaning.

::

    model: starcoder
    build:
      precision: int4
    repository:
      max_queue_size: 64

A field's name is its key, its flag (``--max-queue-size``) and its variable
(``FORGE_MAX_QUEUE_SIZE``), so names are unique over all sections; ``config.keys`` lists them. The
help of a key serves as help everywhere. Values are checked, never repaired: a wrong value, or two
values that contradict each other, is a ``ValueError``.
"""

# No `from __future__ import annotations`: key_of needs the types, not their text.
from dataclasses import dataclass, fields
from typing import Literal

from trtllm_forge.config.key import Pattern, is_key, key, key_of

Precision = Literal[
    "fp16",
    "bf16",
    "int8",
    "int4",
    "int4_awq",
    "int4_gptq",
    "w4a8_awq",
    "int8_sq",
    "fp8",
    "nvfp4",
]

ABSOLUTE_PATH = Pattern(expression=r"(?s)/.*", words="an absolute path", example="/models")
FOLDER_NAME = Pattern(
    expression=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    words="letters, digits, dots and dashes",
    example="my-model",
)
RELEASE = Pattern(
    expression=r"\d+\.\d+(\.\d+){0,2}(rc\d+)?(\.(post|dev)\d+)?",
    words="a release such as 1.2.1",
    example="1.2.1",
)

_RANKS = "ranks"
_LISTENING = "listening"
_RUNNING = "lifecycle"
_TRITON = "Triton"


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


@dataclass(frozen=True, kw_only=True)
class _Section:
    def __post_init__(self) -> None:
        for declared in fields(self):
            if is_key(declared):
                value = key_of(declared).read(getattr(self, declared.name))
                object.__setattr__(self, declared.name, value)
        self._require_agreement()

    def _require_agreement(self) -> None:
        """Raise ``ValueError`` if two values contradict each other."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSection(_Section):
    """Which checkpoint to use, and what in it to trust."""

    revision: str | None = key(
        None, "Branch, tag or commit on the Hub; defaults to the newest commit."
    )
    allow_pickle: bool = key(
        False, "Accept weights in pickle files, which can run code when they are loaded."
    )
    trust_remote_code: bool = key(False, "Run Python code that ships with the checkpoint.")


@dataclass(frozen=True, kw_only=True)
class BuildSection(_Section):
    """Precision and limits that are compiled into the artifact."""

    precision: Precision = key(
        "fp16",
        "Element type of the weights; int8 and int4 are weight-only.",
        has_flag_per_word=True,
    )
    kv_cache: Literal["int8", "fp8"] | None = key(
        None, "Element type of the KV cache; defaults to that of the activations."
    )
    group_size: int = key(128, "Number of weights that share one scale in int4.", least=1)
    int4_ratio: float = key(
        1.0,
        "Share of the layers quantised to int4; the rest become int8 (OpenVINO).",
        least=0,
        most=1,
    )
    tp_size: int = key(1, "Tensor parallel ranks.", least=1, flag="--tp")
    pp_size: int = key(
        1, "Pipeline parallel ranks; the world size is tp_size times pp_size.", least=1, flag="--pp"
    )
    max_batch_size: int = key(64, "Maximum number of requests per step.", least=1, most=2048)
    max_seq_len: int | None = key(
        None,
        "Maximum prompt plus output tokens of a request; defaults to the checkpoint's own limit.",
        least=1,
    )
    max_num_tokens: int | None = key(
        None,
        "Maximum tokens per step over all requests; defaults to the runtime's own limit.",
        least=1,
    )
    max_beam_width: int = key(1, "Maximum beam width of a request.", least=1, most=256)
    calib_dataset: str | None = key(
        None,
        "Folder or Hub name of the calibration data; defaults to the release's own (TensorRT).",
    )
    calib_size: int = key(512, "Number of calibration samples (TensorRT).", least=1)
    gemm_plugin: Literal["auto", "float16", "bfloat16", "fp8", "nvfp4", "disable"] | None = key(
        None, "Plugin for matrix products; defaults to what suits the precision (TensorRT)."
    )
    workers: int | None = key(
        None,
        "Ranks to convert and compile at once; defaults to what the machine can hold (TensorRT).",
        least=1,
    )
    gather_context_logits: bool = key(
        False, "Keep the prompt's logits, which costs memory at every step (TensorRT)."
    )
    cuda_graphs: bool = key(
        True, "Capture decode steps as CUDA graphs: fewer kernel launches, more memory (llmapi)."
    )
    speculative: Literal["none", "prompt_lookup", "lookahead", "draft_tokens"] = key(
        "none",
        "Where draft tokens come from: the prompt's n-grams, lookahead decoding, or the client.",
    )
    max_draft_len: int | None = key(
        None, "Draft tokens per step; the default depends on the mode.", least=1
    )
    lookahead_window: int = key(
        7, "Columns in the window of lookahead decoding (TensorRT).", least=1
    )
    lookahead_ngram: int = key(7, "Tokens per n-gram of lookahead decoding (TensorRT).", least=1)
    lookahead_verification: int = key(
        7, "N-grams that lookahead decoding verifies per step (TensorRT).", least=0
    )
    lora_dir: str | None = key(
        None, "Folder of the LoRA adapter to build the engine for (TensorRT)."
    )
    lora_target_modules: str | None = key(
        None,
        "Modules the adapter changes, comma-separated; defaults to the adapter's own (TensorRT).",
    )
    max_lora_rank: int = key(64, "Largest rank of a LoRA adapter (TensorRT).", least=1)


@dataclass(frozen=True, kw_only=True)
class RepositorySection(_Section):
    """Settings of the rendered model repository."""

    tokenizer_dir: str | None = key(
        None,
        "Folder of the tokenizer on the serving machine; if unset, the repository gets a copy.",
    )
    tokenizer_type: Literal["auto", "llama", "t5"] = key(
        "auto",
        "Class that writes tokenizer.json if the checkpoint has only a SentencePiece model.",
    )
    add_special_tokens: bool = key(True, "Let the tokenizer add its special tokens to the prompt.")
    skip_special_tokens: bool = key(True, "Leave special tokens out of the returned text.")
    decoupled: bool = key(True, "Allow many responses per request, which streaming needs.")
    kv_cache_free_gpu_mem_fraction: float | None = key(
        None,
        "Share of free memory for the KV cache; defaults to the preset's, else upstream's 0.9.",
        above=0,
        most=1,
    )
    max_tokens_in_paged_kv_cache: int | None = key(
        None,
        "Size of the KV cache in tokens; if the fraction is set too, the smaller one applies.",
        least=1,
    )
    batching_strategy: Literal["inflight_fused_batching"] = key(
        "inflight_fused_batching",
        "How requests share a step; with in-flight batching they join and leave at every step.",
    )
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = key(
        "guaranteed_no_evict",
        "guaranteed_no_evict never pauses a started request; max_utilization fills every step.",
    )
    enable_kv_cache_reuse: bool = key(
        True, "Share KV cache blocks between requests with a common prefix."
    )
    enable_chunked_context: bool = key(
        True, "Split a long prompt over several steps, so that other requests keep decoding."
    )
    exclude_input_in_output: bool = key(
        False,
        "Leave the prompt out of an unstreamed answer, unless the request says otherwise.",
    )
    stream_interval_ms: int = key(
        100,
        "Longest time to batch streamed tokens; shorter with few streams, 0 sends each (OpenVINO).",
        least=0,
        most=1000,
    )
    engine_threads: int = key(
        0,
        "Engine threads; 0 uses all cores, or one fewer for a small engine (OpenVINO).",
        least=0,
        most=1024,
    )
    max_queue_size: int = key(
        0, "Requests that may wait before new ones are refused; 0 means no limit.", least=0
    )
    max_queue_delay_microseconds: int = key(
        0, "Microseconds that Triton may hold a request to batch its tokenization.", least=0
    )
    preprocessing_instances: int = key(1, "Processes that tokenize prompts.", least=1, most=256)
    postprocessing_instances: int = key(
        1, "Processes that turn output tokens into text.", least=1, most=256
    )
    bls_instances: int = key(1, "Processes of the BLS model.", least=1, most=256)
    accumulate_tokens: bool = key(
        False, "Send all the text so far in each streamed response of the BLS model."
    )
    mount_root: str = key(
        "/models",
        "Where the serving machine mounts the model repository (TensorRT engines).",
        pattern=ABSOLUTE_PATH,
    )
    fast_math: bool = key(
        False, "Compute in bf16 with an 8-bit KV cache: faster, but not exact (OpenVINO)."
    )

    def _require_agreement(self) -> None:
        if self.decoupled and self.postprocessing_instances > 1:
            message = (
                "postprocessing_instances above 1 needs decoupled: false, because the chunks of a "
                "stream have to reach the same instance"
            )
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class CheckSection(_Section):
    """Which linter rules apply, in ``forge check`` and before publishing."""

    select: str | None = key(
        None, "Rules to apply: comma-separated codes or code prefixes; defaults to all."
    )
    ignore: str | None = key(None, "Rules to skip: comma-separated codes or code prefixes.")

    @property
    def selected(self) -> tuple[str, ...]:
        """Return the codes of ``select``; an empty tuple means all rules."""
        return _split(self.select)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Return the codes of ``ignore``."""
        return _split(self.ignore)


@dataclass(frozen=True, kw_only=True)
class ServeSection(_Section):
    """How a server is started, where it listens, and how it is kept running."""

    world_size: int | None = key(
        None, "Ranks to start; defaults to the engine's world size.", least=1, panel=_RANKS
    )
    mode: Literal["leader", "orchestrator"] | None = key(
        None, "How ranks work together; defaults to what fits the engines.", panel=_RANKS
    )
    launcher: Literal["mpirun", "srun"] | None = key(
        None,
        "What starts the ranks; defaults to srun in a Slurm allocation, else mpirun.",
        panel=_RANKS,
    )
    hostfile: str | None = key(None, "File listing the hosts to start ranks on.", panel=_RANKS)
    oversubscribe: bool = key(False, "Allow more ranks than cores or slots.", panel=_RANKS)
    host: str = key("127.0.0.1", "Address to listen on.", panel=_LISTENING)
    http_port: int | None = key(
        None,
        "Port of Triton's HTTP service; defaults to a free one.",
        least=1,
        most=65535,
        panel=_LISTENING,
    )
    grpc_port: int | None = key(
        None,
        "Port of Triton's gRPC service; defaults to a free one.",
        least=1,
        most=65535,
        panel=_LISTENING,
    )
    metrics_port: int | None = key(
        None,
        "Port of Triton's metrics; defaults to a free one.",
        least=1,
        most=65535,
        panel=_LISTENING,
    )
    grpc_tls_cert: str | None = key(
        None,
        "TLS certificate of the gRPC service, in PEM; if unset, gRPC is not encrypted.",
        panel=_LISTENING,
    )
    grpc_tls_key: str | None = key(
        None,
        "Private key of that certificate, in PEM, without a passphrase.",
        panel=_LISTENING,
    )
    grpc_tls_ca: str | None = key(
        None,
        "Certificate authorities, in PEM, that must have signed gRPC client certificates.",
        panel=_LISTENING,
    )
    ready_timeout_s: float | None = key(
        None,
        "Seconds until the server must be ready; the default depends on the size of what it loads.",
        above=0,
        panel=_RUNNING,
    )
    drain_timeout_s: float = key(
        30.0,
        "Seconds that running requests may take to finish when the server is stopped.",
        least=0,
        panel=_RUNNING,
    )
    restart: Literal["never", "on-failure"] = key(
        "never", "Whether to restart the server when it ends by itself.", panel=_RUNNING
    )
    max_restarts: int = key(
        5,
        "Restarts before giving up; the count resets after 10 minutes of being ready.",
        least=0,
        panel=_RUNNING,
    )
    triton: str = key(
        "auto",
        "Where Triton comes from: auto, wheel, docker, docker:IMAGE, or a path.",
        panel=_TRITON,
    )
    gpus: str | None = key(
        None,
        "GPUs for the container: all, indices or UUIDs; defaults to as many as are needed.",
        panel=_TRITON,
    )
    verify: Literal["times", "full", "off"] = key(
        "times",
        "What to compare with the manifest first: small files and times, every digest, or nothing.",
        panel=_TRITON,
    )

    def _require_agreement(self) -> None:
        if (self.grpc_tls_cert is None) is not (self.grpc_tls_key is None):
            message = "grpc_tls_cert and grpc_tls_key go together"
            raise ValueError(message)
        if self.grpc_tls_ca is not None and self.grpc_tls_cert is None:
            message = "grpc_tls_ca needs grpc_tls_cert and grpc_tls_key"
            raise ValueError(message)
        ports = [port for port in (self.http_port, self.grpc_port, self.metrics_port) if port]
        if len(set(ports)) < len(ports):
            message = "http_port, grpc_port and metrics_port must differ"
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class ForgeConfig(_Section):
    """Every key of ``forge.yaml``."""

    model: str | None = key(None, "Preset, Hub id, checkpoint folder, or sample.")
    name: str | None = key(
        None, "Name of the model repository; defaults to the model's.", pattern=FOLDER_NAME
    )
    runtime: Literal["auto", "trtllm", "llmapi", "openvino"] = key(
        "auto", "What executes the artifact; auto picks what this release and machine can build."
    )
    trtllm_version: str | None = key(
        None,
        "TensorRT-LLM release; defaults to the newest that has an image and supports the model.",
        pattern=RELEASE,
    )
    executor: Literal["auto", "local", "docker"] = key(
        "auto",
        "Where TensorRT-LLM's tools run: in this environment or in the release's Triton image.",
    )
    examples_dir: str | None = key(
        None, "TensorRT-LLM's examples folder, if the environment or the image has none."
    )
    gpu: str | None = key(
        None, "GPU the engine is for, such as h100-80g; defaults to the one in this machine."
    )
    offline: bool = key(False, "Download nothing: no Hub files, no image, no calibration data.")
    releases_file: str | None = key(
        None, "File describing TensorRT-LLM releases newer than this forge."
    )
    checkpoint: CheckpointSection = key(
        CheckpointSection(), "Which checkpoint to use, and what in it to trust."
    )
    build: BuildSection = key(
        BuildSection(), "Precision and limits that are compiled into the artifact."
    )
    repository: RepositorySection = key(
        RepositorySection(), "Settings of the rendered model repository."
    )
    check: CheckSection = key(
        CheckSection(),
        "Which linter rules apply, in `forge check` and before publishing.",
    )
    serve: ServeSection = key(
        ServeSection(), "How a server is started, where it listens, and how it is kept running."
    )
